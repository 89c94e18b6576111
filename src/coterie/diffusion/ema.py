"""Exponential moving average of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coterie._check import is_number
from coterie.errors import SettingError


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a model whose weights follow it slowly: ``average = decay average + (1 - decay) weights`` each time.

    Call ``update_parameters(model)`` after every step of the optimiser; ``.module`` is the averaged model. The first
    update takes the weights as they are, and the next ones have the lower decay ``(1 + n) / (10 + n)`` after n updates,
    or the first weights would stay in the average for long. Buffers are copied.

    Args:
        model: that is trained.
        decay: from 0 (no averaging) to below 1.

    Raises:
        SettingError: when the decay is out of range.

    Source: the usual form; the lower decay at the start is that of the common implementations of diffusion models.

    Example:
        >>> averaged = moving_average(nn.Linear(1, 1), 0.99)
        >>> averaged.update_parameters(nn.Linear(1, 1))
        >>> int(averaged.n_averaged)
        1
    """
    if not is_number(decay) or not 0 <= decay < 1:
        raise SettingError(f"Parameter `ema` should be a decay of at least 0 and below 1. Found {decay!r}.")

    def follow(averages: Any, current: Any, updates: Tensor | int) -> None:
        n = int(updates)
        rate = 1 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, current, rate)  # pyright: ignore[reportPrivateImportUsage]

    return AveragedModel(model, multi_avg_fn=follow)
