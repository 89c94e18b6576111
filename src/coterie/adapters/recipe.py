"""How dense tasks are trained, and what is kept of a training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.errors import SettingError


@dataclass(frozen=True)
class DenseRecipe:
    """How dense tasks are trained: AdamW with one cycle of the learning rate, as in the source.

    Attributes:
        steps: number of steps.
        batch_size: images a step.
        learning_rate: at its height, after `warm_up` of the steps.
        weight_decay: of AdamW.
        betas: of AdamW.
        warm_up: share of the steps.
        max_norm: to which gradients are clipped.
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    warm_up: float = 0.1
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not self.learning_rate > 0 or not 0 < self.warm_up < 1:
            raise SettingError(
                "A recipe should have steps and batch_size of at least 1, a positive learning rate and a warm-up "
                f"between 0 and 1. Found {self}."
            )


@dataclass(frozen=True, eq=False)
class DenseTraining:
    """What a training was like.

    Attributes:
        losses: (steps, tasks) losses before each step, columns in the order of `tasks`.
        tasks: names.
        seconds: a step, the median.
        trainable: numbers that were trained.
        bytes: memory of all parameters, trained or not, and of gradients and both moments of the trained ones.
        omega: (steps, sources, targets) of TROA after each step; None without.
    """

    losses: NDArray[np.float64]
    tasks: tuple[str, ...]
    seconds: float
    trainable: int
    bytes: int
    omega: NDArray[np.float64] | None = None


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
    """The learning rate of every step: up to the recipe's, then down by a cosine."""
    # one step more than are made: the scheduler itself steps once at its start
    return torch.optim.lr_scheduler.OneCycleLR(
        adam, recipe.learning_rate, total_steps=recipe.steps + 1, pct_start=recipe.warm_up, cycle_momentum=False
    )
