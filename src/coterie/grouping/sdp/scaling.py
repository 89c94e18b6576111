"""Scaled matrices of the grouping problem, the lift of partitions, and certificates."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from coterie.grouping.matrix import FloatArray, IntArray
from coterie.grouping.objective import bound_of_lifted

#: entries of a block of rows; three such blocks stay in the cache
BLOCK = 1 << 16
_EPS = float(np.finfo(np.float64).eps)


def row_blocks(n: int, entries: int = BLOCK) -> Iterator[slice]:
    """Slices of rows of an (n, n) matrix with about so many entries each."""
    step = max(1, entries // n)
    return (slice(first, min(first + step, n)) for first in range(0, n, step))


@dataclass(frozen=True, eq=False)
class Scaled:
    """max <U, X> - price tr X with U = given / factor - shift.

    Attributes:
        given: (T, T) symmetric, as the user sees it; never copied, never changed.
        factor: a power of two, so that dividing by it rounds nothing.
        shift: mean off-diagonal entry of given / factor. <ee', X> = T for every feasible X, so it only adds a number.
        k: number of groups; None in the penalised form.
        price: price of a group, in the units of U; 0 in the trace form.
        mean: (T,) row means of U.
        norm: Frobenius norm of P U P.
        rounding: what forming U can change in <U, X> at most.
    """

    given: FloatArray
    factor: float
    shift: float
    k: int | None
    price: float
    mean: FloatArray
    norm: float
    rounding: float

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.given)

    @property
    def size(self) -> float:
        """The unit of the solver: the norm over the root of the rank that X is expected to have."""
        return self.norm / float(np.sqrt(self.k - 1 if self.k is not None else max(1, self.n // 20)))

    def rows(self, which: slice) -> FloatArray:
        """A block of rows of U."""
        block = self.given[which] / self.factor
        block -= self.shift
        return block

    def projected(self, dtype: DTypeLike) -> NDArray[Any]:
        """P U P / size, with P = I - ee'/T."""
        result = np.empty((self.n, self.n), dtype=dtype)
        overall = float(self.mean.mean())
        for which in row_blocks(self.n):
            block = self.rows(which)
            block -= self.mean[which, None] - overall
            block -= self.mean
            np.divide(block, self.size, out=result[which], casting="same_kind")
        return result

    @property
    def constant(self) -> float:
        """<U, ee'/T>."""
        return float(self.mean.sum())

    @property
    def trace(self) -> float:
        """tr U."""
        return float((np.diag(self.given) / self.factor - self.shift).sum())

    def uniform(self, trace: float) -> float:
        """Value of the solution with that trace that treats all tasks alike, in the units of U."""
        spread = (trace - 1) / (self.n - 1)
        return self.constant + spread * (self.trace - self.constant) - self.price * trace

    def in_units_of_given(self, value: float) -> float:
        """A value of U as a value of the given matrix."""
        return self.factor * (value + self.shift * self.n)

    def bound_in_units_of_given(self, value: float) -> float:
        """The same for an upper bound: raised by what adding the constant may round away."""
        return self.in_units_of_given(value) + 4 * _EPS * self.factor * (abs(value) + abs(self.shift) * self.n)


def scale(given: FloatArray, k: int | None, penalty: float) -> Scaled:
    """Shift and scale a symmetric matrix.

    The unit is the largest difference from the shift, not the largest entry: taking the shift off rounds an entry once,
    relative to what is left of it, so that a large constant in the matrix costs nothing here.
    """
    n, top, bottom = len(given), float(given.max()), float(given.min())
    coarse = _power_of_two(max(top, -bottom))
    total = sum(float((given[which] / coarse).sum()) for which in row_blocks(n))
    mean = (total - float((np.diag(given) / coarse).sum())) / (n * (n - 1))
    factor = coarse * _power_of_two(max(top / coarse - mean, mean - bottom / coarse))
    problem = Scaled(given, factor, mean * (coarse / factor), k, penalty / factor, np.zeros(n), 1.0, 0.0)
    means = np.concatenate([problem.rows(which).mean(axis=1) for which in row_blocks(n)])
    square, overall = 0.0, float(means.mean())
    for which in row_blocks(n):
        block = problem.rows(which) - means[which, None] - means + overall
        square += float(np.vdot(block, block))
    # Each entry of U is rounded once by half a unit of something of size 2 at most; X has entries that add up to T.
    rounding = 8 * _EPS * n * (1 + abs(problem.price))
    return replace(problem, mean=means, norm=float(np.sqrt(square)), rounding=rounding)


def _power_of_two(size: float) -> float:
    """The largest one up to `size`; 1 for 0."""
    return float(2.0 ** np.floor(np.log2(size))) if size > 0 else 1.0


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


def nearest_partition(root: FloatArray, k: int) -> IntArray | None:
    """(T,) labels 0..k-1 by k-means from far-apart columns of `root`, or None where there are no k clusters.

    Args:
        root: (r, T) with X = ee'/T + root' root; far more rows than groups mean that X is no partition.
        k: number of groups.
    """
    points = np.ascontiguousarray(root.T)
    n, rank = points.shape
    if not 2 <= k < n or rank > 3 * k + 3 or k > 100:
        return None
    squares = np.einsum("ij,ij->i", points, points)
    chosen = [int(np.argmax(squares))]
    nearest = np.full(n, np.inf)
    while len(chosen) < k:
        last = chosen[-1]
        nearest = np.minimum(nearest, squares + squares[last] - 2 * points @ points[last])
        chosen.append(int(np.argmax(nearest)))
    centres, labels = points[chosen], np.full(n, -1, dtype=np.int64)
    for _ in range(20):
        found = np.argmin((centres**2).sum(axis=1) - 2 * points @ centres.T, axis=1)
        if (found == labels).all():
            break
        labels = found
        sizes = np.bincount(labels, minlength=k)
        if (sizes == 0).any():
            return None
        centres = member_sums(points, labels, k) / sizes[:, None]
    return labels


def member_sums(points: FloatArray, labels: IntArray, k: int) -> FloatArray:
    """(k, d) sums of the points of each group."""
    return np.stack([np.bincount(labels, column, minlength=k) for column in points.T], axis=1).astype(np.float64)


def value_of_partition(problem: Scaled, labels: IntArray) -> float:
    """Sum of densities of U less the price of the groups."""
    k = int(labels.max()) + 1
    inside = np.zeros(k)
    for which in row_blocks(problem.n):
        own = (problem.rows(which) * (labels[which, None] == labels)).sum(axis=1)
        inside += np.bincount(labels[which], own, minlength=k)
    return float((inside / np.bincount(labels)).sum()) - problem.price * k
