"""The best groups for a few tasks, by dynamic programming over the sets of tasks that a group serves."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.cover.problem import CoverProblem
from coterie.grouping.cover.ternary import disjoint_pairs, over_first, over_splits
from coterie.grouping.masks import submasks
from coterie.grouping.matrix import BoolArray, FloatArray, IntArray

#: largest number of tasks that is solved exactly: 3^14 pairs of sets are 38 MB an array
EXACT = 14


class ServedSets:
    """Worth of every set of tasks that a single group serves.

    Some groups train more tasks than they serve. Let w(U) be the largest sum of scores over U of any group that
    contains U. Each task is served by one group, so the served sets are a partition of the tasks, and the best
    selection is the partition with the largest sum of w: groups that no U asks for never come up again. This is a
    reformulation made here; the sources search over collections of groups.

    Args:
        problem: at most 14 tasks.
        progress: told of the groups that a gain model is asked for.

    Cost:
        T 3^(T-1) additions: 1 ms at 9 tasks, 0.6 s and 300 MB at 14.
    """

    def __init__(self, problem: CoverProblem, progress: Progress = silent) -> None:
        self.problem, self.n = problem, problem.n
        n, codes = self.n, np.arange(1 << self.n)
        self.members: BoolArray = (codes[:, None] >> np.arange(n)) & 1 > 0
        self.scores = np.full((1 << n, n), -np.inf)
        allowed = np.flatnonzero(problem.allowed(self.members) & (codes > 0))
        self.scores[allowed] = problem.scores.scores(self.members[allowed], progress)
        self.costs = problem.costs(self.members)
        self.helpers, self.served = disjoint_pairs(n)

    @property
    def everything(self) -> int:
        """Mask of all tasks."""
        return (1 << self.n) - 1

    @cached_property
    def sums(self) -> FloatArray:
        """(3^T,) sum of the scores of the served tasks, for every pair (helpers, served)."""
        n, groups = self.n, self.helpers | self.served
        total = np.zeros(len(groups))
        for task in range(n):
            shape = (3 ** (n - 1 - task), 3, 3**task)
            total.reshape(shape)[:, 2] += self.scores[:, task][groups.reshape(shape)[:, 2]]
        return total

    def worth(self, price: float = 0.0) -> FloatArray:
        """(2^T,) best sum over each served set, less the price of the group's cost; 0 for no task."""
        sums = self.sums
        if price:
            sums = sums - price * self.costs[self.helpers | self.served]
        found = over_first(sums, self.n)
        found[0] = 0.0
        return found

    def group_for(self, served: int, price: float = 0.0) -> int:
        """The group behind the worth of a served set; the one with the fewest tasks of those that are equally good."""
        helpers = submasks(self.everything ^ served)
        groups = helpers | served
        values = self.scores[groups][:, self.members[served]].sum(axis=1) - price * self.costs[groups]
        top = float(values.max())
        best = np.flatnonzero(values >= top - 1e-12 * abs(top))
        return int(groups[best[np.argmin(self.members[groups[best]].sum(axis=1))]])


class Partitions:
    """The best partition of any set into at most k served sets.

    Args:
        n: number of tasks.
        pairs: the two masks of every pair of disjoint sets, see
            :func:`coterie.grouping.cover.ternary.disjoint_pairs`.
        worth: (2^T,) worth of each served set, 0 for the empty one.
    """

    def __init__(self, n: int, pairs: tuple[IntArray, IntArray], worth: FloatArray) -> None:
        self.n, (self.first, self.second) = n, pairs
        self.best: dict[int, FloatArray] = {1: worth}

    def at_most(self, k: int) -> FloatArray:
        """(2^T,) worth of the best partition of each set into at most k; 3^T additions for about 2 log2(k) tables."""
        if k not in self.best:
            large, small = self.at_most(k - k // 2), self.at_most(k // 2)
            self.best[k] = over_splits(large[self.first] + small[self.second], self.n)
        return self.best[k]

    def read(self, k: int, code: int) -> tuple[float, list[int]]:
        """Worth and parts of the best partition of one set; needs the tables of half of k only."""
        if k == 1:
            return float(self.best[1][code]), [code] if code else []
        large, small = self.at_most(k - k // 2), self.at_most(k // 2)
        parts: IntArray = submasks(code)
        values = large[parts] + small[code ^ parts]
        chosen = int(parts[np.argmax(values)])
        return float(values.max()), [
            *self.read(k - k // 2, chosen)[1],
            *self.read(k // 2, code ^ chosen)[1],
        ]


def best_cover(problem: CoverProblem, progress: Progress = silent) -> BoolArray:
    """The optimal groups where all groups cost the same.

    Args:
        problem: at most 14 tasks, equal costs.
        progress: told of the groups that a gain model is asked for.

    Returns:
        (groups, T) optimal groups; each serves some task.

    Raises:
        SettingError: no groups that are allowed cover all tasks.

    Cost:
        T 3^(T-1) + 3^T log2(budget) additions.
    """
    if problem.most_groups < 1:
        raise problem.out_of_reach("There is")
    sets = ServedSets(problem, progress)
    value, parts = Partitions(sets.n, (sets.helpers, sets.served), sets.worth()).read(
        problem.most_groups, sets.everything
    )
    if not np.isfinite(value):
        raise problem.out_of_reach("There is")
    return sets.members[[sets.group_for(part) for part in parts]]
