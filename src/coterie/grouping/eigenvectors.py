"""Leading eigenvectors of a symmetric matrix, without the others where that is cheaper."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from coterie.grouping.matrix import FloatArray

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
