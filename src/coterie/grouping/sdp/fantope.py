"""Projection on the spectral part of the feasible set: a clipped, shifted spectrum.

X = ee'/T + Y is feasible up to its signs when Y e = 0, 0 <= Y <= I and, in the trace form, tr Y = k - 1. The nearest
such Y to a matrix with eigenvalues g on the complement of e has the same eigenvectors and eigenvalues
clip(g - theta, 0, 1); the trace, or the price of a group, sets theta.
"""

from __future__ import annotations

import numpy as np

from coterie.grouping.matrix import FloatArray

#: eigenvalues of Y below this are left out
SMALLEST = 1e-12


def threshold(values: FloatArray, trace: float) -> float:
    """The theta with sum(clip(values - theta, 0, 1)) = trace.

    Args:
        values: (b,) eigenvalues in any order, b >= trace.
        trace: at least 0.

    Source:
        Vu et al., "Fantope projection and selection" (NIPS 2013), lemma 4.1; found on the sorted breakpoints.

    Example:
        >>> threshold(np.array([3.0, 0.5, 0.5, -1.0]), 2.0)
        0.0
    """
    points = np.sort(np.concatenate([values, values - 1]))
    low, high = 0, len(points) - 1  # the sum falls from b to 0 along the breakpoints
    while high - low > 1:
        middle = (low + high) // 2
        if np.clip(values - points[middle], 0, 1).sum() >= trace:
            low = middle
        else:
            high = middle
    left, right = (float(np.clip(values - points[at], 0, 1).sum()) for at in (low, high))
    share = (left - trace) / (left - right) if left > right else 0.0
    return float(points[low] + share * (points[high] - points[low]))


def weights(values: FloatArray, k: int | None, price: float) -> tuple[FloatArray, float]:
    """(b,) eigenvalues of Y for eigenvalues `values` of the matrix to project, and theta.

    Args:
        values: (b,) the leading eigenvalues on the complement of e.
        k: number of groups; None in the penalised form, where theta is `price`.
        price: price of a group, in the units of the matrix to project.
    """
    theta = price if k is None else threshold(values, k - 1.0)
    found = np.clip(values - theta, 0.0, 1.0)
    return np.where(found > SMALLEST, found, 0.0), theta
