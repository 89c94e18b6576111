"""Models that predict values f(S, t), and gains from them."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.gain_model import NamedGainModel
from coterie.affinity.subsets import SubsetsLike, as_subsets

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
