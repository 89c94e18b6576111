"""Naive margins of a causal language model: one row and one token at a time, probabilities multiplied."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def next_logits(model: Any, ids: list[int]) -> Tensor:
    """Logits of the token after `ids`, double precision; an ordinary call without mask or padding."""
    return model(input_ids=torch.tensor([ids])).logits[0, -1].double()


def token_probabilities(model: Any, prompt: list[int], answer: list[int]) -> list[float]:
    """Probability of each answer token given all tokens before it."""
    found = []
    for index, token in enumerate(answer):
        logits = next_logits(model, [*prompt, *answer[:index]])
        found.append(float(torch.softmax(logits, -1)[token]))
    return found


def sequence_log_odds(model: Any, prompt: list[int], answer: list[int], *, per_token: bool = False) -> float:
    """log(p / (1 - p)), p the product of the token probabilities, or their geometric mean."""
    probabilities = token_probabilities(model, prompt, answer)
    p = math.prod(probabilities)
    if per_token:
        p = p ** (1 / len(probabilities))
    return math.log(p / (1 - p))


def word_log_odds(model: Any, prompt: list[int], words: list[int], right: int) -> float:
    """Log-odds of the right one among the words, all other tokens left out."""
    p = torch.softmax(next_logits(model, prompt)[words], -1)[right]
    return float(torch.log(p / (1 - p)))
