"""A matrix of affinities as a model of gains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.affinity import Affinity
from coterie.affinity.gain_model import GainModel
from coterie.errors import SettingError


class PairwiseGainModel(GainModel):
    """Predicts the gain of a task as the mean of its affinities with its partners; a task alone has gain 0.

    Args:
        affinity: every entry off the diagonal must be known; the diagonal is not used.

    Example:
        >>> a = Affinity(np.array([[0, 0.2, 0.4], [0, 0, 0], [0.1, 0.1, 0]]), ("x", "y", "z"))
        >>> PairwiseGainModel(a).predict([["x", "y", "z"], ["x"]]).round(3).tolist()
        [[0.3, 0.0, 0.1], [0.0, nan, nan]]
    """

    def __init__(self, affinity: Affinity) -> None:
        values = affinity.values.copy()
        np.fill_diagonal(values, 0.0)
        if np.isnan(values).any():
            row, column = np.argwhere(np.isnan(values))[0].tolist()
            raise SettingError(
                f"The affinity of target {affinity.tasks[row]!r} and source {affinity.tasks[column]!r} is not "
                "known, so subsets with both cannot be predicted. Estimate it from more subsets, or fill in a value."
            )
        self.affinity = affinity
        self._values = values

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.affinity.tasks

    @property
    def method(self) -> str:
        """The method of the affinity."""
        return self.affinity.method or "pairwise affinity"

    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        partners = np.maximum(subsets.sum(1, keepdims=True) - 1, 1)
        return (subsets.astype(np.float64) @ self._values.T) / partners
