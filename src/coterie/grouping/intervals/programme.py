"""Contiguous intervals of ordered tasks, such as the time steps of a diffusion model: the best ones, exactly.

A cost is a (T, T) matrix: entry [first, last] is what the interval first..last, both ends included, costs. Three ways
lead to one, see :mod:`coterie.grouping.intervals.costs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie._check import is_whole
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.grouping.intervals.costs import read_table
from coterie.grouping.matrix import FloatArray, IntArray, check_count

#: entries of a table that a pass works on at once, so that it stays in the processor's cache
_BLOCK = 1 << 16


@short_repr
@dataclass(frozen=True)
class Intervals:
    """T ordered items in contiguous intervals.

    Attributes:
        starts: first item of each interval; the first one is 0.
        n: number of items.
        cost: sum of the costs of the intervals; lower is better.

    Example:
        >>> found = Intervals((0, 2), 5, cost=1.5)
        >>> found.spans, found.labels.tolist()
        (((0, 1), (2, 4)), [0, 0, 1, 1, 1])
    """

    starts: tuple[int, ...]
    n: int
    cost: float

    @property
    def k(self) -> int:
        """Number of intervals."""
        return len(self.starts)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First and last item of each interval, both included."""
        return tuple((first, end - 1) for first, end in zip(self.starts, (*self.starts[1:], self.n), strict=True))

    @property
    def labels(self) -> IntArray:
        """(T,) number of the interval of each item."""
        return np.repeat(np.arange(self.k, dtype=np.int64), np.diff([*self.starts, self.n]))


@known_arguments
def best_intervals(cost: ArrayLike, k: int, *, minimum: int = 1) -> Intervals:
    """The k contiguous intervals with the smallest sum of costs.

    Costs are made from affinities by :func:`coterie.grouping.affinity_costs`: an affinity as it is would be minimised.

    Args:
        cost: (T, T); entry [first, last] is the cost of first..last. Entries below the diagonal are not read; infinite
            ones forbid the interval.
        k: number of intervals, 1..T.
        minimum: least number of items in an interval.

    Returns:
        An exact optimum. Among equal ones, that with the smallest start of the last interval, then of the one before.

    Raises:
        SettingError: not square, NaN or negative infinite entries, k or the minimum out of range, or no partition into
            k intervals that is allowed.

    Cost:
        k T^2 additions and comparisons: milliseconds at T = 1,000 and k = 5.

    Source:
        Dynamic programme of Bellman, Communications of the ACM 4 (1961), as in Go et al., arXiv 2306.00354.

    Example:
        >>> from coterie.grouping.intervals.costs import affinity_costs
        >>> best_intervals(affinity_costs(np.kron(np.eye(2), np.ones((3, 3)))), 2).spans
        ((0, 2), (3, 5))
    """
    table = _checked(cost, minimum)
    check_count("k", k, len(table))
    return _cut(table, [k])[0]


@known_arguments
def every_k(cost: ArrayLike, k_max: int, *, minimum: int = 1, tolerance: float = 0.0) -> tuple[Intervals, ...]:
    """The best intervals for each number of intervals 1..k_max, from one table: see :func:`best_intervals`.

    A number that the minimum or the forbidden intervals rule out is left out. Sums of costs that differ by `tolerance`
    at most count as equal.

    Cost:
        k_max T^2: a second for all numbers at T = 1,000.

    Example:
        >>> from coterie.grouping.intervals.costs import affinity_costs
        >>> [found.starts for found in every_k(affinity_costs(np.eye(3)), 3)]
        [(0,), (0, 1), (0, 1, 2)]
    """
    table = _checked(cost, minimum)
    check_count("k_max", k_max, len(table))
    return _cut(table, range(1, k_max + 1), tolerance)


def _checked(cost: ArrayLike, minimum: int) -> FloatArray:
    """The table with infinite cost for what is no interval or too short a one."""
    table = read_table(cost)
    n = len(table)
    _check_minimum(minimum, n)
    wrong = np.argwhere(np.triu(np.isnan(table) | np.isneginf(table)))
    if len(wrong):
        first, last = (int(end) for end in wrong[0])
        raise SettingError(
            "Parameter `cost` should have numbers, or infinity for what is forbidden, on and above its diagonal. "
            f"Found {table[first, last]} for the interval {first}..{last}; a division by zero is a likely cause. "
            "Put a finite number there, or infinity."
        )
    table[~np.tri(n, k=1 - minimum, dtype=bool).T] = np.inf
    return table


def _check_minimum(value: Any, n: int) -> None:
    """A least length is a whole number from 1 to the number of items."""
    if not is_whole(value) or not 1 <= value <= n:
        raise SettingError(
            f"Parameter `minimum` should be a whole number of items from 1 to the number of items, {n}. Found "
            f"{value!r}. Leave it out to allow any length."
        )


def _cut(table: FloatArray, ks: Sequence[int], tolerance: float = 0.0) -> tuple[Intervals, ...]:
    """The best intervals for those of the numbers `ks` that are possible; at least one has to be."""
    n = len(table)
    best, origin, found = table[0].copy(), [np.zeros(n, dtype=np.int64)], list[Intervals]()
    for k in range(1, max(ks) + 1):
        if k > 1:
            best, start = _one_more(table, best, tolerance)
            origin.append(start)
        if k in ks and np.isfinite(best[-1]):
            found.append(Intervals(_trace(origin), n, float(best[-1])))
    if not found:
        raise SettingError(
            f"Parameters `k` and `minimum` should leave a way to cut the {n} items into intervals. Found none for "
            f"{max(ks)} intervals. Take fewer of them, a smaller `minimum`, or forbid fewer intervals."
        )
    return tuple(found)


def _one_more(table: FloatArray, best: FloatArray, tolerance: float) -> tuple[FloatArray, IntArray]:
    """Least cost of 0..last with one interval more, and where that interval starts, for each last."""
    n = len(table)
    value, start = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    before = np.concatenate([[np.inf], best[:-1]])  # cost of everything before an interval's first item
    width = max(_BLOCK // n, 1)
    for left in range(0, n, width):
        right = min(left + width, n)
        totals = table[:right, left:right] + before[:right, None]
        start[left:right] = (totals <= totals.min(axis=0) + tolerance).argmax(axis=0)
        value[left:right] = totals[start[left:right], np.arange(right - left)]
    return value, start


def _trace(origin: Sequence[IntArray]) -> tuple[int, ...]:
    """Follow the starts from the last item to the first."""
    starts, last = list[int](), len(origin[0]) - 1
    for start in reversed(origin):
        starts.append(int(start[last]))
        last = starts[-1] - 1
    return tuple(reversed(starts))
