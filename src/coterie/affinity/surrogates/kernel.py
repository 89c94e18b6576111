"""A kernel model over subsets that learns from really trained ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._check import whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._surface import known_arguments
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.surrogates.real_runs import balanced_runs
from coterie.affinity.surrogates.task_ridge import TaskRidgeModel, fit_tasks
from coterie.errors import SettingError
from coterie.training.trainer import Trainer, names_of
from coterie.workload import Workload

Floats = NDArray[np.float64]


def radial(gamma: float, a: Floats, b: Floats) -> Floats:
    """``exp(-gamma |a - b|^2)`` for each row of `a` with each of `b`."""
    apart = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-gamma * np.maximum(apart, 0.0))


@known_arguments
@dataclass(frozen=True)
class KernelSurrogate(Estimator):
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

    needs_workload: ClassVar[bool] = False

    runs: int = 50
    gamma: float | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        whole_number(self.runs, "runs", low=2)
        for name in ("gamma", "ridge"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingError(f"Parameter `{name}` should be positive, or None. Found {value!r}.")

    @property
    def name(self) -> str:
        """Name of the method."""
        return "kernel-surrogate"

    def estimate(
        self, workload: Workload | Trainer, context: Context = DEFAULT_CONTEXT, subset_size: int = 2
    ) -> Estimate:
        """Train balanced random subsets of `subset_size` tasks and fit the regressions."""
        found, costs = balanced_runs(workload, context, self.runs, subset_size)
        kernel = partial(radial, self.gamma if self.gamma is not None else 1.0 / len(names_of(workload)))
        ridges = fit_tasks(found.subsets, found.values, kernel, self.ridge, intercept=False)
        model = TaskRidgeModel(names_of(workload), self.name, kernel, ridges)
        return Estimate(model, costs, float(found.flops.mean()))
