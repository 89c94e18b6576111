"""An upper bound on what any selection within the budget can be worth."""

from __future__ import annotations

import time

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.cover.enumerated import ENUMERATED, EnumeratedPricing
from coterie.grouping.cover.pricing import Pricing
from coterie.grouping.cover.problem import SLACK, CoverProblem
from coterie.grouping.cover.scores import MatrixScores
from coterie.grouping.matrix import BoolArray, FloatArray

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
    up to 16 tasks (:class:`coterie.grouping.cover.enumerated.EnumeratedPricing`), at most so beyond, for a matrix
    (:class:`coterie.grouping.cover.pricing.Pricing`). So any selection is worth at most sum(p) + r * budget, whatever
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
