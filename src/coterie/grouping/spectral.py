"""Spectral clustering of a signed symmetric affinity matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from coterie.grouping.density import as_labels
from coterie.grouping.eigenvectors import leading_vectors
from coterie.grouping.kmeans import cluster_rows
from coterie.grouping.matrix import FloatArray, IntArray, as_symmetric
from coterie.grouping.ties import on_grid


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
