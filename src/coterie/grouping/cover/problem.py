"""Which groups may be chosen together: costs, a budget, and a limit for each group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from coterie._progress import Progress, silent
from coterie._surface import known_arguments
from coterie.errors import SettingError
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


#: sums of costs and sizes may miss a limit by rounding; relative
SLACK = 1e-9


@known_arguments
@dataclass(frozen=True)
class Costs:
    """What a model costs: an amount of its own, and an amount for each task that it trains.

    Attributes:
        model: cost of every model, whatever its tasks.
        tasks: cost that each task adds, in the order of the tasks, or a mapping or pandas Series with their names; a
            number is the same for all.

    Example:
        >>> Costs(model=1.0, tasks=(0.1, 0.5)).tasks
        (0.1, 0.5)
    """

    model: float = 0.0
    tasks: Sequence[float] | Mapping[str, float] | float = 0.0


@known_arguments
@dataclass(frozen=True)
class Limit:
    """What a single group may hold, such as memory or latency: the sizes of its tasks add up to at most `total`.

    Attributes:
        total: largest sum.
        sizes: size of each task, in the order of the tasks; a number is the same for all.

    Example:
        >>> Limit(total=4, sizes=1).total
        4
    """

    total: float
    sizes: tuple[float, ...] | float = 1.0


@dataclass(frozen=True, eq=False)
class CoverProblem:
    """Choose groups that cover all tasks, so that the sum over tasks of their best group's score is largest.

    Attributes:
        tasks: names.
        scores: score of each task in any group.
        budget: the costs of all groups add up to at most this.
        model_cost: cost of a group, whatever is in it.
        task_costs: (T,) cost that a task adds to each group it is in.
        limit: largest sum of sizes in a group; infinity for none.
        sizes: (T,) sizes.
    """

    tasks: tuple[str, ...]
    scores: GroupScores
    budget: float
    model_cost: float
    task_costs: FloatArray
    limit: float
    sizes: FloatArray

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    @cached_property
    def uniform(self) -> bool:
        """Whether all groups cost the same, so that the budget is a number of groups."""
        return not self.task_costs.any()

    @cached_property
    def most_groups(self) -> int:
        """Largest number of groups that the budget allows and that can be of use: one for each task at most."""
        cheapest = self.model_cost + float(self.task_costs.min())
        if cheapest * self.n <= self.budget:
            return self.n
        return max(0, int(self.budget / cheapest * (1 + SLACK)))

    @cached_property
    def largest_group(self) -> int:
        """Number of tasks that a group can hold at most, by its limit and by the budget."""
        within = np.cumsum(np.sort(self.sizes)) <= self.limit * (1 + SLACK)
        affordable = self.model_cost + np.cumsum(np.sort(self.task_costs)) <= self.budget * (1 + SLACK)
        return int((within & affordable).sum())

    def costs(self, subsets: BoolArray) -> FloatArray:
        """(m,) cost of each group; an empty one costs nothing."""
        return np.where(subsets.any(axis=1), self.model_cost + subsets @ self.task_costs, 0.0)

    def allowed(self, subsets: BoolArray) -> BoolArray:
        """(m,) whether each group keeps its limit."""
        return np.asarray(subsets @ self.sizes <= self.limit * (1 + SLACK))

    def affordable(self, cost: FloatArray | float) -> BoolArray:
        """Whether a total cost is within the budget."""
        return np.asarray(cost <= self.budget * (1 + SLACK))

    def out_of_reach(self, tried: str) -> SettingError:
        """The error for a problem without a cover."""
        free = np.isinf(self.limit)
        limit = "" if free else f" of at most {self.limit:g}"
        prices = [f"{self.model_cost:g} a model"] if self.model_cost else []
        prices += [] if self.uniform else ["the costs of the tasks"]
        least = f", {self.model_cost + float(self.task_costs.sum()):g} at least" if free else ", or a larger `limit`"
        return SettingError(
            f"Parameter `budget` is {self.budget:g} at {' and '.join(prices)}. {tried} no selection of groups{limit} "
            f"that covers all {self.n} tasks. Allow more budget{least}."
        )


@final
class Cover:
    """Groups, some perhaps empty, with their scores.

    Args:
        problem: what is to be solved.
        groups: (K, T); K is the largest number of groups.
    """

    def __init__(self, problem: CoverProblem, groups: BoolArray) -> None:
        self.problem = problem
        self.groups = groups.copy()
        self.values = problem.scores.scores(groups)
        self.costs = problem.costs(groups)

    def copy(self) -> Cover:
        """An independent one."""
        other = object.__new__(Cover)
        other.problem, other.groups = self.problem, self.groups.copy()
        other.values, other.costs = self.values.copy(), self.costs.copy()
        return other

    @property
    def best(self) -> FloatArray:
        """(T,) score of each task in its best group; minus infinity where it is in none."""
        return self.values.max(axis=0)

    @property
    def total(self) -> float:
        """Sum over the tasks; minus infinity when some task is in no group."""
        return float(self.best.sum())

    def without(self, *positions: int) -> FloatArray:
        """(T,) best scores when some groups are not counted."""
        others = np.delete(self.values, positions, axis=0)
        return others.max(axis=0) if len(others) else np.full(self.problem.n, -np.inf)

    def room(self, *positions: int) -> float:
        """What the groups at these positions may cost together."""
        return self.problem.budget - float(self.costs.sum() - self.costs[list(positions)].sum())

    def put(self, position: int, group: BoolArray, values: FloatArray | None = None) -> None:
        """Replace one group."""
        self.groups[position] = group
        self.values[position] = self.problem.scores.scores(group[None])[0] if values is None else values
        self.costs[position] = self.problem.costs(group[None])[0]

    def selected(self) -> BoolArray:
        """(groups, T) the groups that serve some task."""
        serving = np.unique(self.values.argmax(axis=0))
        return self.groups[serving]
