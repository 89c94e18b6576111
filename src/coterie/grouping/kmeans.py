"""k-means on rows with exactly k non-empty clusters, shared by the rounding and by spectral clustering."""

from __future__ import annotations

import numpy as np

from coterie.grouping.matrix import FloatArray, IntArray

RESTARTS = 10
#: numbers in the largest array of a batch of restarts
_BATCH = 2_000_000


def cluster_rows(points: FloatArray, k: int, seed: int, restarts: int = RESTARTS) -> IntArray:
    """(n,) labels 0..k-1 of the rows; every cluster has at least one row, also when rows coincide.

    Args:
        points: (n, dimensions) float64.
        k: number of clusters, at most n.
        seed: of k-means++.
        restarts: the one with the smallest sum of squares counts, the first among equals.

    Cost:
        n k dimensions for each restart and each of up to 100 rounds.

    Source:
        Lloyd, IEEE Trans. Inf. Theory 28 (1982); Arthur and Vassilvitskii, "k-means++" (SODA 2007), with several
        candidates for each centre.

    Example:
        >>> cluster_rows(np.array([[0.0], [0.1], [5.0], [5.1]]), 2, seed=0)[[0, 1]].tolist() in ([0, 0], [1, 1])
        True
    """
    n = len(points)
    if k == 1 or k == n:
        return np.arange(n, dtype=np.int64) if k > 1 else np.zeros(n, dtype=np.int64)
    generator = np.random.default_rng(seed)
    centred = points - points.mean(axis=0)
    at_once = max(1, min(restarts, _BATCH // (n * k)))
    best, labels, centres = np.inf, np.zeros(n, dtype=np.int64), centred[:k]
    for first in range(0, restarts, at_once):
        count = min(at_once, restarts - first)
        seeds = np.stack([_plus_plus(centred, k, generator) for _ in range(count)])
        found, places, spread = _lloyd(centred, centred[seeds])
        for one in range(count):
            if spread[one] < best * (1 - 1e-12):
                best, labels, centres = float(spread[one]), found[one], places[one]
    return _fill(centred, labels.astype(np.int64), centres, k)


def _plus_plus(points: FloatArray, k: int, generator: np.random.Generator) -> IntArray:
    """k rows as first centres: each drawn with probability proportional to its squared distance from those before."""
    n, trials = len(points), 2 + int(np.log(k))
    squares = np.einsum("ij,ij->i", points, points)
    chosen = [int(generator.integers(n))]
    nearest = _squared(points, squares, chosen[:1])[0]
    for _ in range(k - 1):
        mass = np.cumsum(nearest)
        draws = generator.random(trials) * mass[-1]
        candidates = np.minimum(np.searchsorted(mass, draws, side="right"), n - 1).tolist()
        closer = np.minimum(nearest, _squared(points, squares, candidates))
        best = int(np.argmin(closer.sum(axis=1)))
        nearest = closer[best]
        chosen.append(candidates[best])
    return np.array(chosen)


def _squared(points: FloatArray, squares: FloatArray, rows: list[int]) -> FloatArray:
    """(rows, n) squared distances."""
    return np.maximum(squares + squares[rows, None] - 2 * points[rows] @ points.T, 0.0)


def _lloyd(points: FloatArray, centres: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """(r, n) labels, (r, k, d) centres and (r,) sums of squares of r runs side by side."""
    runs, k, _ = centres.shape
    numbers = np.arange(k)
    labels = np.full((runs, len(points)), -1)
    distance = np.empty(0)
    for _ in range(100):
        distance = (centres**2).sum(axis=2)[:, None, :] - 2 * points @ centres.transpose(0, 2, 1)
        found = distance.argmin(axis=2)
        if (found == labels).all():
            break
        labels = found
        member = (labels[:, None, :] == numbers[:, None]).astype(np.float64)
        sizes = member.sum(axis=2)
        # A cluster without rows keeps its centre; it is filled at the end.
        centres = np.where((sizes > 0)[:, :, None], member @ points / np.maximum(sizes, 1)[:, :, None], centres)
    return labels, centres, distance.min(axis=2).sum(axis=1) + float((points**2).sum())


def _fill(points: FloatArray, labels: IntArray, centres: FloatArray, k: int) -> IntArray:
    """Give each cluster without rows the row that is farthest from its centre."""
    for empty in np.setdiff1d(np.arange(k), labels):
        distance = ((points - centres[labels]) ** 2).sum(axis=1)
        crowded = np.bincount(labels, minlength=k)[labels] > 1
        farthest = int(np.argmax(np.where(crowded, distance, -1.0)))
        labels[farthest], centres[empty] = empty, points[farthest]
    return labels
