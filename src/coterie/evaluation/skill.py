"""Skill: whether an estimate knows which subset is better for a task.

Values of different tasks differ far more than values of one task in different subsets, so a figure that does not take
out each task's mean says next to nothing: a constant for every task already has a small relative distance. All
functions here take estimate and truth as (m, T) arrays, subset by task, NaN outside the subset, and weights (draws, m)
as :func:`coterie.evaluation.intervals.resample` makes them; they return one number a draw.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._process_lock import process_lock
from coterie.evaluation.intervals import Figure, resample, weighted_mean

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


# Predicted and true gains are (T, T) arrays; rows are targets, columns sources, larger is better, NaN where not known.
#: a target's ranking counts when at least so many of its partners are known
PARTNERS = 3


def pair_matrix(subsets: NDArray[np.bool_], gains: Floats) -> Floats:
    """Gains of pairs as a matrix.

    Args:
        subsets: bool (m, T), two tasks each.
        gains: (m, T) gain of each task in each pair.

    Returns:
        (T, T), entry [target, source] is the gain of the target; NaN where the pair is not there.

    Example:
        >>> pair_matrix(np.array([[True, True]]), np.array([[0.5, -0.25]]))
        array([[  nan,  0.5 ],
               [-0.25,   nan]])
    """
    size = subsets.shape[1]
    found = np.full((size, size), np.nan)
    for members, row in zip(subsets, gains, strict=True):
        a, b = np.flatnonzero(members)
        found[a, b], found[b, a] = row[a], row[b]
    return found


def match(predicted: Floats, true: Floats, *, resamples: int = 0, seed: int = 0) -> dict[str, Figure]:
    """All measures of pairs.

    Level 1, value: ``correlation`` (Pearson, over all ordered pairs) and ``by_target`` (mean over targets of the
    correlation over their partners, which is not moved by some targets gaining from anything). Level 2, ranking of the
    partners of a target, mean over the targets with at least 3 known partners: ``kendall`` (tau-b) and ``spearman``; a
    target whose scores are all equal counts 0. Level 3, decision: ``hits`` (share of targets whose top-scored partner
    is truly the best; tied ones share), ``chance`` (what a random choice would hit), ``regret`` (gain lost with the
    top-scored partner; lower is better), ``chance_regret``, ``sign`` (share of pairs whose gain has the predicted
    sign), ``majority`` (share of the more frequent true sign) and ``separation`` (chance that a helpful pair is scored
    above a harmful one; needs no threshold, so it also suits scores whose zero means nothing).

    Args:
        predicted: (T, T) predicted gains or scores.
        true: (T, T) true gains.
        resamples: of pairs at level 1 and of signs, of targets elsewhere.
        seed: of the drawing.

    Source: the three levels follow the benchmark of affinity scores for pairs of tasks "It's a Match!" (arXiv
    2301.02873); the exact measures are our own choice.
    """
    known = np.isfinite(predicted) & np.isfinite(true)
    np.fill_diagonal(known, False)
    first, second = np.nonzero(np.triu(known | known.T, 1))
    weights = resample(len(first), resamples, seed)
    drawn = np.concatenate([weights, weights], 1)  # both directions of a pair are drawn together
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    score, gain = (np.where(known, values, np.nan)[rows, columns] for values in (predicted, true))
    agree = np.where(np.isfinite(score), np.sign(score) == np.sign(gain), np.nan).astype(np.float64)
    positive = weighted_mean(np.where(np.isfinite(gain), gain > 0, np.nan).astype(np.float64), drawn)
    found = {
        "correlation": Figure(within_task(score[:, None], gain[:, None], drawn)),
        "sign": Figure(weighted_mean(agree, drawn)),
        "majority": Figure(np.maximum(positive, 1 - positive)),
        "separation": Figure(_separation(score, gain, drawn)),
    }
    by_target = [_target(predicted[t, known[t]], true[t, known[t]]) for t in range(len(true))]
    targets = resample(len(true), resamples, seed + 1)
    for name in ("by_target", "kendall", "spearman", "hits", "chance", "regret", "chance_regret"):
        values = np.array([row.get(name, np.nan) for row in by_target])
        found[name] = Figure(weighted_mean(values, targets))
    return found


def _target(score: Floats, gain: Floats) -> dict[str, float]:
    """Ranking and decision for one target."""
    if len(score) < PARTNERS:
        return {}
    top, best = score == score.max(), gain == gain.max()
    result = {
        "hits": float(best[top].mean()),
        "chance": float(best.mean()),
        "regret": float(gain.max() - gain[top].mean()),
        "chance_regret": float(gain.max() - gain.mean()),
    }
    if np.ptp(gain) > 0:
        result.update(
            _ranks(score, gain) if np.ptp(score) > 0 else dict.fromkeys(("by_target", "kendall", "spearman"), 0.0)
        )
    return result


def _ranks(score: Floats, gain: Floats) -> dict[str, float]:
    from scipy import stats

    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tiny samples, of which no p-value is wanted
        tau: Any = stats.kendalltau(score, gain)
        rho: Any = stats.spearmanr(score, gain)
    value = float(within_task(score[:, None], gain[:, None])[0])
    return {"by_target": value, "kendall": float(tau.statistic), "spearman": float(rho.statistic)}


def _separation(score: Floats, gain: Floats, weights: Floats) -> Floats:
    """Share of (helpful, harmful) pairs of pairs that are scored in the right order; ties count half."""
    known = np.isfinite(score) & np.isfinite(gain)
    score, helpful, weights = score[known], gain[known] > 0, weights[:, known]
    above = np.sign(score[helpful][:, None] - score[~helpful][None]) / 2 + 0.5
    good, bad = weights[:, helpful], weights[:, ~helpful]
    total = good.sum(1) * bad.sum(1)
    right = np.einsum("bi,ij,bj->b", good, above, bad, optimize=True)
    return np.divide(right, total, out=np.full(len(weights), np.nan), where=total > 0)


SPLITS = 20


def ceiling(
    values: Floats, weights: Floats | None = None, *, per_task: bool = False, splits: int = SPLITS, seed: int = 0
) -> Figure:
    """Noise ceiling: the correlation that a perfect estimate would have with the truth, the mean over the replicates.

    The replicates are split at random into halves, the means of both halves are correlated within tasks, the mean over
    the splits is carried to all replicates by the formula of Spearman and Brown, and its square root is taken.
    Resamples draw subsets and trainings; they use the correlations of pairs of different trainings, because a training
    that is drawn twice would stand in both halves.

    Args:
        values: (replicates, m, T) independent trainings of each subset.
        weights: (draws, m) of the subsets; None for the number alone.
        per_task: mean over tasks of each task's ceiling instead of the pooled one.
        splits: random splits.
        seed: of the splits and of the drawing of trainings.

    Returns:
        The ceiling, 0 to 1; NaN with fewer than two replicates.
    """
    replicates, m = values.shape[:2]
    weights = np.ones((1, m)) if weights is None else weights
    if replicates < 2:
        return Figure(np.full(len(weights), np.nan))
    rng = np.random.default_rng(seed)
    half = replicates // 2
    found: list[Floats] = []
    for _ in range(splits):
        order = rng.permutation(replicates)
        first, second = values[order[:half]].mean(0), values[order[half : 2 * half]].mean(0)
        found.append(_correlate(first, second, weights[:1], per_task))
    point = _lift(np.mean(found, 0), replicates / half)
    if len(weights) == 1:
        return Figure(point)
    pairs = list(combinations(range(replicates), 2))
    drawn = resample(replicates, len(weights) - 1, seed)
    each = np.stack([_correlate(values[a], values[b], weights, per_task) for a, b in pairs], 1)  # (draws, pairs, ...)
    often = np.stack([drawn[:, a] * drawn[:, b] for a, b in pairs], 1)
    draws = _lift(weighted_mean(np.moveaxis(each, 1, -1), often[:, None]), replicates)
    return Figure(np.concatenate([point, np.clip(draws[1:] - draws[0] + point[0], 0.0, 1.0)]))


def _correlate(a: Floats, b: Floats, weights: Floats, per_task: bool) -> Floats:
    """(draws, T), or (draws, 1) pooled."""
    return by_task(a, b, weights) if per_task else within_task(a, b, weights)[:, None]


def _lift(reliability: Floats, times: float) -> Floats:
    """Square root of the reliability of a mean that is `times` as long, averaged over the last axis (tasks)."""
    r = np.clip(reliability, 0.0, 1.0)
    root = np.sqrt(times * r / (1 + (times - 1) * r))
    return weighted_mean(root, np.ones_like(root))


def one_run(values: Floats, weights: Floats | None = None, *, per_task: bool = False, seed: int = 0) -> Figure:
    """R1: correlation of one real training of every subset with the mean of the other replicates; mean over replicates.

    "As good as training every subset once" is the goal that means something. Resamples draw subsets and the training
    that is the one.

    Args:
        values: (replicates, m, T) independent trainings of each subset; NaN with fewer than two replicates.
        weights: (draws, m) of the subsets; None for the number alone.
        per_task: mean over tasks of the correlation within each, instead of pooled.
        seed: of the drawing of trainings.
    """
    if len(values) < 2:
        return Figure(np.full(1 if weights is None else len(weights), np.nan))
    others = (values.sum(0) - values) / (len(values) - 1)
    return _mean_over_runs(values, others, weights, per_task, seed)


def one_common_run(
    common: Floats, truth: Floats, weights: Floats | None = None, *, per_task: bool = False, seed: int = 0
) -> Figure:
    """R1 where all subsets share initial parameters and order of rows: the same price, less noise between subsets.

    Args:
        common: (replicates, m, T) trainings with common random numbers.
        truth: (m, T) mean of independent trainings.
        weights: (draws, m) of the subsets; None for the number alone.
        per_task: mean over tasks of the correlation within each, instead of pooled.
        seed: of the drawing of trainings.
    """
    return _mean_over_runs(common, np.broadcast_to(truth, common.shape), weights, per_task, seed)


def _mean_over_runs(runs: Floats, truths: Floats, weights: Floats | None, per_task: bool, seed: int) -> Figure:
    weights = np.ones((1, runs.shape[1])) if weights is None else weights
    if not len(runs):
        return Figure(np.full(len(weights), np.nan))
    each = [_correlate(run, truth, weights, per_task) for run, truth in zip(runs, truths, strict=True)]
    means = np.stack([weighted_mean(found, np.ones_like(found)) for found in each], 1)
    return Figure(weighted_mean(means, resample(len(runs), len(weights) - 1, seed)))
