"""A kernel model over subsets that learns from really trained ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._surface import known_arguments
from coterie.affinity.surrogates.subset_regression import SubsetRegression
from coterie.affinity.surrogates.task_ridge import Kernel

Floats = NDArray[np.float64]


def radial(gamma: float, a: Floats, b: Floats) -> Floats:
    """``exp(-gamma |a - b|^2)`` for each row of `a` with each of `b`."""
    apart = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-gamma * np.maximum(apart, 0.0))


@known_arguments
@dataclass(frozen=True)
class KernelSurrogate(SubsetRegression):
    """The value of a task by kernel ridge regression on indicators of really trained subsets.

    ``g(s) = mean + sum_i theta_i k(s_i, s)`` with a radial kernel on the indicators s in {0, 1}^T. Each task has a
    regression of its own over the runs that hold it; the mean of their values is taken out first.

    Args:
        runs: different subsets that are trained, with common random numbers, or all where there are fewer.
        gamma: of the kernel; None for 1 / T.
        ridge: strength of the ridge; None chooses the one with the smallest leave-one-out error (the mean stays), for
            each task.

    Raises:
        SettingError: when a value is out of range, or the runs are too few for every task to be in two.

    Cost: `runs` trainings.

    Limits: the published method learns from values that Grad-TAE estimates; here the values are real. For both
    together use the fused estimator. The mean and the leave-one-out choice are reconstructed.

    Source: kernel surrogate models, arXiv 2602.03783 (ICLR 2026).

    Example:
        >>> KernelSurrogate(gamma=0.1).name
        'kernel-surrogate'
    """

    gamma: float | None = None
    ridge: float | None = None

    intercept: ClassVar[bool] = False
    strengths: ClassVar[tuple[str, ...]] = ("gamma", "ridge")

    @property
    def name(self) -> str:
        """Name of the method."""
        return "kernel-surrogate"

    def _kernel(self, n_tasks: int) -> Kernel:
        return partial(radial, self.gamma if self.gamma is not None else 1.0 / n_tasks)
