"""A linear model over subsets that learns from really trained ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._surface import known_arguments
from coterie.affinity.surrogates.subset_regression import SubsetRegression
from coterie.affinity.surrogates.task_ridge import Kernel

Floats = NDArray[np.float64]


def membership(a: Floats, b: Floats) -> Floats:
    """Number of common tasks: the kernel of a linear model on membership."""
    return a @ b.T


@known_arguments
@dataclass(frozen=True)
class LinearSurrogate(SubsetRegression):
    """The value of a task as a sum of one effect for each partner, by ridge regression on really trained subsets.

    Each task has a regression of its own over the runs that hold it, with an intercept that is not penalised.

    Args:
        runs: different subsets that are trained, with common random numbers, or all where there are fewer; every task
            is in about ``runs * size / T`` of them.
        ridge: strength of the ridge; None chooses the one with the smallest leave-one-out error, for each task.

    Raises:
        SettingError: when a value is out of range, or the runs are too few for every task to be in two.

    Cost: `runs` trainings.

    Limits: a task has T - 1 effects and only few runs; effects of two partners together are not seen. Predictions for a
    task alone lie outside of what was trained.

    Source: Li, Nguyen, Zhang, "Identification of Negative Transfers in Multitask Learning Using Surrogate Models",
    arXiv 2303.14582; the choice of the ridge is ours.

    Example:
        >>> LinearSurrogate(runs=100).name
        'linear-surrogate'
    """

    ridge: float | None = None

    intercept: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Name of the method."""
        return "linear-surrogate"

    def _kernel(self, n_tasks: int) -> Kernel:
        del n_tasks
        return membership
