"""A term on the attention logits of a module that is not edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention, softmax
from torch.overrides import TorchFunctionMode

from coterie.errors import ModelError

_SOFTMAX = (softmax, torch.softmax, Tensor.softmax)


class BiasedLogits(TorchFunctionMode):
    """While it is active, the softmax of the attention sees its logits plus a bias.

    It works for attention that is written out (the bias is added to what goes into the softmax) and for
    ``scaled_dot_product_attention`` (the bias is added to the mask), whatever the module around it looks like. That is
    why one class serves Swin, Swin-V2, whose logits are computed inside one function, and ViT.

    Args:
        bias: (tasks, tokens, tokens); the rows of the batch are ordered by task.
        prefix: class tokens before the others; they get a bias of 0.

    Attributes:
        seen: how often logits were found. It should be once a call of an attention module.

    Example:
        >>> with BiasedLogits(torch.tensor([[[0.0, 1e9], [0.0, 0.0]]])) as mode:
        ...     softmax(torch.zeros(1, 1, 2, 2), dim=-1).tolist(), mode.seen
        ([[[[0.0, 1.0], [0.5, 0.5]]]], 1)
    """

    def __init__(self, bias: Tensor, prefix: int = 0) -> None:
        super().__init__()
        self._bias = pad(bias, (prefix, 0, prefix, 0))
        self.seen = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Pass every function on; change the logits of two of them."""
        kwargs = dict(kwargs or {})
        if func in _SOFTMAX:
            logits = args[0] if args else kwargs.pop("input")
            return func(logits + self._for(logits, len(logits), logits.shape[-1]), *args[1:], **kwargs)
        if func is scaled_dot_product_attention:
            query, key = args[0], args[1]
            mask = args[3] if len(args) > 3 else kwargs.pop("attn_mask", None)
            bias = self._for(query, len(query), key.shape[-2])
            return func(*args[:3], _on_mask(mask, bias), *args[4:], **kwargs)
        return func(*args, **kwargs)

    def _for(self, like: Tensor, rows: int, tokens: int) -> Tensor:
        """(rows or 1, 1, tokens, tokens) bias for a batch of rows."""
        self.seen += 1
        if self._bias.shape[-1] != tokens:
            raise ModelError(
                f"The adapters were made for {self._bias.shape[-1]} tokens in the attention. Found {tokens}. The "
                "likely cause is an image of another size than that of the backbone's configuration. Resize the images."
            )
        bias = self._bias if len(self._bias) == 1 else self._bias.repeat_interleave(rows // len(self._bias), 0)
        return bias[:, None].to(like.dtype)


def _on_mask(mask: Tensor | None, bias: Tensor) -> Tensor:
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias.masked_fill(~mask, float("-inf"))
    return mask + bias
