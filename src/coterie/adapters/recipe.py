"""How dense tasks are trained, and what is kept of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._check import is_number, is_whole
from coterie._surface import known_arguments
from coterie.errors import SettingError

#: the height over the learning rate after the last step, that of OneCycleLR
_LAST = 25 * 1e4


@known_arguments
@dataclass(frozen=True)
class DenseRecipe:
    """How dense tasks are trained: AdamW with one cycle of the learning rate, as in the source.

    Attributes:
        steps: number of steps, at least 1.
        batch_size: images a step, at least 1.
        learning_rate: at its height, after `warm_up` of the steps; above 0.
        weight_decay: of AdamW, from 0 on.
        betas: of AdamW, two numbers from 0 to below 1.
        warm_up: share of the steps, between 0 and 1. Where it comes to no step (with 0.1, up to 9 steps), the learning
            rate starts at its height.
        max_norm: to which gradients are clipped, above 0; infinity clips nothing.

    Raises:
        SettingError: for a value that is out of range or of another type.
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    warm_up: float = 0.1
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        betas: Any = self.betas
        pair = isinstance(betas, tuple | list) and len(betas) == 2
        rate, decay = self.learning_rate, self.weight_decay
        wanted = {
            "steps": (is_whole(self.steps) and self.steps >= 1, "a whole number from 1 on"),
            "batch_size": (is_whole(self.batch_size) and self.batch_size >= 1, "a whole number from 1 on"),
            "learning_rate": (is_number(rate) and 0 < rate < math.inf, "above 0 and finite"),
            "weight_decay": (is_number(decay) and 0 <= decay < math.inf, "from 0 on and finite"),
            "betas": (pair and all(is_number(b) and 0 <= b < 1 for b in betas), "two numbers from 0 to below 1"),
            "warm_up": (is_number(self.warm_up) and 0 < self.warm_up < 1, "between 0 and 1"),
            "max_norm": (is_number(self.max_norm) and self.max_norm > 0, "above 0; infinity clips nothing"),
        }
        for name, (good, words) in wanted.items():
            if not good:
                raise SettingError(f"Parameter `{name}` of a recipe should be {words}. Found {getattr(self, name)!r}.")


@dataclass(frozen=True, eq=False)
class DenseTraining:
    """What a training was like.

    Attributes:
        losses: (steps, tasks) losses before each step, columns in the order of `tasks`.
        tasks: names.
        seconds: a step, the median.
        trainable: numbers that were trained.
        bytes: memory of all parameters, trained or not, and of gradients and both moments of the trained ones.
        troa_bytes: memory of TROA's mean gradients, one of the shared parameters a task, which come on top; 0 without.
        omega: (steps, sources, targets) of TROA after each step; None without.
    """

    losses: NDArray[np.float64]
    tasks: tuple[str, ...]
    seconds: float
    trainable: int
    bytes: int
    omega: NDArray[np.float64] | None = None
    troa_bytes: int = 0


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Rows of each step: all rows in a new order every epoch, the last incomplete batch of an epoch left out.

    Example:
        >>> [len(rows) for rows in batches(10, 4, 3, seed=0)]
        [4, 4, 4]
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(size, count)
    done = 0
    while done < steps:
        for rows in torch.randperm(count, generator=generator).split(size)[: min(count // size, steps - done)]:
            done += 1
            yield rows


def one_cycle(adam: torch.optim.Optimizer, recipe: DenseRecipe) -> Any:
    """The learning rate of every step: up to the recipe's, then down by a cosine; down at once without a warm-up."""
    # one step more than are made: the scheduler itself steps once at its start
    total = recipe.steps + 1
    if recipe.warm_up * total <= 1:
        # the height would lie at the first step or before it, where OneCycleLR divides by 0 or starts on the way down
        return torch.optim.lr_scheduler.CosineAnnealingLR(adam, recipe.steps, eta_min=recipe.learning_rate / _LAST)
    return torch.optim.lr_scheduler.OneCycleLR(
        adam, recipe.learning_rate, total_steps=total, pct_start=recipe.warm_up, cycle_momentum=False
    )
