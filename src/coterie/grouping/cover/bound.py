"""An upper bound on what any selection within the budget can be worth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.cover.problem import SLACK, CoverProblem, MatrixScores
from coterie.grouping.matrix import BoolArray, FloatArray, IntArray

#: group sizes at which an eigenvalue is computed; between them it is interpolated
_SIZES = 7


@dataclass(frozen=True, eq=False)
class GroupBound:
    """Upper bound on worth / cost of any group, and how much more each price would lower it.

    Attributes:
        ratio: bound; 0 at least, since no group need be taken.
        slope: (T,) a subgradient of the ratio with respect to the prices, not positive.
    """

    ratio: float
    slope: FloatArray


@final
class Pricing:
    """Bounds on max over groups G of (sum over t in G of max(0, score(t|G) - price_t)) / cost(G), for a matrix.

    For every group size two bounds hold, and the smaller one counts:

    * every task has the best partners of its own row, whoever else is in the group;
    * a group is a pair of disjoint 0-1 vectors (served y, helpers h) of squared length |G|, and its worth is a
      quadratic form in them, so |G| times the largest eigenvalue bounds it. A multiple of y_t h_t = 0 may be taken
      off; with the largest eigenvalue of the symmetric part, helpers cost nothing in the bound where rows differ by
      little else. The form is affine in 1 / (|G| - 1) and its largest eigenvalue convex in that, so that a line
      between two sizes bounds those between them.

    This is a derivation made here.

    Args:
        problem: scores from a matrix.
        scores: its scores.
    """

    def __init__(self, problem: CoverProblem, scores: MatrixScores) -> None:
        n = problem.n
        self.n, self.singles = n, scores.singles
        self.most = max(1, problem.largest_group)
        counts = np.arange(1, n + 1)
        self.costs = problem.model_cost + np.cumsum(np.sort(problem.task_costs))
        off = np.where(np.eye(n, dtype=bool), -np.inf, scores.matrix)
        ranked = -np.sort(-off, axis=1)[:, : n - 1]
        #: (T-1, T) row g-2: mean affinity of each task with its g-1 best partners
        self.tops = (np.cumsum(ranked, axis=1) / counts[: n - 1]).T
        # A row with its mean on the diagonal: its score is that mean plus (centred row . members) / (size - 1).
        self.means = scores.matrix.sum(axis=1) / max(n - 1, 1)
        self.centred = np.where(np.eye(n, dtype=bool), 0.0, scores.matrix - self.means[:, None])

    @cached_property
    def overlap(self) -> float:
        """Multiple of the products y_t h_t, which are 0, that is taken off the form."""
        return max(0.0, float(np.linalg.eigvalsh((self.centred + self.centred.T) / 2)[-1]))

    @cached_property
    def best_scores(self) -> FloatArray:
        """(T,) the best that each task can have in any group."""
        return np.maximum(self.singles, self.tops[0]) if self.most > 1 else self.singles

    def bound(self, prices: FloatArray) -> GroupBound:
        """The bound at prices (T,).

        Cost:
            T^2 log T, and a handful of eigendecompositions of a 2T x 2T matrix.
        """
        alone = self.singles - prices
        task = int(np.argmax(alone))
        ratio, slope = 0.0, np.zeros(self.n)
        if alone[task] > 0:
            ratio, slope = alone[task] / self.costs[0], -self._indicator(np.array([task])) / self.costs[0]
        if self.most < 2:
            return GroupBound(float(ratio), slope)
        sizes = np.arange(2, self.most + 1)
        gains = self.tops[: self.most - 1] - prices
        own = self._own_partners(gains, sizes)
        spectral, vectors = self._spectral(prices, sizes)
        values = np.minimum(own, spectral) / self.costs[sizes - 1]
        worst = int(np.argmax(values))
        if values[worst] <= ratio:
            return GroupBound(float(ratio), slope)
        if own[worst] <= spectral[worst]:
            chosen = np.argsort(-gains[worst])[: sizes[worst]]
            slope = -self._indicator(chosen[gains[worst][chosen] > 0])
        else:
            slope = -vectors(worst)
        return GroupBound(float(values[worst]), slope / self.costs[sizes[worst] - 1])

    def _own_partners(self, gains: FloatArray, sizes: IntArray) -> FloatArray:
        """(sizes,) first bound: the largest gains, as many as there are places."""
        ranked = np.maximum(-np.sort(-gains, axis=1), 0.0)
        return np.take_along_axis(np.cumsum(ranked, axis=1), sizes[:, None] - 1, axis=1)[:, 0]

    def _spectral(self, prices: FloatArray, sizes: IntArray) -> tuple[FloatArray, _Slopes]:
        """(sizes,) second bound, and its slopes with respect to minus the prices."""
        knots = np.unique(np.geomspace(sizes[0], sizes[-1], _SIZES).round().astype(np.int64))
        values, squares = np.empty(len(knots)), np.empty((len(knots), self.n))
        for row, size in enumerate(knots):
            values[row], squares[row] = self._largest(prices, 1 / (int(size) - 1))
        # interp needs rising abscissae: 1 / (size - 1) falls with the size
        at, known = 1 / (sizes - 1), 1 / (knots - 1)
        bound = np.maximum(sizes * np.interp(at, known[::-1], values[::-1]), 0.0)
        return bound, _Slopes(at, known, squares, sizes)

    def _largest(self, prices: FloatArray, scale: float) -> tuple[float, FloatArray]:
        """Largest eigenvalue of the form, raised by its rounding error, and the squares of the served half."""
        from scipy.linalg import eigh

        n = self.n
        form = np.zeros((2 * n, 2 * n))
        form[:n, :n] = scale * (self.centred + self.centred.T) / 2 + np.diag(self.means - prices)
        form[:n, n:] = scale * (self.centred - self.overlap * np.eye(n)) / 2
        form[n:, :n] = form[:n, n:].T
        value, vector = eigh(form, subset_by_index=(2 * n - 1, 2 * n - 1), check_finite=False)
        rounding = 8 * n * float(np.finfo(np.float64).eps) * float(np.linalg.norm(form))
        return float(value[0]) + rounding, np.asarray(vector[:n, 0] ** 2)

    def _indicator(self, tasks: IntArray) -> FloatArray:
        found = np.zeros(self.n)
        found[tasks] = 1.0
        return found


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Slopes of the interpolated eigenvalue bound, one size at a time."""

    at: FloatArray
    known: FloatArray
    squares: FloatArray
    sizes: IntArray

    def __call__(self, row: int) -> FloatArray:
        columns = [np.interp(self.at[row], self.known[::-1], column[::-1]) for column in self.squares.T]
        return float(self.sizes[row]) * np.array(columns)


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


#: steps of the subgradient method up to so many tasks; beyond, each step costs more and fewer are made
STEPS = {100: 150, 200: 60, 400: 20}
_FEWEST = 8
#: steps without progress after which the step length is halved, and the length that is too short to go on
_STALLED, _SHORTEST = 8, 2**-9


def upper_bound(
    problem: CoverProblem,
    groups: BoolArray,
    *,
    steps: int | None = None,
    pricing: Pricing | EnumeratedPricing | None = None,
    time_limit: float | None = None,
    progress: Progress = silent,
) -> float | None:
    """Certified upper bound on the sum of scores of any cover within the budget; None for a gain model of many tasks.

    Let every task pay a price p_t to be served. A group is worth at most r times its cost at these prices: exactly so
    up to 16 tasks (:class:`coterie.grouping.cover.bound.EnumeratedPricing`), at most so beyond, for a matrix
    (:class:`coterie.grouping.cover.bound.Pricing`). So any selection is worth at most sum(p) + r * budget, whatever
    the prices. Prices start from the best selection known and are moved by the subgradient method with Polyak's step.
    Where it is smaller, the sum of what each task can have at best counts instead.

    Args:
        problem: what is to be solved.
        groups: (groups, T) the best selection known.
        steps: of the subgradient method; None: 150 up to 100 tasks, fewer beyond.
        pricing: how groups are bounded; None: by the number of tasks, as above.
        time_limit: seconds.
        progress: told of the steps.

    Cost:
        Each step takes a handful of eigendecompositions of 2T x 2T matrices: 2 s in all at 73 tasks, 8 s at 200.
    """
    pricing = pricing or _pricing(problem, progress)
    if pricing is None:
        return None
    until = np.inf if time_limit is None else time.monotonic() + time_limit
    steps = steps or next((count for most, count in STEPS.items() if problem.n <= most), _FEWEST)
    budget = problem.budget * (1 + SLACK)
    known = problem.scores.scores(groups)
    value = float(known.max(axis=0).sum())
    prices, lowest = _start(known, problem.costs(groups), budget, pricing, until)
    best = min(float(pricing.best_scores.sum()), lowest)
    centre, length, stalled = prices, 1.0, 0
    for step in range(steps):
        progress("grouping: bound", step, steps)
        if time.monotonic() > until or best - value <= 1e-9 * abs(value) or length < _SHORTEST:
            break
        found = pricing.bound(prices)
        total = float(prices.sum()) + found.ratio * budget
        if total < lowest:
            lowest, centre, stalled = total, prices, 0
        else:
            stalled += 1
        best = min(best, total)
        if stalled == _STALLED:
            prices, length, stalled = centre, length / 2, 0
            continue
        slope = 1.0 + found.slope * budget
        steepness = float(slope @ slope)
        if steepness <= 0.0:
            break
        prices = prices - length * (total - value) / steepness * slope
    progress("grouping: bound", steps, steps)
    rounding = 1e-12 * (abs(value) + abs(best) + float(np.abs(pricing.best_scores).sum()))
    return max(best + rounding, value)


def _pricing(problem: CoverProblem, progress: Progress) -> Pricing | EnumeratedPricing | None:
    """How groups are bounded at prices; None where nothing is known about groups that were not looked at."""
    if problem.n <= ENUMERATED:
        return EnumeratedPricing(problem, progress)
    return Pricing(problem, problem.scores) if isinstance(problem.scores, MatrixScores) else None


def _start(
    known: FloatArray, costs: FloatArray, budget: float, pricing: Pricing | EnumeratedPricing, until: float
) -> tuple[FloatArray, float]:
    """(T,) prices that take the same share of each group's cost from its tasks' scores, and their bound.

    The best of some shares.
    """
    serving, scores = known.argmax(axis=0), known.max(axis=0)
    served = np.bincount(serving, minlength=len(known))
    share = (costs / np.maximum(served, 1))[serving]
    scale = float(np.abs(scores - pricing.best_scores).mean()) + float(scores.std())
    lowest, start = np.inf, scores
    for factor in (0.3, 1.0, 0.1, 2.0, 0.0):
        if time.monotonic() > until:
            break
        prices = scores - factor * scale * share / float(share.mean())
        total = float(prices.sum()) + pricing.bound(prices).ratio * budget
        if total < lowest:
            lowest, start = total, prices
    return start, lowest
