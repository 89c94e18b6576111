"""Spectral clustering of a signed symmetric affinity matrix."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie.grouping.matrix import FloatArray, IntArray, as_symmetric, on_grid
from coterie.grouping.objective import as_labels

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


#: up to so many tasks, or for more than a fifth of the vectors, all are computed
ALL = 600


def leading_vectors(matrix: FloatArray, count: int) -> FloatArray:
    """(T, count) eigenvectors of the largest eigenvalues, which rise from left to right."""
    return leading_pairs(matrix, count)[0]


def leading_pairs(matrix: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """(T, count) eigenvectors and (count,) eigenvalues, rising.

    Cost:
        One eigendecomposition up to 600 tasks. Above, Lanczos from a fixed start, so that the same matrix gives the
        same vectors: some hundred products with the matrix.
    """
    n = len(matrix)
    if n <= ALL or 5 * count > n:
        values, vectors = np.linalg.eigh(matrix)
        return vectors[:, n - count :], values[n - count :]
    sparse: Any = importlib.import_module("scipy.sparse.linalg")
    first = np.random.default_rng(0).standard_normal(n)
    try:
        values, vectors = sparse.eigsh(matrix, count, which="LA", v0=first, tol=1e-6, maxiter=50)
    except sparse.ArpackNoConvergence:
        values, vectors = np.linalg.eigh(matrix)
        return vectors[:, n - count :], values[n - count :]
    order = np.argsort(values)
    return vectors[:, order], values[order]


def spectral_labels(matrix: ArrayLike, k: int, *, seed: int = 0) -> IntArray:
    """k-means on the k leading eigenvectors of D^-1/2 A D^-1/2, D the sums of absolute off-diagonal entries.

    The absolute values keep the degrees positive when entries are negative; that is the signed Laplacian. The diagonal
    is not read: it says nothing about which tasks belong together.

    Args:
        matrix: (T, T) affinity, larger is better; negative entries push apart.
        k: number of groups, 1..T.
        seed: of k-means.

    Returns:
        (T,) labels 0..k-1, each used.

    Cost:
        One eigendecomposition; above 600 tasks only of the k leading vectors.

    Source:
        Kunegis et al., SDM 2010 (signed Laplacian); the affinity is clustered in this way in the predecessor of
        Grad-TAG.

    Example:
        >>> spectral_labels(np.kron(np.eye(2), np.ones((3, 3))), 2).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    a = on_grid(as_symmetric(matrix), signed=True).whole
    return as_labels(cluster_rows(embed(a, k), k, seed), len(a))


def embed(matrix: FloatArray, k: int) -> FloatArray:
    """(T, k) rows of the leading eigenvectors."""
    degree = np.abs(matrix).sum(axis=1) - np.abs(np.diag(matrix))
    # What a subtraction leaves of zeros may be a rounding error: a row of zeros has degree 1.
    root = np.sqrt(np.where(degree > 1e-12 * np.abs(np.diag(matrix)), degree, 1.0))
    scaled = matrix / root[:, None]
    scaled /= root
    np.fill_diagonal(scaled, 0.0)
    return leading_vectors(scaled, k)
