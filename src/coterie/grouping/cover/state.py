"""A selection that is being improved: its groups, what they give their tasks, and what it costs."""

from __future__ import annotations

from typing import final

import numpy as np

from coterie.grouping.cover.problem import CoverProblem
from coterie.grouping.matrix import BoolArray, FloatArray


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
