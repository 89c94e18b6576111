"""Pairs of tasks at three levels: is the predicted gain right, is the ranking of partners, is the decision?

Predicted and true gains are (T, T) arrays; rows are targets, columns sources, larger is better, NaN where not known.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._process_lock import process_lock
from coterie.evaluation.bootstrap import Figure, resample, weighted_mean
from coterie.evaluation.skill import within_task

Floats = NDArray[np.float64]
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
