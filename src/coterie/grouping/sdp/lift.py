"""From a nonnegative matrix with unit row sums to a feasible one: add what it lacks to be positive semidefinite."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.grouping.matrix import FloatArray
from coterie.grouping.sdp.scaling import Scaled, row_blocks

#: up to so many tasks all eigenvalues are computed; above, a few Lanczos steps and a Cholesky factorisation
_ALL = 600


@dataclass(frozen=True)
class Lift:
    """a Z + b I + c ee'/T and its value in the units of U."""

    a: float
    b: float
    c: float
    value: float


def lift(problem: Scaled, X: FloatArray) -> Lift | None:
    """Overwrite X by Z >= 0 with unit row sums near it, and find a, b and c that make it feasible.

    Z is the positive part of X, scaled symmetrically to unit row sums (Sinkhorn). With delta = -(smallest eigenvalue
    of Z), a Z + b I is positive semidefinite for b >= a delta; the trace then sets the rest.

    Returns:
        None where no such combination exists.
    """
    n = problem.n
    _scale_rows(X)
    trace = float(np.trace(X))
    short = lacking(X)
    if short is None:
        return None
    if problem.k is None:
        a, c = 1 / (1 + short), 0.0
        b = a * short
    else:
        below = trace - 1 + short * (n - 1)
        a = (problem.k - 1) / below if below > 0 else np.inf
        b = a * short
        c = 1 - a - b
        if c < 0:  # the trace is too small: the identity takes what is left
            b = (problem.k - trace) / (n - trace)
            a, c = 1 - b, 0.0
            if not (a >= 0 and b >= a * short):
                return None
    overlap = float(sum(np.vdot(problem.rows(which), X[which]) for which in row_blocks(n)))
    value = a * overlap + b * problem.trace + c * problem.constant - problem.price * (a * trace + b * n + c)
    return Lift(a, b, c, value)


def _scale_rows(x: FloatArray) -> None:
    """Positive part, scaled to D X D with unit row sums, in place; what the scaling leaves goes to the diagonal."""
    np.maximum(x, 0.0, out=x)
    d = np.ones(len(x))
    for _ in range(25):
        sums = d * (x @ d)
        if float(np.abs(sums - 1).max()) < 1e-13:
            break
        d /= np.sqrt(sums)
    for which in row_blocks(len(x)):
        x[which] *= d[which, None]
        x[which] *= d
    x.flat[:: len(x) + 1] += 1 - x.sum(axis=1)


def lacking(Z: FloatArray) -> float | None:
    """A delta >= 0, as small as is cheap to find, such that Z + delta I is positive semidefinite."""
    linalg: Any = importlib.import_module("scipy.linalg")
    n = len(Z)
    margin = 8 * n * float(np.finfo(np.float64).eps)
    if n <= _ALL:
        lowest = float(linalg.eigh(Z, eigvals_only=True, check_finite=False, driver="evd")[0])
        return max(0.0, margin - lowest)
    delta = 1.05 * max(0.0, -_lowest(Z)) + margin
    for _ in range(6):
        work = Z.copy()
        work.flat[:: n + 1] += delta
        # One triangle in place; the test for definiteness is whether this succeeds.
        if linalg.lapack.dpotrf(work.T, lower=1, overwrite_a=1, clean=0)[1] == 0:
            return delta
        delta = 1.25 * delta + margin
    return None


def _lowest(Z: FloatArray, steps: int = 40) -> float:
    """Smallest eigenvalue by Lanczos: never below the true one, and close after some steps."""
    n = len(Z)
    basis = np.empty((steps, n))
    vector = np.random.default_rng(0).standard_normal(n)
    vector -= vector.mean()
    diagonal, beside = list[float](), list[float]()
    for step in range(steps):
        basis[step] = vector / np.linalg.norm(vector)
        vector = Z @ basis[step]
        diagonal.append(float(vector @ basis[step]))
        for _ in range(2):
            vector -= (basis[: step + 1] @ vector) @ basis[: step + 1]
        beside.append(float(np.linalg.norm(vector)))
        if beside[-1] < 1e-12:
            break
    count = len(diagonal)
    tridiagonal = np.diag(diagonal) + np.diag(beside[: count - 1], 1) + np.diag(beside[: count - 1], -1)
    return float(np.linalg.eigvalsh(tridiagonal)[0])
