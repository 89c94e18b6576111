"""The clustering SDP of Peng and Wei, as used by Grad-TAG, with a certified bound."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie.errors import CoterieError, NumericsWarning, SettingError
from coterie.grouping.bound import certified_bound
from coterie.grouping.matrix import FloatArray, as_square, centred, check_count, check_finite, symmetrise

_FAILED = "solver failed"


@dataclass(frozen=True, eq=False)
class SdpSolution:
    """A solution of the relaxation.

    Attributes:
        X: (T, T) symmetric; near 1/size between tasks of the same group. Its constraints hold up to the solver's
            precision.
        value: <A, X>, less penalty * tr X in the penalised form; in the units of the matrix.
        status: ``"optimal"``, ``"optimal_inaccurate"`` or ``"closed form"`` (k = 1 and k = T).
        bound: certified upper bound on the relaxation and thus on every partition; valid even when `value` is
            inaccurate.
        trace: tr X, the (fractional) number of groups.
        iterations: steps of the solver.
    """

    X: FloatArray
    value: float
    status: str
    bound: float
    trace: float
    iterations: int = 0

    @property
    def infeasibility(self) -> float:
        """Largest violation of X e = e, X >= 0 and X PSD."""
        rows = float(np.abs(self.X.sum(axis=1) - 1).max())
        return max(rows, -float(self.X.min()), -float(np.linalg.eigvalsh(self.X)[0]))


def solve_sdp(
    matrix: ArrayLike,
    k: int | None = None,
    *,
    penalty: float | None = None,
    eps: float | None = None,
    max_iters: int | None = None,
) -> SdpSolution:
    """Maximise <A, X> over X e = e, X >= 0, X PSD, with tr X = k or less penalty * tr X.

    Args:
        matrix: (T, T) affinity, larger is better; only its symmetric part counts.
        k: number of groups, 1..T. Give either `k` or `penalty`.
        penalty: price of a group, in the units of the matrix. 0 bounds the sum of densities for any number of groups.
        eps: absolute and relative tolerance of SCS on the matrix, centred and scaled to unit root mean square.
            Default 1e-6 up to 150 tasks, 1e-5 up to 250, 1e-4 above.
        max_iters: steps of SCS at most. Default 20,000 up to 150 tasks, 4,000 above.

    Returns:
        The solution with a certified bound: for any N >= 0, e'(A+N)e/T plus the sum of the k-1 largest eigenvalues of
        A+N on the complement of e bounds the relaxation (see :mod:`coterie.grouping.bound`); N is the solver's
        multiplier.

    Warns:
        NumericsWarning: the solver stopped before it reached `eps`.

    Raises:
        SettingError: `k`, `penalty` or the matrix cannot be used.

    Cost:
        About 0.02 s at 14 tasks, 0.4 to 1.3 s at 100, 12 s or more at 200, minutes at 400 (T^3 a step).

    Source:
        Peng and Wei, SIAM J. Optim. 18 (2007); arXiv 2409.06091. The authors' <max(A)-A, X> has the same solution since
        <ee', X> = T for every feasible X.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
        >>> solution = solve_sdp(blocks, k=2)
        >>> round(solution.value, 4), round(float(solution.X[0, 1]), 4), round(float(solution.X[0, 5]), 4) + 0.0
        (6.0, 0.3333, 0.0)
    """
    given = as_square(matrix)
    given = symmetrise(check_finite(given, [f"task {i}" for i in range(len(given))]))
    n = len(given)
    _check_form(n, k, penalty)
    unit = centred(given)
    shift = float(given[0, 0] - unit[0, 0])
    scale = float(np.sqrt((unit**2).mean())) or 1.0
    unit = unit / scale
    price = 0.0 if penalty is None else penalty / scale
    if k in (1, n):
        x = np.full((n, n), 1.0 / n) if k == 1 else np.eye(n)
        status, iterations, multiplier = "closed form", 0, np.zeros((n, n))
    else:
        x, multiplier, status, iterations = _solve(unit, k, price, *_precision(n, eps, max_iters))
    value = float((unit * x).sum()) - price * float(np.trace(x))
    bound = min(certified_bound(unit, dual, k, price) for dual in (multiplier, np.zeros((n, n))))
    return SdpSolution(x, scale * value + shift * n, status, scale * bound + shift * n, float(np.trace(x)), iterations)


def _check_form(n: int, k: int | None, penalty: float | None) -> None:
    """Exactly one of the two forms, within its range."""
    if (k is None) == (penalty is None):
        raise SettingError(f"Give either `k` or `penalty` to solve_sdp. Found k={k!r} and penalty={penalty!r}.")
    if k is not None:
        check_count("k", k, n)
    if penalty is not None and not np.isfinite(penalty):
        raise SettingError(f"Parameter `penalty` should be a finite number. Found {penalty!r}.")


def _precision(n: int, eps: float | None, max_iters: int | None) -> tuple[float, int]:
    """Tolerance and step limit for T tasks; larger problems cost more a step and are rounded anyway."""
    default = 1e-6 if n <= 150 else 1e-5 if n <= 250 else 1e-4
    return default if eps is None else eps, (20_000 if n <= 150 else 4_000) if max_iters is None else max_iters


def _solve(
    unit: FloatArray, k: int | None, price: float, eps: float, max_iters: int
) -> tuple[FloatArray, FloatArray, str, int]:
    """X, the multiplier N >= 0 of X >= 0, status and steps of SCS."""
    cp: Any = importlib.import_module("cvxpy")
    n = len(unit)
    variable = cp.Variable((n, n), PSD=True)
    # Above the diagonal is enough: the matrix is symmetric, and a PSD matrix has no negative diagonal.
    nonnegative = cp.upper_tri(variable) >= 0
    constraints = [nonnegative, cp.sum(variable, axis=1) == 1]
    objective = cp.sum(cp.multiply(unit, variable))
    if k is None:
        objective = objective - price * cp.trace(variable)
    else:
        constraints.append(cp.trace(variable) == k)
    problem = cp.Problem(cp.Maximize(objective), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy's own words; ours follow
        try:
            problem.solve(solver=cp.SCS, eps_abs=eps, eps_rel=eps, max_iters=max_iters, verbose=False)
            status = str(problem.status)
        except cp.SolverError as error:
            status = f"{_FAILED}: {error}"
    if variable.value is None:
        raise CoterieError(
            f"The grouping SDP of {n} tasks was not solved ({status}). The matrix is probably numerically extreme: "
            "look at its largest entries, or use method='spectral'."
        )
    iterations = int(problem.solver_stats.num_iters or 0)
    if status != "optimal":
        warnings.warn(
            f"The grouping SDP of {n} tasks stopped after {iterations} steps before it reached eps={eps:g}. Its groups "
            "may be worse than they could be; the reported bound stays valid. Raise `max_iters`, or `eps`.",
            NumericsWarning,
            stacklevel=4,
        )
    multiplier = np.zeros((n, n))
    if nonnegative.dual_value is not None:
        multiplier[np.triu_indices(n, 1)] = np.maximum(np.asarray(nonnegative.dual_value).reshape(-1), 0.0) / 2
    return symmetrise(np.asarray(variable.value)), multiplier + multiplier.T, status, iterations
