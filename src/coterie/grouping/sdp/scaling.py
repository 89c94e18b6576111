"""The problem as the solver sees it: shifted, scaled, and read by blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from coterie.grouping.matrix import FloatArray

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
