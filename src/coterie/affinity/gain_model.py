"""Models that predict the gain of a task in any subset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from coterie._show import names
from coterie.affinity.affinity import Affinity
from coterie.affinity.sampling import random_subsets
from coterie.affinity.subsets import SubsetsLike, as_subsets

_BLOCK = 4096


class GainModel(ABC):
    """Predicts gains, ``(f({t}, t) - f(S, t)) / f({t}, t)``: relative loss reduction against training alone.

    Larger is better.
    Subclasses implement :meth:`_predict` and, where they know how sure they are, :meth:`_standard_error`.
    """

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""

    @property
    def method(self) -> str:
        """How the model was found, for tables."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}; tasks={names(self.tasks)})"

    @abstractmethod
    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Gains (m, T) of bool subsets (m, T); entries outside the subset are ignored."""

    def _standard_error(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Standard errors (m, T), or None."""
        del subsets

    def predict(self, subsets: SubsetsLike) -> NDArray[np.float64]:
        """Gain of every task in every subset.

        Args:
            subsets: bool array (m, T), or a sequence of sequences of task indices or names.

        Returns:
            (m, T), NaN where the task is not in the subset.
        """
        mask = as_subsets(subsets, self.tasks)
        return np.where(mask, self._predict(mask), np.nan)

    def standard_error(self, subsets: SubsetsLike) -> NDArray[np.float64] | None:
        """Standard error of every prediction, (m, T) with NaN outside the subset; None where the method has none."""
        mask = as_subsets(subsets, self.tasks)
        errors = self._standard_error(mask)
        return None if errors is None else np.where(mask, errors, np.nan)

    @property
    def uncertainty(self) -> str:
        """What standard errors cover.

        ``"posterior"``: all that is believed to be unknown. ``"spread of bases"``: the luck of the base models only.
        Empty where there are none.
        """
        return ""

    def _total_covariance(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Covariance (m, m) of the errors of summed gains, or None."""
        del subsets

    def total_covariance(self, subsets: SubsetsLike) -> NDArray[np.float64] | None:
        """How sure the summed gains of subsets are, jointly.

        The total of a subset S is the sum over t in S of the gain of t. Errors of different totals go together, since
        they come from the same runs and base models, so that a difference between two groupings is surer than the
        totals alone would say: its variance is ``w' C w`` with the weights w of the groups, +1 and -1.

        Args:
            subsets: bool array (m, T), or a sequence of sequences of task indices or names.

        Returns:
            (m, m) covariance of the errors of the totals, squared units of gains; None where the method has none.
        """
        return self._total_covariance(as_subsets(subsets, self.tasks))

    def pairwise(self) -> Affinity:
        """Entry [i, j] is the gain of i when it is trained with j alone; 0 on the diagonal."""
        size = len(self.tasks)
        values = np.zeros((size, size))
        first, second = np.triu_indices(size, 1)
        for part in _slices(len(first)):
            rows = np.arange(len(first[part]))
            mask = np.zeros((len(rows), size), dtype=bool)
            mask[rows, first[part]] = mask[rows, second[part]] = True
            gains = self.predict(mask)
            values[first[part], second[part]] = gains[rows, first[part]]
            values[second[part], first[part]] = gains[rows, second[part]]
        return Affinity(values, self.tasks, np.ones((size, size), dtype=np.int64), "gain", f"{self.method}, pairs")

    def higher_order(self, m: int, size: int | Sequence[int], seed: int = 0) -> Affinity:
        """Entry [i, j] is the mean gain of i over random subsets that hold i and j; 0 on the diagonal.

        Args:
            m: number of subsets; every pair of tasks is in at least one.
            size: tasks in a subset, or several sizes used in turn.
            seed: of the drawing.

        Returns:
            the affinity with ``counts[i, j]``, the number of subsets behind each entry; on the diagonal the number of
            subsets with the task.

        Raises:
            SettingError: when `m` subsets of that size cannot hold every pair.
        """
        subsets = random_subsets(len(self.tasks), m, size, seed=seed)
        total = np.zeros((len(self.tasks), len(self.tasks)))
        for part in _slices(m):
            total += np.nan_to_num(self.predict(subsets[part])).T @ subsets[part]
        members = subsets.astype(np.float64)
        counts = (members.T @ members).round().astype(np.int64)
        values = total / np.maximum(counts, 1)
        np.fill_diagonal(values, 0.0)
        return Affinity(values, self.tasks, counts, "gain", f"{self.method}, {m} subsets of {size}")


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


class NamedGainModel(GainModel):
    """A gain model that holds the names of its tasks and of its method."""

    def __init__(self, tasks: tuple[str, ...], method: str) -> None:
        self._tasks = tasks
        self._method = method

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self._tasks

    @property
    def method(self) -> str:
        """How the model was found, for tables."""
        return self._method
