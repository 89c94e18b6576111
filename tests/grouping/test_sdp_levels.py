"""Matrices in which the levels of the tasks decide: the solver looks at its certificate although X is not yet clean."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from coterie.grouping import solve_sdp


def levels(n: int) -> NDArray[np.float64]:
    """What a task gains and gives, the same with everyone; 0 on the diagonal. Centring leaves a diagonal matrix."""
    generator = np.random.default_rng(0)
    gains = generator.standard_normal(n)
    matrix = gains[:, None] + 0.3 * generator.standard_normal(n)
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0.0)
    return matrix


@pytest.mark.slow
def test_the_solver_stops_when_the_gap_is_small_enough() -> None:
    """It would wait for the smallest entry of X, which takes all the steps that it is allowed, 20,000 by default."""
    found = solve_sdp(levels(150), 20, max_iters=600)
    assert found.status == "optimal"
    assert found.gap <= 1e-4
    assert found.iterations < 600
