"""A linear model over subsets that learns from really trained ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
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


def membership(a: Floats, b: Floats) -> Floats:
    """Number of common tasks: the kernel of a linear model on membership."""
    return a @ b.T


@known_arguments
@dataclass(frozen=True)
class LinearSurrogate(Estimator):
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

    needs_workload: ClassVar[bool] = False

    runs: int = 50
    ridge: float | None = None

    def __post_init__(self) -> None:
        whole_number(self.runs, "runs", low=2)
        if self.ridge is not None and not (math.isfinite(self.ridge) and self.ridge > 0):
            raise SettingError(f"Parameter `ridge` should be positive, or None. Found {self.ridge!r}.")

    @property
    def name(self) -> str:
        """Name of the method."""
        return "linear-surrogate"

    def estimate(
        self, workload: Workload | Trainer, context: Context = DEFAULT_CONTEXT, subset_size: int = 2
    ) -> Estimate:
        """Train balanced random subsets of `subset_size` tasks and fit the regressions."""
        found, costs = balanced_runs(workload, context, self.runs, subset_size)
        ridges = fit_tasks(found.subsets, found.values, membership, self.ridge, intercept=True)
        model = TaskRidgeModel(names_of(workload), self.name, membership, ridges)
        return Estimate(model, costs, float(found.flops.mean()))
