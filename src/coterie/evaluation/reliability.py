"""What the truth itself allows: the noise ceiling, and the skill of really training every subset once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from coterie.evaluation.bootstrap import Figure, resample, weighted_mean
from coterie.evaluation.skill import by_task, within_task

Floats = NDArray[np.float64]
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
