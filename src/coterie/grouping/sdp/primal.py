"""The primal side: exactly feasible solutions near the one that the iteration has reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.grouping.matrix import FloatArray, IntArray
from coterie.grouping.sdp.eigen import centre, orthonormal
from coterie.grouping.sdp.lift import Lift, lift
from coterie.grouping.sdp.partition import nearest_partition, value_of_partition
from coterie.grouping.sdp.scaling import Scaled, row_blocks


@dataclass(frozen=True, eq=False)
class Primal:
    """A feasible solution: (T, T) X in float64, its value in the units of U (price included), and its trace."""

    X: FloatArray
    value: float
    trace: float


def feasible(problem: Scaled, rows: NDArray[Any], weights: FloatArray, *, lifting: bool = True) -> Primal:
    """The best of three feasible solutions near ee'/T + rows' diag(weights) rows, whose entries may be negative.

    * Mixed with the solution that treats all tasks alike, just enough to make every entry nonnegative.
    * Its nonnegative part with row sums scaled to 1, made positive semidefinite by a multiple of the identity.
    * The partition that its rows fall into, when they fall into about as many clusters as there are groups.

    Args:
        problem: the scaled problem.
        rows: (r, T) eigenvectors on the complement of e, orthonormal up to the rounding of their type.
        weights: (r,) eigenvalues, 0..1, in the trace form with sum k - 1.
        lifting: also try the second, which takes most of the time.
    """
    root = np.sqrt(weights)[:, None] * orthonormal(centre(rows.astype(np.float64)))
    x = form(root)
    trace = 1.0 + float(weights.sum())
    value = inner(problem, x) - problem.price * trace
    short = max(0.0, -float(x.min()))
    best, mixed = _mixture(problem, value, trace, short)
    labels = nearest_partition(root, problem.k or round(trace))
    if labels is not None:
        found = value_of_partition(problem, labels)
        if found >= best:
            return _partition(problem, labels, found)
    if short == 0.0:
        return Primal(x, value, trace)
    towards, share = mixed
    if lifting:
        made = lift(problem, x)
        if made is not None and made.value > best:
            return _lifted(problem, x, made)
        x = form(root)  # the lift has overwritten it
    return _blend(problem, x, share, towards, trace)


def form(root: FloatArray) -> FloatArray:
    """ee'/T + root' root."""
    n = root.shape[1]
    x = np.empty((n, n))
    for which in row_blocks(n, 1 << 19):
        np.matmul(root[:, which].T, root, out=x[which])
    x += 1 / n
    return x


def inner(problem: Scaled, x: FloatArray) -> float:
    """<U, X>."""
    return float(sum(np.vdot(problem.rows(which), x[which]) for which in row_blocks(problem.n)))


def _mixture(problem: Scaled, value: float, trace: float, short: float) -> tuple[float, tuple[float, float]]:
    """Best value of (1-t) X + t X0 with nonnegative entries, and the trace of X0 with t.

    X0 treats all tasks alike. Its trace is that of X or, where the trace is free, also 1, which has larger entries.
    """
    n, options = problem.n, list[tuple[float, tuple[float, float]]]()
    for towards in (trace,) if problem.k is not None else (trace, 1.0):
        smallest = (1 - (towards - 1) / (n - 1)) / n
        if smallest + short > 0:
            share = short / (short + max(smallest, 0.0))
            options.append(((1 - share) * value + share * problem.uniform(towards), (towards, share)))
    return max(options)


def _blend(problem: Scaled, x: FloatArray, share: float, towards: float, trace: float) -> Primal:
    """(1-t) X + t X0, in place."""
    n = problem.n
    spread = (towards - 1) / (n - 1)
    x *= 1 - share
    x += share * (1 - spread) / n
    x.flat[:: n + 1] += share * spread
    np.maximum(x, 0.0, out=x)  # rounding only
    trace = (1 - share) * trace + share * towards
    return Primal(x, inner(problem, x) - problem.price * trace, trace)


def _lifted(problem: Scaled, z: FloatArray, made: Lift) -> Primal:
    """a z + b I + c ee'/T, in place."""
    n = problem.n
    z *= made.a
    z += made.c / n
    z.flat[:: n + 1] += made.b
    trace = float(np.trace(z))
    return Primal(z, inner(problem, z) - problem.price * trace, trace)


def _partition(problem: Scaled, labels: IntArray, value: float) -> Primal:
    """1 / size within groups, 0 elsewhere."""
    sizes = np.bincount(labels)
    x = np.empty((problem.n, problem.n))
    for which in row_blocks(problem.n, 1 << 19):
        x[which] = (labels[which, None] == labels) / sizes[labels[which]][:, None]
    return Primal(x, value, float(len(sizes)))
