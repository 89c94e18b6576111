"""A certified upper bound on the clustering SDP, from any nonnegative matrix of multipliers."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from coterie.grouping.matrix import FloatArray

_UNIT = float(np.finfo(np.float64).eps) / 2


def certified_bound(matrix: FloatArray, multiplier: FloatArray, k: int | None, penalty: float = 0.0) -> float:
    """Upper bound on max <A, X> (- penalty tr X) over the feasible set, valid for ANY symmetric multiplier N >= 0.

    Every feasible X is ee'/T + Y where Y lives on the complement of e, 0 <= Y <= I there and tr Y = k - 1. So
    <A, X> <= <A+N, X> <= e'(A+N)e/T + (sum of the k-1 largest eigenvalues of A+N on that complement). In the
    penalised form the trace is free: A - penalty I takes the place of A, and the sum runs over the positive
    eigenvalues.

    Args:
        matrix: (T, T) symmetric.
        multiplier: (T, T) symmetric, no negative entry.
        k: number of groups, or None for the penalised form.
        penalty: price of a group, penalised form only.

    Returns:
        The bound, raised by what rounding in float64 can take away from it.

    Cost:
        One symmetric eigendecomposition without vectors.
    """
    return bound_of_lifted(matrix + multiplier, k, penalty)


def bound_of_lifted(lifted: FloatArray, k: int | None, price: float = 0.0) -> float:
    """The same from A + N itself, which is overwritten.

    The eigenvalue of e is moved below all others by adding a multiple of ee', and left out.
    """
    n = len(lifted)
    mean = lifted.mean(axis=1)
    overall = float(mean.mean())
    size = float(np.linalg.norm(lifted))
    lifted -= mean[:, None]
    lifted -= mean
    lifted += overall - 2 * size / n
    eigenvalues = _eigenvalues(lifted)[1:]
    # The k-1 largest, negative ones included: the trace of Y is fixed.
    chosen = np.maximum(eigenvalues - price, 0.0) if k is None else eigenvalues[n - k :]
    total = float(mean.sum() + chosen.sum()) - (price if k is None else 0.0)
    return total + _rounding(n, len(chosen), size, price)


def _eigenvalues(matrix: FloatArray) -> FloatArray:
    """(T,) rising eigenvalues; the matrix is overwritten instead of copied."""
    linalg: Any = importlib.import_module("scipy.linalg")
    # LAPACK wants columns first; a symmetric matrix is its own transpose. One triangle is read.
    return linalg.eigh(matrix.T, eigvals_only=True, overwrite_a=True, check_finite=False, driver="evd")


def _rounding(n: int, rank: int, size: float, price: float) -> float:
    """What rounding can take away from the bound, at most.

    The computed eigenvalues are those of a matrix that is off by E. Forming the matrix errs by less than 200 units of
    rounding of its norm (sums are pairwise); each of the n reflections that make it tridiagonal, and the rotations
    after them, by a small multiple of n units (Higham, Accuracy and Stability of Numerical Algorithms, 2002, lemma
    19.3). A sum of `rank` eigenvalues moves by at most sqrt(rank) times the Frobenius norm of E.
    """
    off = (10.0 * n * n + 200.0) * _UNIT * 3 * size
    return float(np.sqrt(max(rank, 1))) * off + 100 * _UNIT * size + 4 * n * _UNIT * abs(price)
