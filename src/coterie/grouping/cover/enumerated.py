"""The best group at given prices, by looking at all groups of a moderate number of tasks."""

from __future__ import annotations

from typing import final

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.cover.pricing import GroupBound
from coterie.grouping.cover.problem import CoverProblem
from coterie.grouping.matrix import BoolArray, FloatArray

#: largest number of tasks: 2^16 groups are scored
ENUMERATED = 16


@final
class EnumeratedPricing:
    """Max over groups G of (sum over t in G of max(0, score(t|G) - price_t)) / cost(G), exactly, for any scores.

    With these the bound of :func:`coterie.grouping.cover.bound.upper_bound` is, up to convergence, that of the linear
    relaxation over all pairs of a group and a set that it serves.

    Args:
        problem: at most 16 tasks.
        progress: told of the groups that a gain model is asked for.
    """

    def __init__(self, problem: CoverProblem, progress: Progress = silent) -> None:
        n = problem.n
        members: BoolArray = (np.arange(1, 1 << n)[:, None] >> np.arange(n)) & 1 > 0
        members = members[problem.allowed(members)]
        self.values = problem.scores.scores(members, progress)
        self.costs = problem.costs(members)

    @property
    def best_scores(self) -> FloatArray:
        """(T,) the best that each task can have in any group."""
        return self.values.max(axis=0)

    def bound(self, prices: FloatArray) -> GroupBound:
        """The maximum at prices (T,), and its slope.

        Cost:
            T 2^T operations.
        """
        gains = self.values - prices
        ratios = np.maximum(gains, 0.0).sum(axis=1) / self.costs
        best = int(np.argmax(ratios))
        return GroupBound(float(ratios[best]), -(gains[best] > 0).astype(np.float64) / self.costs[best])
