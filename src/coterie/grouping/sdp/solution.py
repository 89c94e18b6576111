"""What the solver returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._show import short_repr
from coterie.grouping.matrix import FloatArray


@short_repr
@dataclass(frozen=True, eq=False)
class WarmStart:
    """Where the solver stopped, for another number of groups or another price on the same tasks.

    Attributes:
        state: (T, T) W of the iteration, float32 or float64: its positive part is near X, its negative part is the
            multiplier.
        weight: the multiplier N is -weight * min(W, 0), in the units of the matrix.
        basis: (b, T) rows that span the leading eigenvectors.
    """

    state: NDArray[Any]
    weight: float
    basis: NDArray[Any]


@short_repr
@dataclass(frozen=True, eq=False)
class SdpSolution:
    """A feasible solution of the relaxation and a bound on all solutions.

    Attributes:
        X: (T, T) symmetric float64; near 1/size between tasks of the same group. It is feasible: all constraints hold
            up to the rounding of float64.
        value: <A, X>, less penalty * tr X in the penalised form; in the units of the matrix, higher is better.
        status: ``"optimal"`` (`gap` is as small as was asked for), ``"optimal_inaccurate"`` (it is not) or
            ``"closed form"`` (k = 1, k = T, or a matrix that makes no difference).
        bound: certified upper bound on the relaxation and thus on every partition; rounding errors are included.
        trace: tr X, the (fractional) number of groups.
        iterations: steps of the solver.
        range: `bound` less the value of the solution that treats all tasks alike (with the same trace). What a
            solver can gain at most; constants in the matrix do not enter.
        gap: (bound - value) / range, before a constant in the matrix takes digits: 0 is optimal, 1 no better than
            treating all tasks alike. 0 for closed forms.
        start: for ``solve_sdp(..., start=solution)``; None for closed forms.
    """

    X: FloatArray
    value: float
    status: str
    bound: float
    trace: float
    iterations: int = 0
    range: float = 0.0
    gap: float = 0.0
    start: WarmStart | None = field(default=None, repr=False)

    @property
    def infeasibility(self) -> float:
        """Largest violation of X e = e, X >= 0 and X PSD. Costs an eigendecomposition."""
        rows = float(np.abs(self.X.sum(axis=1) - 1).max())
        return max(rows, -float(self.X.min()), -float(np.linalg.eigvalsh(self.X)[0]))
