"""What the linear and the kernel surrogate have in common: regressions on random subsets that were really trained."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from coterie._check import whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.surrogates.real_runs import balanced_runs
from coterie.affinity.surrogates.task_ridge import Kernel, TaskRidgeModel, fit_tasks
from coterie.errors import SettingError
from coterie.training.trainer import Trainer, names_of
from coterie.workload import Workload


@dataclass(frozen=True)
class SubsetRegression(Estimator):
    """One ridge regression a task on which tasks were trained with it; a subclass also has the strength `ridge`.

    Args:
        runs: random subsets that are trained.

    Raises:
        SettingError: when a value is out of range.
    """

    needs_workload: ClassVar[bool] = False
    #: whether an intercept is fitted that is not penalised
    intercept: ClassVar[bool]
    #: settings that are positive, or None to be chosen
    strengths: ClassVar[tuple[str, ...]] = ("ridge",)

    runs: int = 50

    def __post_init__(self) -> None:
        whole_number(self.runs, "runs", low=2)
        for name in self.strengths:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingError(f"Parameter `{name}` should be positive, or None. Found {value!r}.")

    def estimate(
        self, workload: Workload | Trainer, context: Context = DEFAULT_CONTEXT, subset_size: int = 2
    ) -> Estimate:
        """Train balanced random subsets of `subset_size` tasks and fit the regressions."""
        found, costs = balanced_runs(workload, context, self.runs, subset_size)
        tasks = names_of(workload)
        kernel, ridge = self._kernel(len(tasks)), getattr(self, "ridge", None)
        ridges = fit_tasks(found.subsets, found.values, kernel, ridge, intercept=self.intercept)
        return Estimate(TaskRidgeModel(tasks, self.name, kernel, ridges), costs, float(found.flops.mean()))

    @abstractmethod
    def _kernel(self, n_tasks: int) -> Kernel:
        """How alike two subsets are."""
