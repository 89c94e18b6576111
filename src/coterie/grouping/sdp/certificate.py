"""The dual side: a bound in float64 from the state of the iteration, whatever precision that has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.grouping.bound import bound_of_lifted
from coterie.grouping.matrix import FloatArray
from coterie.grouping.sdp.scaling import Scaled, row_blocks


def bound_of_state(problem: Scaled, state: NDArray[Any] | None, weight: float) -> float:
    """Certified bound in the units of U, from N = -weight * min(W, 0), or from N = 0 without a state.

    Args:
        problem: the scaled problem.
        state: (T, T) W, symmetric up to rounding; both triangles are averaged, which keeps N >= 0.
        weight: of the multiplier, in the units of U.

    Cost:
        T^2 float64 of memory and one eigendecomposition without vectors.
    """
    return bound_of_lifted(lifted(problem, state, weight), problem.k, problem.price) + problem.rounding


def lifted(problem: Scaled, state: NDArray[Any] | None, weight: float) -> FloatArray:
    """U + N, in float64."""
    result = np.empty((problem.n, problem.n))
    for which in row_blocks(problem.n):
        result[which] = problem.rows(which)
        if state is not None:
            negative = np.minimum(state[which], 0).astype(np.float64)
            negative += np.minimum(state[:, which], 0).T
            negative *= weight / 2
            result[which] -= negative
    return result
