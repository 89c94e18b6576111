"""Task losses of a batch with missing labels."""

from __future__ import annotations

import torch
from torch import Tensor


def task_means(losses: Tensor, observed: Tensor) -> Tensor:
    """Mean loss of each task over the rows where its label is known; NaN for tasks without any.

    Dividing by a count of 0 would also give NaN, but its derivative would turn every gradient into NaN.

    Args:
        losses: (..., rows, tasks) with any finite value where a label is missing.
        observed: (..., rows, tasks) bool, where labels are known.

    Returns:
        (..., tasks).

    Example:
        >>> losses = torch.tensor([[1.0, 5.0, 0.0], [3.0, 0.0, 0.0]])
        >>> task_means(losses, torch.tensor([[True, True, False], [True, False, False]]))
        tensor([2., 5., nan])
    """
    count = observed.sum(-2)
    mean = torch.where(observed, losses, 0.0).sum(-2) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.nan)
