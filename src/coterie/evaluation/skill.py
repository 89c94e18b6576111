"""Skill: whether an estimate knows which subset is better for a task.

Values of different tasks differ far more than values of one task in different subsets, so a figure that does not take
out each task's mean says next to nothing: a constant for every task already has a small relative distance. All
functions here take estimate and truth as (m, T) arrays, subset by task, NaN outside the subset, and weights (draws, m)
as :func:`coterie.evaluation.bootstrap.resample` makes them; they return one number a draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.evaluation.bootstrap import weighted_mean

Floats = NDArray[np.float64]
#: a task counts in the mean over tasks when at least so many different subsets hold it
LEAST = 4
#: differences of this share of a task's largest value are rounding
ROUNDING = 1e-10
#: half-width of a 90 % interval in standard errors
NINETY = 1.6448536269514722


@dataclass(frozen=True, eq=False)
class SkillSums:
    """Sums over the subsets of each task, (draws, T), each task's mean taken out.

    Attributes:
        subsets: number of different subsets.
        cross: sum of products of estimate and truth.
        estimate: sum of squares of the estimate.
        truth: sum of squares of the truth.
    """

    subsets: Floats
    cross: Floats
    estimate: Floats
    truth: Floats


def moments(estimate: Floats, truth: Floats, weights: Floats | None = None) -> SkillSums:
    """Weighted sums of squares and products around each task's own mean."""
    weights = np.ones((1, len(truth))) if weights is None else weights
    known = np.isfinite(estimate) & np.isfinite(truth)
    counted = known.astype(np.float64)
    total = weights @ counted
    safe = np.maximum(total, 1.0)
    x, y = (_centred(values, known) for values in (estimate, truth))
    sums = [weights @ values for values in (x, y)]

    def product(a: int, b: int) -> Floats:
        return weights @ ((x, y)[a] * (x, y)[b]) - sums[a] * sums[b] / safe

    spread: list[Floats] = []
    for which, values in enumerate((estimate, truth)):
        size = np.abs(np.where(known, values, 0.0)).max(0, initial=0.0)
        found = product(which, which)
        spread.append(np.where(found > safe * (ROUNDING * size) ** 2, found, 0.0))
    return SkillSums((weights > 0).astype(np.float64) @ counted, product(0, 1), spread[0], spread[1])


def _centred(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Without each task's mean, so that sums of squares do not lose digits; 0 where not known."""
    filled = np.where(known, values, 0.0)
    return np.where(known, filled - filled.sum(0) / np.maximum(known.sum(0), 1), 0.0)


def _ratio(cross: Floats, estimate: Floats, truth: Floats) -> Floats:
    """Correlation; 0 where the estimate does not vary, NaN where the truth does not."""
    both = np.sqrt(estimate * truth)
    found = np.divide(cross, both, out=np.zeros_like(cross), where=both > 0)
    return np.where(truth > 0, np.clip(found, -1.0, 1.0), np.nan)


def within_task(estimate: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """Within-task correlation, pooled: over all (subset, task) after subtracting each task's mean; higher is better.

    An estimate that does not vary within tasks has 0. Tasks with large differences count most.

    Example:
        >>> truth = np.array([[1.0, 5.0], [2.0, 7.0], [3.0, 6.0]])
        >>> within_task(2 * truth + 9, truth), within_task(np.full((3, 2), 4.0), truth)
        (array([1.]), array([0.]))
    """
    found = moments(estimate, truth, weights)
    return _ratio(found.cross.sum(1), found.estimate.sum(1), found.truth.sum(1))


def by_task(estimate: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """(draws, T) correlation over the subsets of each task; NaN with fewer than 4 different subsets."""
    found = moments(estimate, truth, weights)
    return np.where(found.subsets >= LEAST, _ratio(found.cross, found.estimate, found.truth), np.nan)


def mean_by_task(estimate: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """Mean over tasks of the correlation within each; every task counts the same; higher is better.

    Example:
        >>> truth = np.array([[1.0, 5.0], [2.0, 7.0], [3.0, 6.0], [5.0, 1.0]])
        >>> mean_by_task(truth * [1, -1], truth)
        array([0.])
    """
    return _mean(by_task(estimate, truth, weights))


def _mean(values: Floats) -> Floats:
    return weighted_mean(values, np.ones_like(values))


def relative_distance(estimate: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """Norm of the error over the norm of the truth; lower is better. Read it beside that of the constant only.

    Example:
        >>> relative_distance(np.array([[1.1], [2.2]]), np.array([[1.0], [2.0]])).round(6)
        array([0.1])
    """
    weights = np.ones((1, len(truth))) if weights is None else weights
    known = np.isfinite(estimate) & np.isfinite(truth)
    error = np.where(known, estimate - truth, 0.0)
    size = weights @ (np.where(known, truth, 0.0) ** 2).sum(1)
    return np.sqrt(np.divide(weights @ (error**2).sum(1), size, out=np.full(len(weights), np.nan), where=size > 0))


def constant_distance(truth: Floats, weights: Floats | None = None) -> Floats:
    """Relative distance of predicting each task's true mean, which knows nothing of subsets; lower is better."""
    weights = np.ones((1, len(truth))) if weights is None else weights
    left = moments(truth, truth, weights).truth.sum(1)
    size = weights @ (np.nan_to_num(truth) ** 2).sum(1)
    return np.sqrt(np.divide(left, size, out=np.full(len(weights), np.nan), where=size > 0))


def gains(truth: Floats, alone: Floats) -> Floats:
    """(m, T) relative loss reductions against training alone; positive is good.

    Args:
        truth: (m, T) losses.
        alone: (T,) losses of the tasks trained alone.
    """
    return (alone - truth) / alone


def over_subsets(values: Floats, weights: Floats) -> Floats:
    """(draws,) mean of (m, T) values over all known (subset, task)."""
    known = np.isfinite(values)
    count = weights @ known.sum(1).astype(np.float64)
    summed = weights @ np.where(known, values, 0.0).sum(1)
    return np.divide(summed, count, out=np.full(len(weights), np.nan), where=count > 0)


def inside(estimate: Floats, error: Floats, truth: Floats, noise: Floats, quantile: float = NINETY) -> Floats:
    """(m, T) 1 where the true value lies inside the interval of the estimate, 0 where not, NaN where unknown.

    Args:
        estimate: (m, T) predicted values.
        error: their standard errors.
        truth: true values.
        noise: standard errors of the true values, which are means of a few trainings; 0 to leave them out.
        quantile: half-width of the interval in standard errors; 90 % by default.
    """
    reach = quantile * np.sqrt(error**2 + noise**2)
    known = np.isfinite(estimate) & np.isfinite(truth) & np.isfinite(reach)
    return np.where(known, np.abs(estimate - truth) <= reach, np.nan)
