"""What the linear and the kernel surrogate have in common: one ridge regression a task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.gain_model import NamedGainModel, SubsetsLike, as_subsets

Floats = NDArray[np.float64]

#: losses below this count as zero when gains are formed
TINY = 1e-12


class ValueModel(NamedGainModel):
    """Predicts values with standard errors; the gain is the relative reduction against the task's predicted own value.

    Args:
        tasks: names.
        method: name for tables.
    """

    @abstractmethod
    def _values(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Values (m, T) of bool subsets (m, T) and their standard errors; entries outside the subset are ignored."""

    def _means(self, subsets: NDArray[np.bool_]) -> Floats:
        """The values alone, for models that find standard errors at a cost of their own."""
        return self._values(subsets)[0]

    @cached_property
    def _alone_values(self) -> Floats:
        """(T,) values of tasks alone; a search asks for gains many times."""
        return np.diag(self._means(np.eye(len(self.tasks), dtype=bool))).copy()

    def _with_alone(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        """Values (T,) of tasks alone, their standard errors, and the covariance (m, T) with those of the subsets."""
        values, errors = self._values(np.eye(len(self.tasks), dtype=bool))
        alone, error = np.diag(values), np.diag(errors)
        single = subsets.sum(1, keepdims=True) == 1
        return alone, error, np.where(single, error**2, 0.0)

    def predict_values(self, subsets: SubsetsLike) -> Floats:
        """(m, T) predicted validation losses, NaN outside the subset; lower is better."""
        mask = as_subsets(subsets, self.tasks)
        return np.where(mask, self._means(mask), np.nan)

    def value_error(self, subsets: SubsetsLike) -> Floats:
        """(m, T) standard errors of the predicted values, NaN outside the subset."""
        mask = as_subsets(subsets, self.tasks)
        return np.where(mask, self._values(mask)[1], np.nan)

    def _predict(self, subsets: NDArray[np.bool_]) -> Floats:
        alone = self._alone_values
        return (alone - self._means(subsets)) / np.maximum(alone, TINY)

    def _standard_error(self, subsets: NDArray[np.bool_]) -> Floats:
        # first order in the errors of both values
        values, errors = self._values(subsets)
        alone, error, covariance = self._with_alone(subsets)
        ratio = values / np.maximum(alone, TINY)
        variance = errors**2 - 2 * ratio * covariance + (ratio * error) ** 2
        return np.sqrt(np.maximum(variance, 0.0)) / np.maximum(alone, TINY)


Kernel = Callable[[Floats, Floats], Floats]

#: strengths among which leave-one-out error chooses, in units of the mean diagonal of the centred kernel
GRID = tuple(10.0**power for power in np.arange(-3, 3.5, 0.5))


@dataclass(frozen=True, eq=False)
class TaskRidge:
    """The regression of one task: ``mean + (k(S, subsets) - shift) @ weights``.

    Attributes:
        subsets: (n, T) indicators of the runs with the task.
        mean: of their values.
        shift: (n,) what is subtracted from the kernel; 0 where the kernel is not centred.
        weights: (n,).
        ridge: strength that was used.
        error: root mean square leave-one-out error.
    """

    subsets: Floats
    mean: float
    shift: Floats
    weights: Floats
    ridge: float
    error: float


def fit_task(subsets: Floats, values: Floats, kernel: Kernel, ridge: float | None, *, intercept: bool) -> TaskRidge:
    """Kernel ridge regression of the values minus their mean.

    Args:
        subsets: (n, T) indicators.
        values: (n,).
        kernel: of two sets of indicators.
        ridge: strength, or None for the one with the smallest leave-one-out error.
        intercept: fit an intercept that is not penalised; otherwise the mean of the values stays as it is.
    """
    n, gram = len(values), kernel(subsets, subsets)
    centre = np.eye(n) - 1.0 / n if intercept else np.eye(n)
    shift = gram.mean(0) if intercept else np.zeros(n)
    gram = centre @ gram @ centre
    eigenvalues, vectors = np.linalg.eigh(gram)
    eigenvalues = np.clip(eigenvalues, 0.0, None)
    residual, base = values - values.mean(), 1.0 / n if intercept else 0.0
    unit = max(float(eigenvalues.sum()) / n, 1e-12)

    def leave_one_out(strength: float) -> float:
        fitted = vectors @ (eigenvalues / (eigenvalues + strength) * (vectors.T @ residual))
        leverage = base + (vectors**2) @ (eigenvalues / (eigenvalues + strength))
        return float(np.sqrt(np.mean(((residual - fitted) / np.maximum(1 - leverage, 1e-9)) ** 2)))

    strength = min((unit * one for one in GRID), key=leave_one_out) if ridge is None else ridge
    weights = centre @ (vectors @ ((vectors.T @ residual) / (eigenvalues + strength)))
    return TaskRidge(subsets, float(values.mean()), shift, weights, strength, leave_one_out(strength))


class TaskRidgeModel(ValueModel):
    """Predicts every task with a regression of its own; standard errors come from the tasks' leave-one-out errors.

    Runs with common random numbers share a luck that leaving one out cannot show. It is taken to be as large as the
    leave-one-out error, so that the squared standard error is twice the mean square of that.

    Args:
        tasks: names.
        method: name for tables.
        kernel: of two sets of indicators.
        ridges: regressions, one a task.
    """

    def __init__(self, tasks: tuple[str, ...], method: str, kernel: Kernel, ridges: tuple[TaskRidge, ...]) -> None:
        super().__init__(tasks, method)
        self.kernel = kernel
        self.ridges = ridges

    def _values(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        members = subsets.astype(np.float64)
        columns = [one.mean + (self.kernel(members, one.subsets) - one.shift) @ one.weights for one in self.ridges]
        errors = np.sqrt(2.0) * np.array([one.error for one in self.ridges])
        return np.stack(columns, 1), np.broadcast_to(errors, subsets.shape).copy()


def fit_tasks(
    subsets: NDArray[np.bool_], values: Floats, kernel: Kernel, ridge: float | None, *, intercept: bool
) -> tuple[TaskRidge, ...]:
    """One regression a task over the runs (N, T) that hold it."""
    members = subsets.astype(np.float64)
    return tuple(
        fit_task(members[has], values[has, task], kernel, ridge, intercept=intercept)
        for task, has in enumerate(subsets.T)
    )
