"""Which subsets to train: those from which a Gaussian process over subsets would learn most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coterie._check import whole_number
from coterie.affinity.surrogates.covariance import Floats
from coterie.affinity.surrogates.process import SubsetProcess, combine, lucky
from coterie.errors import SettingError


def choose_subsets(process: SubsetProcess, subsets: NDArray[np.bool_], estimates: Floats, count: int) -> list[int]:
    """Choose runs one after the other, each as the one that lowers the posterior variance most.

    What counts is the variance of differences between the given subsets within a task, summed over all of them. It does
    not depend on the values that the runs will have, so that all can be chosen, and trained, at once.

    Args:
        process: its variances are believed, its observations are not looked at; usually one without any.
        subsets: bool (m, T), random subsets to choose from.
        estimates: (m, T) cheap estimates of these.
        count: how many to choose, at most m.

    Returns:
        rows of `subsets`, best first: a shorter choice is the beginning of a longer one.

    Raises:
        SettingError: when `count` is more than there are.

    Cost: count + 1 passes over a covariance of all pairs (S, t).
    """
    whole_number(count, "count", low=0)
    if count > len(subsets):
        raise SettingError(f"Parameter `count` should be at most {len(subsets)}, the number of subsets. Found {count}.")
    points = process.at(subsets, estimates)
    terms = process.covariances(points)
    share = np.where(lucky(process.likeness), 1.0 - process.settings.luck, 1.0)
    levels = np.array([name in ("level", "offset") for name in process.likeness.names])
    variances = process.variances[:-1]
    scale = np.outer(process.relative[points.task], process.relative[points.task])
    observed = combine(terms, variances, scale, process.likeness)
    truth = combine(terms, np.where(levels, 0.0, share * variances), scale, process.likeness)
    own = (points.task[:, None] == np.arange(subsets.shape[1])).astype(np.float64)
    truth -= own @ ((own.T @ truth) / np.maximum(own.sum(0), 1)[:, None])  # differences within a task only
    noise = process.variances[-1] * process.relative[points.task] ** 2
    blocks = [np.flatnonzero(points.row == row) for row in range(len(subsets))]
    chosen: list[int] = []
    left = list(range(len(subsets)))
    for _ in range(count):
        gains = [_reduction(observed, truth, noise, blocks[row]) for row in left]
        best = left.pop(int(np.argmax(gains)))
        chosen.append(best)
        _condition(observed, truth, noise, blocks[best])
    return chosen


def _reduction(observed: Floats, truth: Floats, noise: Floats, block: NDArray[np.int64]) -> float:
    """By how much the variances of the truth, summed, fall when a run is seen."""
    inside = observed[np.ix_(block, block)] + np.diag(noise[block])
    across = truth[:, block]
    return float(np.trace(np.linalg.solve(inside, across.T @ across)))


def _condition(observed: Floats, truth: Floats, noise: Floats, block: NDArray[np.int64]) -> None:
    """Both covariances after a run is seen, in place."""
    inside = observed[np.ix_(block, block)] + np.diag(noise[block])
    weights = np.linalg.solve(inside, observed[block])
    truth -= truth[:, block] @ weights
    observed -= observed[:, block] @ weights
