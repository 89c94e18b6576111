"""How much a single group can be worth at most when each task that it serves has to be paid for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from coterie.grouping.cover.problem import CoverProblem
from coterie.grouping.cover.scores import MatrixScores
from coterie.grouping.matrix import FloatArray, IntArray

#: group sizes at which an eigenvalue is computed; between them it is interpolated
_SIZES = 7


@dataclass(frozen=True, eq=False)
class GroupBound:
    """Upper bound on worth / cost of any group, and how much more each price would lower it.

    Attributes:
        ratio: bound; 0 at least, since no group need be taken.
        slope: (T,) a subgradient of the ratio with respect to the prices, not positive.
    """

    ratio: float
    slope: FloatArray


@final
class Pricing:
    """Bounds on max over groups G of (sum over t in G of max(0, score(t|G) - price_t)) / cost(G), for a matrix.

    For every group size two bounds hold, and the smaller one counts:

    * every task has the best partners of its own row, whoever else is in the group;
    * a group is a pair of disjoint 0-1 vectors (served y, helpers h) of squared length |G|, and its worth is a
      quadratic form in them, so |G| times the largest eigenvalue bounds it. A multiple of y_t h_t = 0 may be taken
      off; with the largest eigenvalue of the symmetric part, helpers cost nothing in the bound where rows differ by
      little else. The form is affine in 1 / (|G| - 1) and its largest eigenvalue convex in that, so that a line
      between two sizes bounds those between them.

    This is a derivation made here.

    Args:
        problem: scores from a matrix.
        scores: its scores.
    """

    def __init__(self, problem: CoverProblem, scores: MatrixScores) -> None:
        n = problem.n
        self.n, self.singles = n, scores.singles
        self.most = max(1, problem.largest_group)
        counts = np.arange(1, n + 1)
        self.costs = problem.model_cost + np.cumsum(np.sort(problem.task_costs))
        off = np.where(np.eye(n, dtype=bool), -np.inf, scores.matrix)
        ranked = -np.sort(-off, axis=1)[:, : n - 1]
        #: (T-1, T) row g-2: mean affinity of each task with its g-1 best partners
        self.tops = (np.cumsum(ranked, axis=1) / counts[: n - 1]).T
        # A row with its mean on the diagonal: its score is that mean plus (centred row . members) / (size - 1).
        self.means = scores.matrix.sum(axis=1) / max(n - 1, 1)
        self.centred = np.where(np.eye(n, dtype=bool), 0.0, scores.matrix - self.means[:, None])

    @cached_property
    def overlap(self) -> float:
        """Multiple of the products y_t h_t, which are 0, that is taken off the form."""
        return max(0.0, float(np.linalg.eigvalsh((self.centred + self.centred.T) / 2)[-1]))

    @cached_property
    def best_scores(self) -> FloatArray:
        """(T,) the best that each task can have in any group."""
        return np.maximum(self.singles, self.tops[0]) if self.most > 1 else self.singles

    def bound(self, prices: FloatArray) -> GroupBound:
        """The bound at prices (T,).

        Cost:
            T^2 log T, and a handful of eigendecompositions of a 2T x 2T matrix.
        """
        alone = self.singles - prices
        task = int(np.argmax(alone))
        ratio, slope = 0.0, np.zeros(self.n)
        if alone[task] > 0:
            ratio, slope = alone[task] / self.costs[0], -self._indicator(np.array([task])) / self.costs[0]
        if self.most < 2:
            return GroupBound(float(ratio), slope)
        sizes = np.arange(2, self.most + 1)
        gains = self.tops[: self.most - 1] - prices
        own = self._own_partners(gains, sizes)
        spectral, vectors = self._spectral(prices, sizes)
        values = np.minimum(own, spectral) / self.costs[sizes - 1]
        worst = int(np.argmax(values))
        if values[worst] <= ratio:
            return GroupBound(float(ratio), slope)
        if own[worst] <= spectral[worst]:
            chosen = np.argsort(-gains[worst])[: sizes[worst]]
            slope = -self._indicator(chosen[gains[worst][chosen] > 0])
        else:
            slope = -vectors(worst)
        return GroupBound(float(values[worst]), slope / self.costs[sizes[worst] - 1])

    def _own_partners(self, gains: FloatArray, sizes: IntArray) -> FloatArray:
        """(sizes,) first bound: the largest gains, as many as there are places."""
        ranked = np.maximum(-np.sort(-gains, axis=1), 0.0)
        return np.take_along_axis(np.cumsum(ranked, axis=1), sizes[:, None] - 1, axis=1)[:, 0]

    def _spectral(self, prices: FloatArray, sizes: IntArray) -> tuple[FloatArray, _Slopes]:
        """(sizes,) second bound, and its slopes with respect to minus the prices."""
        knots = np.unique(np.geomspace(sizes[0], sizes[-1], _SIZES).round().astype(np.int64))
        values, squares = np.empty(len(knots)), np.empty((len(knots), self.n))
        for row, size in enumerate(knots):
            values[row], squares[row] = self._largest(prices, 1 / (int(size) - 1))
        # interp needs rising abscissae: 1 / (size - 1) falls with the size
        at, known = 1 / (sizes - 1), 1 / (knots - 1)
        bound = np.maximum(sizes * np.interp(at, known[::-1], values[::-1]), 0.0)
        return bound, _Slopes(at, known, squares, sizes)

    def _largest(self, prices: FloatArray, scale: float) -> tuple[float, FloatArray]:
        """Largest eigenvalue of the form, raised by its rounding error, and the squares of the served half."""
        from scipy.linalg import eigh

        n = self.n
        form = np.zeros((2 * n, 2 * n))
        form[:n, :n] = scale * (self.centred + self.centred.T) / 2 + np.diag(self.means - prices)
        form[:n, n:] = scale * (self.centred - self.overlap * np.eye(n)) / 2
        form[n:, :n] = form[:n, n:].T
        value, vector = eigh(form, subset_by_index=(2 * n - 1, 2 * n - 1), check_finite=False)
        rounding = 8 * n * float(np.finfo(np.float64).eps) * float(np.linalg.norm(form))
        return float(value[0]) + rounding, np.asarray(vector[:n, 0] ** 2)

    def _indicator(self, tasks: IntArray) -> FloatArray:
        found = np.zeros(self.n)
        found[tasks] = 1.0
        return found


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Slopes of the interpolated eigenvalue bound, one size at a time."""

    at: FloatArray
    known: FloatArray
    squares: FloatArray
    sizes: IntArray

    def __call__(self, row: int) -> FloatArray:
        columns = [np.interp(self.at[row], self.known[::-1], column[::-1]) for column in self.squares.T]
        return float(self.sizes[row]) * np.array(columns)
