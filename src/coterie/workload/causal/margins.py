"""Log-odds of whole answers from the log-odds of their tokens, without cancellation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

#: token log-odds above this have -log p = exp(-h) (1 - exp(-h) / 2) to single precision
_SURE = 12.0
#: log of the sum s of -log p below which log((exp(s) - 1) / s) is taken from its series
_LOG_SMALL = -3.5
#: log of "no token": far below every real value, and finite
_NOTHING = -1e30


def sequence_margin(tokens: Tensor, present: Tensor, *, per_token: bool = False) -> Tensor:
    """Log-odds h = log(p / (1 - p)) of answers, p the product of the probabilities of their tokens.

    ``softplus(-h)`` is -log p exactly. Everything is computed from log(-log p), so that values and gradients are finite
    and keep their digits for p near 1 (h is linear in the log-odds of the tokens there) and for p near 0.

    Args:
        tokens: (..., A) log-odds of each right token given the tokens before it.
        present: (..., A) bool; positions without a token do not count.
        per_token: p is the geometric mean over the tokens instead of the product; the loss is then the mean loss a
            token, and long answers do not outweigh short ones.

    Returns:
        (...) log-odds in nats, higher is better; 0 for rows without any token.

    Source: a reconstruction; the margin of Grad-TAE for text is that of the first answer token in the released code.

    Example:
        >>> h = torch.tensor([0.0, 0.0])  # two tokens of probability 1/2: odds of 1 to 3
        >>> round(float(sequence_margin(h, torch.tensor([True, True])).exp()), 6)
        0.333333
    """
    log_total = torch.logsumexp(torch.where(present, _log_loss(tokens), _NOTHING), -1)
    count = present.sum(-1)
    if per_token:
        log_total = log_total - count.clamp(min=1).to(log_total.dtype).log()
    margin = _log_odds(torch.where(count > 0, log_total, 0.0))
    return torch.where(count > 0, margin, 0.0)


def _log_loss(tokens: Tensor) -> Tensor:
    """log(-log p) of tokens with log-odds h, that is log(softplus(-h))."""
    sure = tokens > _SURE
    high = torch.where(sure, tokens, _SURE)  # both branches are finite everywhere, and so are their gradients
    low = torch.where(sure, 0.0, tokens)
    return torch.where(sure, -high - 0.5 * torch.exp(-high), torch.log(softplus(-low)))


def _log_odds(log_total: Tensor) -> Tensor:
    """log(p / (1 - p)) = -log(exp(s) - 1) for log s, s = -log p."""
    small, large = log_total < _LOG_SMALL, log_total > 0
    tiny = torch.exp(torch.where(small, log_total, _LOG_SMALL))
    big = torch.exp(torch.where(large, log_total, 0.0))
    middle = torch.exp(torch.where(small | large, 0.0, log_total))
    near_one = -log_total - tiny / 2 - tiny**2 / 24
    near_zero = -big - torch.log1p(-torch.exp(-big))
    return torch.where(small, near_one, torch.where(large, near_zero, -torch.log(torch.expm1(middle))))
