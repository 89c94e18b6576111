"""A certified upper bound on the clustering SDP, from any nonnegative matrix of multipliers."""

from __future__ import annotations

import numpy as np

from coterie.grouping.matrix import FloatArray


def certified_bound(matrix: FloatArray, multiplier: FloatArray, k: int | None, penalty: float = 0.0) -> float:
    """Upper bound on max <A, X> (- penalty tr X) over the feasible set, valid for ANY symmetric multiplier N >= 0.

    Every feasible X is ee'/T + Y where Y lives on the complement of e, 0 <= Y <= I there and tr Y = k - 1. So
    <A, X> <= <A+N, X> <= e'(A+N)e/T + (sum of the k-1 largest eigenvalues of A+N on that complement). In the
    penalised form
    the trace is free: A - penalty I takes the place of A, and the sum runs over the positive eigenvalues.

    Args:
        matrix: (T, T) symmetric.
        multiplier: (T, T) symmetric, no negative entry.
        k: number of groups, or None for the penalised form.
        penalty: price of a group, penalised form only.

    Returns:
        The bound, raised by the rounding error of the float64 eigenvalues.

    Cost:
        One symmetric eigendecomposition without vectors.
    """
    n = len(matrix)
    lifted = matrix + multiplier
    if k is None:
        lifted = lifted - penalty * np.eye(n)
    basis = _complement_of_ones(n)
    eigenvalues = np.linalg.eigvalsh(basis.T @ lifted @ basis)
    # The k-1 largest, negative ones included: the trace of Y is fixed.
    chosen = np.maximum(eigenvalues, 0.0) if k is None else eigenvalues[n - k :]
    rounding = 4 * n * float(np.finfo(np.float64).eps) * float(np.linalg.norm(lifted))
    return float(lifted.sum() / n + chosen.sum()) + rounding


def _complement_of_ones(n: int) -> FloatArray:
    """(n, n-1) orthonormal basis of the vectors that add up to 0, from the reflection that maps e to the first axis."""
    normal = np.full(n, 1 / np.sqrt(n))
    normal[0] -= 1.0
    reflection = np.eye(n) - 2 * np.outer(normal, normal) / (normal @ normal)
    return reflection[:, 1:]
