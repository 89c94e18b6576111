"""Means of losses in which labels have weights."""

from __future__ import annotations

import torch
from torch import Tensor


def pooled(losses: Tensor, observed: Tensor, weights: Tensor | None, total: Tensor | None = None) -> Tensor:
    """Weighted mean of the observed losses over rows and tasks, (...) of losses (..., rows, tasks).

    Args:
        losses: any finite value where a label is missing.
        observed: bool, where labels are known.
        weights: of the labels; None counts them.
        total: what is divided by in place of the sum of the weights.

    Labels whose weights are all 0 have a mean of 0, so that they move nothing.

    Example:
        >>> ones = torch.ones(2, 1, dtype=torch.bool)
        >>> float(pooled(torch.tensor([[1.0], [5.0]]), ones, torch.tensor([[3.0], [1.0]])))
        2.0
    """
    share = torch.where(observed, 1.0 if weights is None else weights, 0.0)
    total = share.sum((-2, -1)) if total is None else total
    return (losses * share).sum((-2, -1)) / torch.where(total > 0, total, 1.0)


def weighted(losses: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
    """Losses (..., rows, tasks) whose plain mean over the known labels of a task is their weighted mean.

    Example:
        >>> seen = torch.tensor([[True], [True], [False]])
        >>> found = weighted(torch.tensor([[1.0], [5.0], [9.0]]), seen, torch.tensor([[3.0], [1.0], [7.0]]))
        >>> float(found[:2].mean())
        2.0
    """
    share = torch.where(observed, weights, 0.0)
    total = share.sum(-2, keepdim=True)
    return losses * share * (observed.sum(-2, keepdim=True) / torch.where(total > 0, total, 1.0))
