"""The iteration: alternating projections with multipliers between the Fantope and the nonnegative orthant.

One matrix W is the whole state: its positive part is the nonnegative copy of X, its negative part the multiplier. A
step projects |W| + A/rho on the spectral set (one eigendecomposition) and moves W towards the result.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from coterie._show import short_repr
from coterie.grouping.matrix import FloatArray
from coterie.grouping.sdp.eigen import BlockEigenStep, DenseEigenStep, EigenStep, centre, orthonormal
from coterie.grouping.sdp.scaling import Scaled, row_blocks

# X = ee'/T + Y is feasible up to its signs when Y e = 0, 0 <= Y <= I and, in the trace form, tr Y = k - 1. The nearest
# such Y to a matrix with eigenvalues g on the complement of e has the same eigenvectors and eigenvalues
# clip(g - theta, 0, 1); the trace, or the price of a group, sets theta.

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


Rows = NDArray[Any]
#: over-relaxation
ALPHA = 1.8
#: primal residuals weigh so much more than dual ones in the balance: a feasible solution is what is missing at the end
BALANCE = 5.0
#: steps towards nonnegative entries at a look at the certificate, and how far beyond 0 each of them aims
POLISH, BEYOND = 12, 2.0
#: up to so many tasks all eigenpairs are computed
DENSE = 120
#: above so many, all eigenpairs cost more than a block that misses some of them
LARGE = 2_500


@dataclass(frozen=True)
class Residuals:
    """After a step: smallest entry of X, ||X - Z|| and rho ||Z - Z before||."""

    smallest: float
    primal: float
    dual: float


class Iteration:
    """State and step: `state` is W, `shifted` is |W| + A / rho.

    Args:
        problem: the scaled problem.
        dtype: of the state.
        start: where to start; None: from the leading eigenvectors of the matrix.
        seed: of the first block of vectors.
    """

    def __init__(self, problem: Scaled, dtype: DTypeLike, start: WarmStart | None = None, seed: int = 0) -> None:
        self.problem = problem
        self.A: Rows = problem.projected(dtype)
        n = problem.n
        self.rho = 1.0
        self.eigen, values, rows = _first_vectors(problem, self.A, start, seed)
        self.state: Rows = np.empty((0, 0), dtype=dtype)
        if start is None:
            leading = rows[: problem.k - 1] if problem.k is not None else rows[values > problem.price / problem.size]
            self.state = leading.T @ leading
            self.state += 1 / n
        else:
            weight = start.weight / (problem.size * problem.factor)
            self.rho = float(np.clip(weight, 0.1, 10.0))
            self.state = start.state.astype(dtype)
            self._reweigh(weight / self.rho)
        self.shifted: Rows = np.empty_like(self.state)
        self._rebuild()
        self.vectors: Rows = rows
        self.weights: FloatArray = np.zeros(len(rows))
        self.wanted = max((problem.k or 2) - 1, 1)

    def step(self, *, measure: bool) -> Residuals | None:
        """One step; the residuals cost a few more passes over the state."""
        values, rows = self.eigen(self.shifted, self.wanted)
        found, _ = weights(values, self.problem.k, self.problem.price / (self.problem.size * self.rho))
        used = found > 0
        self.wanted = max(int(used.sum()), 1)
        self.weights, self.vectors = found[used], rows[used]
        n = self.problem.n
        if isinstance(self.eigen, BlockEigenStep) and self.wanted > 0.35 * n and n <= LARGE:
            self.eigen = DenseEigenStep(n)
        return self._move(measure)

    def balance(self, residuals: Residuals) -> None:
        """Change rho when one kind of residual is far larger than the other."""
        ratio = float(np.clip(np.sqrt(BALANCE * residuals.primal / max(residuals.dual, 1e-300)), 0.25, 4.0))
        if ratio > 1.4 or ratio < 1 / 1.4:
            self.rho *= ratio
            self._reweigh(1 / ratio)
            self._rebuild()

    def polished(self, goal: float | None) -> tuple[Rows, FloatArray, float]:
        """Eigenvectors and eigenvalues of a matrix of the spectral set near X with hardly any negative entries.

        The objective is left out: negative entries are mirrored (times BEYOND - 1) and the result is projected on the
        spectral set, up to POLISH times. That costs little value and converges fast, while the entries of X itself
        stay negative for hundreds of steps where the optimum has many small ones.

        Args:
            goal: stop where that value, in the units of U with the price, is reached by a mixture with the uniform
                solution or is out of reach, since each step costs some value; None: go on until nothing is negative.

        Returns:
            The vectors, the values, and what the matrix is worth in the units of U, negative entries or not.
        """
        rows, found, eigen = self.vectors, self.weights, copy(self.eigen)
        smallest, value = self._mirrored(rows, found)
        for _ in range(POLISH):
            short = max(-smallest, 0.0)
            lost = (value - self.problem.uniform(1 + float(found.sum()))) * short / (short + 1 / self.problem.n)
            if short == 0 or (goal is not None and not value - lost < goal <= value):
                break
            # Mirroring raises the rank; half as many again are followed, so that the block keeps up.
            values, rows = eigen(self.shifted, max(3 * len(found) // 2, 1))
            found, _ = weights(values, self.problem.k, 0.0)
            rows, found = rows[found > 0], found[found > 0]
            smallest, value = self._mirrored(rows, found)
        self._rebuild()
        return rows, found, value

    def _mirrored(self, rows: Rows, found: FloatArray) -> tuple[float, float]:
        """Put X + BEYOND * max(-X, 0) into `shifted`; returns the smallest entry of X and its value."""
        n, smallest, overlap = self.problem.n, np.inf, 0.0
        root = (np.sqrt(found)[:, None] * rows).astype(self.state.dtype)
        for which in row_blocks(n):
            x = root[:, which].T @ root
            overlap += float(np.vdot(self.A[which], x))
            x += x.dtype.type(1 / n)
            smallest = min(smallest, float(x.min()))
            shifted = self.shifted[which]
            np.minimum(x, 0, out=shifted)
            shifted *= x.dtype.type(-BEYOND)
            shifted += x
        price = self.problem.price * (1 + float(found.sum()))
        return smallest, self.problem.constant + self.problem.size * overlap - price

    @property
    def weight(self) -> float:
        """N = -weight * min(W, 0) in the units of U."""
        return self.rho * self.problem.size

    def warm(self) -> WarmStart:
        """The state, for another problem on the same tasks."""
        return WarmStart(self.state, self.weight * self.problem.factor, self.eigen.basis[: max(2 * self.wanted, 10)])

    def _move(self, measure: bool) -> Residuals | None:
        """W += alpha (X - max(W, 0)) and |W| + A / rho, block by block so that each block is read once."""
        n, dtype = self.problem.n, self.state.dtype.type
        root = np.empty((len(self.weights) + 1, n), dtype=self.state.dtype)
        np.multiply(self.vectors, np.sqrt(self.weights)[:, None], out=root[:-1], casting="same_kind")
        root[-1] = 1 / np.sqrt(n)
        smallest, primal, dual = np.inf, 0.0, 0.0
        alpha, inverse = dtype(ALPHA), dtype(1 / self.rho)
        for which in row_blocks(n):
            state, shifted = self.state[which], self.shifted[which]
            x = root[:, which].T @ root
            if measure:
                smallest = min(smallest, float(x.min()))
            np.maximum(state, 0, out=shifted)
            x -= shifted
            if measure:
                primal += float(np.vdot(x, x))
            x *= alpha
            state += x
            if measure:
                shifted -= np.maximum(state, 0)
                dual += float(np.vdot(shifted, shifted))
            np.multiply(self.A[which], inverse, out=shifted)
            np.abs(state, out=x)
            shifted += x
        return Residuals(smallest, float(np.sqrt(primal)), self.rho * float(np.sqrt(dual))) if measure else None

    def _reweigh(self, ratio: float) -> None:
        """Multiply the negative part of W in place."""
        for which in row_blocks(self.problem.n):
            state = self.state[which]
            np.multiply(state, state.dtype.type(ratio), out=state, where=state < 0)

    def _rebuild(self) -> None:
        """`shifted` = |W| + A / rho, whose projection is the next X."""
        inverse = self.state.dtype.type(1 / self.rho)
        for which in row_blocks(self.problem.n):
            np.multiply(self.A[which], inverse, out=self.shifted[which])
            self.shifted[which] += np.abs(self.state[which])


def _first_vectors(problem: Scaled, A: Rows, start: WarmStart | None, seed: int) -> tuple[EigenStep, FloatArray, Rows]:
    """How eigenpairs are found, and those of A itself."""
    n, k = problem.n, problem.k or 1
    if n <= DENSE or (k > 0.3 * n and n <= LARGE):
        dense = DenseEigenStep(n)
        return dense, *dense(A, n)
    count = min(n // 3, max(int(0.12 * n) if n <= 1000 else 60 + n // 50, int(1.2 * k) + 10))
    generator = np.random.default_rng(seed)
    basis = generator.standard_normal((count, n)).astype(A.dtype)
    if start is not None:
        known = start.basis.astype(A.dtype)
        basis = np.concatenate([known, basis[: max(count - len(known), 8)]])
        return BlockEigenStep(orthonormal(centre(basis)), seed), np.zeros(len(basis)), orthonormal(centre(basis))
    block = BlockEigenStep(orthonormal(centre(basis)), seed)
    values, rows = block(A, int(len(block.basis) / 1.2))
    for _ in range(6):
        wanted = max(k, int((values > problem.price / problem.size).sum()) if problem.k is None else 0)
        values, rows = block(A, max(wanted, int(0.8 * count)))
    return block, values, rows
