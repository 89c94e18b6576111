"""The best groups for a few tasks, by dynamic programming over the sets of tasks that a group serves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coterie._progress import Progress, silent
from coterie._show import short_repr
from coterie.grouping.cover.problem import SLACK, CoverProblem
from coterie.grouping.matrix import BoolArray, FloatArray, IntArray, submasks

# A set of tasks is a bit mask. A pair of disjoint sets is a number in base 3: each task is in none (0), in the first
# (1) or in the second (2). All 3^n pairs are one array, and a maximum over one of the sets is a maximum over digits.


def disjoint_pairs(n: int) -> tuple[IntArray, IntArray]:
    """(3^n,) the two masks of every pair of disjoint sets.

    Example:
        >>> [mask.tolist() for mask in disjoint_pairs(1)]
        [[0, 1, 0], [0, 0, 1]]
    """
    first, second = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for task in range(n):
        first = np.concatenate([first, first | 1 << task, first])
        second = np.concatenate([second, second, second | 1 << task])
    return first, second


def over_first(values: FloatArray, n: int) -> FloatArray:
    """(2^n,) for each second set the largest value over all first sets."""
    for task in range(n):
        digits = values.reshape(1 << task, 3, -1)
        values = np.stack([np.maximum(digits[:, 0], digits[:, 1]), digits[:, 2]], axis=1)
    return values.ravel()


def over_splits(values: FloatArray, n: int) -> FloatArray:
    """(2^n,) for each set the largest value over all ways to split it in two."""
    for task in range(n):
        digits = values.reshape(1 << task, 3, -1)
        values = np.stack([digits[:, 0], np.maximum(digits[:, 1], digits[:, 2])], axis=1)
    return values.ravel()


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
            :func:`coterie.grouping.cover.exact.disjoint_pairs`.
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


#: steps of the search for the price, which halve an interval
_STEPS = 40
_TOLERANCE = 1e-10


@short_repr
@dataclass(frozen=True, eq=False)
class CostedCover:
    """Groups (groups, T) and a certified upper bound on the sum of scores of any cover within the budget."""

    groups: BoolArray
    bound: float


@dataclass(frozen=True, eq=False)
class _Priced:
    """The best partition when cost has a price: its groups, sum of scores, cost, and the bound that the price gives."""

    price: float
    groups: IntArray
    value: float
    cost: float
    bound: float
    rest: FloatArray


def best_costed_cover(
    problem: CoverProblem, progress: Progress = silent, time_limit: float | None = None
) -> CostedCover:
    """The optimal groups within a budget that is a total cost.

    With a price on cost, the budget disappears and partitions into served sets are solved exactly (see
    :mod:`coterie.grouping.cover.exact`); any price gives an upper bound. At the price with the lowest bound, most
    (group, served set) pairs cannot be part of anything better than the best cover seen: the pair, the best partition
    of all other tasks and the bound say so. An integer program over the few that remain finds the optimum.

    Args:
        problem: at most 14 tasks.
        progress: told of the steps.
        time_limit: seconds for the integer program; the bound stays valid when it stops early.

    Raises:
        SettingError: no groups within budget and limit cover all tasks.

    Cost:
        About 15 times :func:`coterie.grouping.cover.exact.best_cover`, and an integer program (HiGHS).
    """
    until = None if time_limit is None else time.monotonic() + time_limit
    sets = ServedSets(problem, progress)
    best, dual = _search_price(sets, progress)
    gap = dual.bound - best.value
    pairs = sets.scores[sets.members.sum(axis=1) == 2]  # not the scores alone, which may be a million below
    tolerance = _TOLERANCE * (abs(best.value) + float(np.abs(pairs).max(initial=1e-300, where=np.isfinite(pairs))))
    if gap <= tolerance:
        return CostedCover(sets.members[best.groups], max(best.value, dual.bound))
    groups, served, values = _columns(sets, dual, best.value + tolerance)
    progress("grouping: integer program", 0, len(groups))
    chosen, bound = _integer_program(sets, groups, served, values, until)
    progress("grouping: integer program", len(groups), len(groups))
    # Pairs that were left out are worth no more than the best seen.
    bound = min(dual.bound, max(bound, best.value + tolerance))
    inside = chosen is not None and problem.affordable(float(sets.costs[groups[chosen]].sum()))
    if chosen is None or not inside or values[chosen].sum() <= best.value:
        return CostedCover(sets.members[best.groups], bound)
    return CostedCover(sets.members[groups[chosen]], bound)


def _at_price(sets: ServedSets, price: float, *, worthy: bool = True) -> _Priced:
    """The best partition into any number of served sets at a price of cost; or the cheapest, whatever it is worth."""
    n, problem = sets.n, sets.problem
    worth = sets.worth(price) if worthy else _cheapest(sets)
    partitions = Partitions(n, (sets.helpers, sets.served), worth)
    rest = partitions.at_most(n)
    total, parts = partitions.read(n, sets.everything)
    if not np.isfinite(total):
        raise problem.out_of_reach("There is")
    groups = np.array([sets.group_for(part, price) for part in parts] if worthy else parts)
    cover = sets.scores[groups].max(axis=0)
    return _Priced(
        price, groups, float(cover.sum()), float(sets.costs[groups].sum()), total + price * problem.budget, rest
    )


def _cheapest(sets: ServedSets) -> FloatArray:
    """(2^T,) minus the cost of each set as a group; minus infinity where the limit forbids it."""
    possible = np.asarray(np.isfinite(sets.scores).any(axis=1))
    possible[0] = True
    return np.where(possible, -sets.costs, -np.inf)


def _search_price(sets: ServedSets, progress: Progress) -> tuple[_Priced, _Priced]:
    """The best cover within the budget that a price leads to, and the price with the lowest bound."""
    problem = sets.problem
    free = _at_price(sets, 0.0)
    if problem.affordable(free.cost):
        return free, free
    best = _at_price(sets, 1.0, worthy=False)
    if not problem.affordable(best.cost):
        raise problem.out_of_reach("There is")
    # The bound is convex in the price; its slope is the budget less the cost. Between two prices, the next one is
    # where their lines meet, as in Newton's method for a Lagrangian dual.
    dual, low, high = free, (free.value, free.cost), (best.value, best.cost)
    for step in range(_STEPS):
        progress("grouping: price of cost", step, 0)
        if low[1] <= high[1]:
            break
        price = (low[0] - high[0]) / (low[1] - high[1])
        found = _at_price(sets, price)
        if found.bound < dual.bound:
            dual = found
        inside = bool(problem.affordable(found.cost))
        if inside and found.value > best.value:
            best = found
        if found.value - price * found.cost <= low[0] - price * low[1] + _TOLERANCE * abs(low[0]):
            break
        if inside:
            high = (found.value, found.cost)
        else:
            low = (found.value, found.cost)
    return best, dual


def _columns(sets: ServedSets, dual: _Priced, floor: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Groups, served sets and sums of the pairs that may be in a cover worth more than `floor`."""
    pairs = sets.helpers | sets.served
    budget = dual.price * sets.problem.budget
    reach = sets.sums - dual.price * sets.costs[pairs] + dual.rest[sets.everything ^ sets.served] + budget
    kept = np.flatnonzero((reach > floor) & (sets.served > 0))
    groups, served, values = pairs[kept], sets.served[kept], sets.sums[kept]
    # Of the groups that serve the same set, those that cost no less and give no more are dropped.
    order = np.lexsort((-values, sets.costs[groups], served))
    groups, served, values = groups[order], served[order], values[order]
    keep = np.ones(len(order), dtype=bool)
    last, best = -1, -np.inf
    for row in range(len(order)):
        if served[row] != last:
            last, best = int(served[row]), -np.inf
        keep[row] = values[row] > best
        best = max(best, float(values[row]))
    return groups[keep], served[keep], values[keep]


def _integer_program(
    sets: ServedSets, groups: IntArray, served: IntArray, values: FloatArray, until: float | None
) -> tuple[BoolArray | None, float]:
    """Which pairs partition the tasks best within the budget (None when no solution was found), and a bound."""
    if not len(groups):
        return None, -np.inf
    from scipy.optimize import Bounds, LinearConstraint, milp

    budget = sets.problem.budget * (1 + SLACK)
    options = {"mip_rel_gap": 0.0}
    if until is not None:
        options["time_limit"] = max(0.1, until - time.monotonic())
    # Tasks that no group but their own can hold have the same score in every solution, a million below perhaps.
    together = sets.scores[sets.members.sum(axis=1) > 1]
    base = np.where(np.isfinite(together).any(axis=0), 0.0, sets.problem.scores.singles)
    values = values - sets.members[served] @ base
    # HiGHS stops at an absolute gap of 1e-6 and lets rows be off by 1e-6: both are made small by scaling.
    scale = max(float(np.abs(values).max()), 1e-300) / 1e4
    found: Any = milp(
        -values / scale,
        integrality=np.ones(len(groups)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(sets.members[served].T.astype(np.float64), 1, 1),
            LinearConstraint(1e3 * sets.costs[groups][None, :] / budget, -np.inf, 1e3),
        ],
        options=options,
    )
    if found.status == 2:  # infeasible: nothing better than the best seen
        return None, -np.inf
    dual_bound = getattr(found, "mip_dual_bound", None)
    bound = np.inf if dual_bound is None else -float(dual_bound) * scale + float(base.sum())
    return (None if found.x is None else found.x > 0.5), bound
