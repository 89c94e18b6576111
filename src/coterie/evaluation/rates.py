"""Metrics that are known by name, each for many weightings of the examples at once.

``function(labels, scores, weights)`` takes labels (n,), scores (n,) or (n, classes), and weights (draws, n) that say
how often each example counts; it returns (draws,) values, NaN where there is none. They equal those of scikit-learn and
SciPy on the examples repeated so often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _by_threshold(labels: Floats, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights (draws, thresholds) of positives and negatives at each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    drawn, right = weights[:, order], labels[order] > 0
    positive = np.add.reduceat(np.where(right, drawn, 0.0), starts, axis=1)
    return positive, np.add.reduceat(np.where(right, 0.0, drawn), starts, axis=1)


def _auroc(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    positive, negative = _by_threshold(labels, scores, weights)
    above = positive.cumsum(1) - positive / 2
    return (negative * above).sum(1) / (positive.sum(1) * negative.sum(1))


def _average_precision(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    positive, negative = _by_threshold(labels, scores, weights)
    found, called = positive.cumsum(1), (positive + negative).cumsum(1)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return (positive * precision).sum(1) / positive.sum(1)


def _over_classes(one: Callable[[Floats, Floats, Floats], Floats]) -> Callable[[Floats, Floats, Floats], Floats]:
    """A metric of two classes; with several, the mean over those that occur, each against all others."""

    def several(labels: Floats, scores: Floats, weights: Floats) -> Floats:
        if scores.ndim == 1:
            return one(labels, scores, weights)
        there = [c for c in range(scores.shape[1]) if (labels == c).any()]
        found = [one((labels == c).astype(float), scores[:, c], weights) for c in there]
        return np.mean(found, axis=0)

    return several


def _called(scores: Floats) -> Floats:
    """The predicted class."""
    return scores.argmax(1).astype(float) if scores.ndim == 2 else (scores > 0.5).astype(float)


def _accuracy(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    return weights @ (_called(scores) == labels) / weights.sum(1)


def _f1(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    called = _called(scores)
    classes = np.union1d(labels, called) if scores.ndim == 2 else [1.0]
    found: list[Floats] = []
    for c in classes:
        hit, own, said = ((labels == c) & (called == c)), labels == c, called == c
        below = weights @ own.astype(float) + weights @ said.astype(float)
        hits = 2 * (weights @ hit.astype(float))
        found.append(np.divide(hits, below, out=np.zeros_like(hits), where=below > 0))
    return np.mean(found, axis=0)


def _r2(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    total = weights.sum(1)
    # about the mean of all, so that large labels keep their digits
    middle = labels - labels.mean()
    spread = weights @ middle**2 / total - (weights @ middle / total) ** 2
    return 1 - (weights @ (labels - scores) ** 2 / total) / spread


def _rmse(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    return np.sqrt(weights @ (labels - scores) ** 2 / weights.sum(1))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """(draws, n) mean ranks of the examples, repeated as often as their weights say."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = sizes.cumsum(1) - (sizes - 1) / 2
    found = np.empty_like(weights)
    found[:, order] = np.repeat(ranks, np.diff(np.r_[starts, len(values)]), axis=1)
    return found


def _spearman(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    total = weights.sum(1, keepdims=True)
    parts = [_ranks(values, weights) for values in (labels, scores)]
    first, second = (part - (weights * part).sum(1, keepdims=True) / total for part in parts)
    both = (weights * first * second).sum(1)
    return both / np.sqrt((weights * first**2).sum(1) * (weights * second**2).sum(1))


@dataclass(frozen=True)
class NamedMetric:
    """A metric that is known by name.

    Attributes:
        function: see the module.
        kinds: what it judges, in words: ``"tasks with classes"`` or ``"numbers"``.
        higher: whether larger values are better.
        best: the value that nothing exceeds.
    """

    function: Callable[[Floats, Floats, Floats], Floats]
    kinds: str
    higher: bool = True
    best: float = 1.0


_CLASSES, _NUMBERS = "tasks with classes", "numbers"
NAMED = {
    "auroc": NamedMetric(_over_classes(_auroc), _CLASSES),
    "average_precision": NamedMetric(_over_classes(_average_precision), _CLASSES),
    "accuracy": NamedMetric(_accuracy, _CLASSES),
    "f1": NamedMetric(_f1, _CLASSES),
    "r2": NamedMetric(_r2, _NUMBERS),
    "rmse": NamedMetric(_rmse, _NUMBERS, higher=False, best=0.0),
    "spearman": NamedMetric(_spearman, _NUMBERS),
}
