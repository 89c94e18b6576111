"""What a group gives each of its tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.matrix import BoolArray, FloatArray, GainModelLike, check_gains

_BATCH = 4096
#: groups whose predictions are remembered, so that memory stays bounded
_REMEMBERED = 200_000


class GroupScores(ABC):
    """Score of every task in any group; higher is better.

    Args:
        singles: (T,) score of each task in a group of its own.
    """

    def __init__(self, singles: FloatArray) -> None:
        self.singles = singles

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.singles)

    @abstractmethod
    def scores(self, subsets: BoolArray, progress: Progress = silent) -> FloatArray:
        """(m, T) score of each task in each of the groups (m, T); minus infinity outside of the group."""

    @abstractmethod
    def pairs(self) -> FloatArray:
        """(T, T) score of each target with one partner; the diagonal has the scores alone."""

    def toggles(self, subset: BoolArray) -> FloatArray:
        """(T, T): row i has the scores of the group with task i taken out if it is in, put in if it is out."""
        return self.scores(subset ^ np.eye(self.n, dtype=bool))

    def _finish(self, subsets: BoolArray, values: FloatArray) -> FloatArray:
        """Scores of tasks alone put in, minus infinity outside of the groups."""
        alone = subsets.sum(axis=1) == 1
        values[alone] = self.singles
        values[~subsets] = -np.inf
        return values


@final
class MatrixScores(GroupScores):
    """The mean over the partners of the task's affinity with them.

    Source: TAG (arXiv 2109.04617), group scores. On errors of pairs the same rule is the higher-order approximation of
    Standley et al. 2020.

    Args:
        matrix: (T, T) rows targets, columns sources; the diagonal is not used.
        singles: (T,) score of each task alone.

    Example:
        >>> s = MatrixScores(np.array([[0, 1.0, 3.0], [0, 0, 0], [2.0, 4.0, 0]]), np.zeros(3))
        >>> s.scores(np.array([[True, True, True]])).tolist()
        [[2.0, 0.0, 3.0]]
    """

    def __init__(self, matrix: FloatArray, singles: FloatArray) -> None:
        super().__init__(singles)
        self.matrix = np.where(np.eye(len(matrix), dtype=bool), 0.0, matrix)
        self._sources = np.ascontiguousarray(self.matrix.T)

    def scores(self, subsets: BoolArray, progress: Progress = silent) -> FloatArray:
        """(m, T) mean affinities."""
        del progress
        partners = np.maximum(subsets.sum(axis=1, keepdims=True) - 1, 1)
        return self._finish(subsets, (subsets.astype(np.float64) @ self._sources) / partners)

    def pairs(self) -> FloatArray:
        """(T, T) the matrix itself."""
        return np.where(np.eye(self.n, dtype=bool), self.singles, self.matrix)

    def toggles(self, subset: BoolArray) -> FloatArray:
        """(T, T) by adding or subtracting one column: T^2 operations instead of T^3."""
        sign = np.where(subset, -1.0, 1.0)
        values = sign[:, None] * self._sources
        values += subset.astype(np.float64) @ self._sources
        values /= np.maximum(subset.sum() + sign - 1, 1)[:, None]
        return self._finish(subset ^ np.eye(self.n, dtype=bool), values)


@final
class ModelScores(GroupScores):
    """The gain that a model predicts for the task in the group; groups are asked for in batches and remembered.

    Args:
        model: predicts gains, see :class:`coterie.affinity.GainModel`.
        singles: (T,) score of each task alone; 0 is the gain of training alone by definition.
    """

    def __init__(self, model: GainModelLike, singles: FloatArray) -> None:
        super().__init__(singles)
        self.model = model
        self._known: dict[bytes, FloatArray] = {}

    def scores(self, subsets: BoolArray, progress: Progress = silent) -> FloatArray:
        """(m, T) predicted gains."""
        keys = [row.tobytes() for row in np.packbits(subsets, axis=1)]
        sizes = subsets.sum(axis=1)
        fresh = {key: row for row, key in enumerate(keys) if sizes[row] > 1 and key not in self._known}
        rows = np.fromiter(fresh.values(), dtype=np.int64, count=len(fresh))
        if len(self._known) + len(rows) > _REMEMBERED:
            self._known.clear()
            rows = np.flatnonzero(sizes > 1)
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            for row, gains in zip(chosen, self._predict(subsets[chosen]), strict=True):
                self._known[keys[int(row)]] = gains
            progress("grouping: predicted gains", min(start + _BATCH, len(rows)), len(rows))
        nothing = np.zeros(self.n)
        values = np.array([self._known.get(key, nothing) for key in keys]).reshape(subsets.shape)
        return self._finish(subsets, values)

    def pairs(self) -> FloatArray:
        """(T, T) predicted gains of pairs."""
        first, second = np.triu_indices(self.n, 1)
        asked = np.zeros((len(first), self.n), dtype=bool)
        rows = np.arange(len(first))
        asked[rows, first] = asked[rows, second] = True
        found = np.diag(self.singles)
        for start in range(0, len(first), _BATCH):
            part = slice(start, start + _BATCH)
            gains, own = self._predict(asked[part]), np.arange(len(first[part]))
            found[first[part], second[part]] = gains[own, first[part]]
            found[second[part], first[part]] = gains[own, second[part]]
        return found

    def _predict(self, subsets: BoolArray) -> FloatArray:
        gains = np.where(subsets, np.asarray(self.model.predict(subsets), dtype=np.float64), 0.0)
        check_gains(gains, subsets, self.model.tasks)
        return gains
