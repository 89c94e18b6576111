"""The clustering SDP by alternating projections with multipliers: no modelling layer, no conic solver, only numpy.

max <A, X> over { X e = e, tr X = k, 0 <= X on the complement of e <= 1 } and { X >= 0 }. The first set is projected
on by one eigendecomposition, the second by clipping. Both ends of the bracket that is returned are certified by hand:
the lower end is the value of an exactly feasible X, the upper end comes from a nonnegative multiplier.
"""

from __future__ import annotations

import numpy as np


def _project(matrix, k):
    """Nearest ee'/n + Y with Y e = 0, 0 <= Y <= I, tr Y = k - 1."""
    n = len(matrix)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(centre @ matrix @ centre - 1e9 * np.full((n, n), 1 / n))
    values, vectors = values[1:], vectors[:, 1:]  # the first belongs to e
    low, high = values.min() - 1, values.max()
    for _ in range(60):
        theta = (low + high) / 2
        if np.clip(values - theta, 0, 1).sum() > k - 1:
            low = theta
        else:
            high = theta
    return (vectors * np.clip(values - theta, 0, 1)) @ vectors.T + 1 / n


def bracket(matrix, k: int, steps: int = 1_500) -> tuple[float, float]:
    """(value of a feasible X, upper bound) for 1 < k < n."""
    given = np.asarray(matrix, dtype=float)
    given = (given + given.T) / 2
    n = len(given)
    centre = np.eye(n) - 1 / n
    scale = np.linalg.norm(centre @ given @ centre) / np.sqrt(k - 1)
    a = given / scale
    z = np.full((n, n), 1 / n) + (k - 1) / (n - 1) * (np.eye(n) - 1 / n)
    u = np.zeros((n, n))
    for _ in range(steps):
        x = _project(z - u + a, k)
        relaxed = 1.8 * x - 0.8 * z
        z = np.maximum(relaxed + u, 0)
        u = u + relaxed - z
        if np.abs(x - z).max() < 1e-12:
            break
    flat = 1 / n + (k - 1) / (n - 1) * (np.eye(n) - 1 / n)  # strictly inside
    short = max(0.0, -x.min())
    inside = flat[0, 1]
    mixed = x + short / (short + inside) * (flat - x)
    lifted = a + np.maximum(-u, 0)
    basis = np.linalg.svd(np.ones((1, n)))[2][1:]
    values = np.sort(np.linalg.eigvalsh(basis @ lifted @ basis.T))[::-1]
    return scale * float((a * mixed).sum()), scale * float(lifted.sum() / n + values[: k - 1].sum())


def by_scs(matrix, k: int | None = None, penalty: float = 0.0, eps: float = 1e-7) -> tuple[np.ndarray, float]:
    """X and the value of the relaxation, stated with cvxpy and solved by SCS; for up to some dozens of tasks."""
    import cvxpy as cp

    given = np.asarray(matrix, dtype=float)
    given = (given + given.T) / 2
    x = cp.Variable(given.shape, PSD=True)
    constraints = [x >= 0, cp.sum(x, axis=1) == 1]
    objective = cp.sum(cp.multiply(given, x)) - penalty * cp.trace(x)
    if k is not None:
        constraints.append(cp.trace(x) == k)
    problem = cp.Problem(cp.Maximize(objective), constraints)
    problem.solve(solver=cp.SCS, eps_abs=eps, eps_rel=eps, max_iters=100_000)
    assert problem.status == "optimal"
    return np.asarray(x.value), float(problem.value)
