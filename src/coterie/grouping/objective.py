"""What a partition is worth: its sum of densities, or the gain that a gain model predicts for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import numpy as np

from coterie.grouping.density import membership, sum_of_densities
from coterie.grouping.matrix import BoolArray, FloatArray, GainModelLike, IntArray, check_gains, largest, shift_of

_BATCH = 4096
#: predicted gains that are remembered, so that memory stays bounded
_REMEMBERED = 2**24


class Objective(ABC):
    """What a partition is worth; higher is better."""

    #: differences up to this much count as equal
    tolerance: float
    #: what the score of every partition leaves out, because it is the same for all
    constant: float = 0.0

    @abstractmethod
    def score(self, labels: IntArray) -> float:
        """Worth of a partition (T,) labels, less the constant."""

    @abstractmethod
    def values(self, subsets: BoolArray) -> FloatArray:
        """(m, T) what each task of each group (m, T) adds to the worth of its group; 0 outside of the group."""

    def totals(self, subsets: BoolArray) -> FloatArray:
        """(m,) worth of single groups (m, T); the worth of a partition is the sum over its groups, up to a factor."""
        return self.values(subsets).sum(axis=1)


@final
class DensityObjective(Objective):
    """Sum over the groups of 1'A1 / size, of A less the mean of its off-diagonal entries.

    That takes T times the mean off every partition. With a large constant in A, the digits that tell partitions apart
    would be lost. What is left of them after the entries of A were rounded decides what counts as equal.
    """

    def __init__(self, matrix: FloatArray) -> None:
        n, shift = len(matrix), shift_of(matrix)
        self.matrix, self.constant = matrix - shift, n * shift
        unit = float(np.finfo(np.float64).eps) * largest(matrix)
        self.tolerance = n * max(1e-10 * largest(self.matrix), unit, 1e-310)

    def score(self, labels: IntArray) -> float:
        """The sum of densities, less the constant."""
        return sum_of_densities(self.matrix, labels)

    def values(self, subsets: BoolArray) -> FloatArray:
        """Mean affinity of each task with its group, itself included, less the constant."""
        member = subsets.astype(np.float64)
        return member * (member @ self.matrix) / np.maximum(member.sum(axis=1, keepdims=True), 1.0)


@final
class GainObjective(Objective):
    """Mean over the tasks of the gain that a model predicts for the group of the task.

    Groups are asked for in batches and remembered. The gain of a task trained alone is 0 where the model has no
    opinion (NaN).

    Args:
        model: see :class:`coterie.grouping.matrix.GainModelLike`.
        order: (T,) the model's index of each task of the labels that are scored.
        tell: called with the number of groups that were asked for so far, whenever there are more.
    """

    def __init__(self, model: GainModelLike, order: IntArray, tell: Callable[[int], None] | None = None) -> None:
        self.model, self.order, self.tell = model, order, tell
        self.tolerance = 1e-9
        self.asked = 0
        self._known: dict[bytes, FloatArray] = {}

    def score(self, labels: IntArray) -> float:
        """Mean predicted gain over the tasks."""
        return float(self.totals(membership(labels).T > 0).sum() / len(labels))

    def values(self, subsets: BoolArray) -> FloatArray:
        """Predicted gain of each task in its group; 0 for an empty one."""
        keys = [row.tobytes() for row in np.packbits(subsets, axis=1)]
        fresh = {key: row for row, key in enumerate(keys) if key not in self._known}
        if (len(self._known) + len(fresh)) * subsets.shape[1] > _REMEMBERED:
            self._known, fresh = {}, {key: row for row, key in enumerate(keys)}
        found, rows = list(fresh), np.fromiter(fresh.values(), dtype=np.int64, count=len(fresh))
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            self._known.update(zip(found[part], self._predict(subsets[rows[part]]), strict=True))
            self.asked += len(rows[part])
            if self.tell is not None:
                self.tell(self.asked)
        return np.array([self._known[key] for key in keys]).reshape(subsets.shape)

    def covariance(self, subsets: BoolArray) -> FloatArray | None:
        """(m, m) covariance of the errors of the groups' totals; None where the model does not tell."""
        joint = getattr(self.model, "total_covariance", None)
        if joint is None:
            return None
        asked = np.zeros_like(subsets)
        asked[:, self.order] = subsets
        found = joint(asked)
        return None if found is None else np.asarray(found, dtype=np.float64)

    def _predict(self, subsets: BoolArray) -> FloatArray:
        """(m, T) predicted gains in groups; groups and gains in the order of the labels."""
        asked = np.zeros_like(subsets)
        asked[:, self.order] = subsets
        filled = asked.any(axis=1)
        gains = np.zeros(asked.shape)
        if filled.any():
            gains[filled] = np.asarray(self.model.predict(asked[filled]), dtype=np.float64)
        alone = asked & (asked.sum(axis=1) == 1)[:, None]
        gains = np.where(asked & ~(alone & np.isnan(gains)), gains, 0.0)
        check_gains(gains, asked, self.model.tasks)
        return gains[:, self.order]
