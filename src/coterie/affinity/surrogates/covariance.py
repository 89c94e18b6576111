"""Covariances between values f(S, t): which runs tell something about which other subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: two partner sets that differ in so many tasks have a kernel of 1/e
REACH = 4.0
#: share of the centred features' sum of squares that is added before the additive effects of an estimate are solved for
SHRINK = 0.003


@dataclass(frozen=True, eq=False)
class Points:
    """The pairs (S, t) with t in S, one row each.

    Attributes:
        row: (n,) row of the subset in the array that the points were made from.
        task: (n,) task t.
        partners: (n, T) 1 for each other task of S.
        weights: (n, T) the same over the root of their number.
        estimate: (n,) cheap estimate, centred and scaled within the task.
        size: (n,) log of the size of S over a typical size.
    """

    row: NDArray[np.int64]
    task: NDArray[np.int64]
    partners: Floats
    weights: Floats
    estimate: Floats
    size: Floats

    def __len__(self) -> int:
        return len(self.task)

    def take(self, index: slice | NDArray[np.int64]) -> Points:
        """Some of the points."""
        return Points(*(getattr(self, name)[index] for name in Points.__dataclass_fields__))


def make_points(subsets: NDArray[np.bool_], estimates: Floats, typical: float) -> Points:
    """Points of subsets (m, T) with centred and scaled estimates (m, T), subset by subset and task by task."""
    row, task = np.nonzero(subsets)
    partners = subsets[row].astype(np.float64)
    partners[np.arange(len(row)), task] = 0.0
    count = partners.sum(1)
    weights = partners / np.sqrt(np.maximum(count, 1.0))[:, None]
    return Points(row, task, partners, weights, estimates[row, task], np.log((count + 1) / typical))


@dataclass(frozen=True, eq=False)
class Likeness:
    """What is known of the tasks before a run.

    Attributes:
        targets: (T, T) how alike two tasks react to partners, 0 to 1, positive semidefinite.
        sources: (T, T) how alike two tasks act as partners, likewise.
        features: each (T, T), [t, j] says something about what j does to t; centred in each row.
        alike: each (T, T), likeness of tasks by a symmetric feature; positive semidefinite.
    """

    targets: Floats
    sources: Floats
    features: tuple[Floats, ...] = ()
    alike: tuple[Floats, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the covariances, in the order of :func:`covariances`."""
        extra = [f"feature {k}" for k in range(len(self.features))] + [f"alike {k}" for k in range(len(self.alike))]
        return (*TERMS, *extra)


#: level: of each task; offset: of all tasks; slope, task slope: of the estimate; size: of the subset; partners: each
#: partner acts on each task; transfer: alike partners act alike on alike tasks; mutual: j does to t what t does to j;
#: overlap: subsets with almost the same partners; alone: what sets a task without partners apart
TERMS = ("level", "offset", "slope", "task slope", "size", "alone", "partners", "transfer", "mutual", "overlap")


def covariances(a: Points, b: Points, likeness: Likeness, *, paired: bool = False) -> list[Floats]:
    """Covariances of unit variance, one array a term: (len(a), len(b)), or (n,) of row i with row i where `paired`.

    Example:
        >>> p = make_points(np.array([[True, True], [True, False]]), np.zeros((2, 2)), 2.0)
        >>> level = covariances(p, p, Likeness(np.eye(2), np.eye(2)))[0]
        >>> level.tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """

    def dot(x: Floats, y: Floats) -> Floats:
        return np.einsum("ij,ij->i", x, y) if paired else x @ y.T

    def times(x: Floats, y: Floats) -> Floats:
        return x * y if paired else np.outer(x, y)

    def at(table: Floats) -> Floats:
        return table[a.task, b.task] if paired else table[np.ix_(a.task, b.task)]

    def act(points: Points, feature: Floats) -> Floats:
        return np.einsum("ij,ij->i", points.weights, feature[points.task])

    same = at(np.eye(a.weights.shape[1]))
    shared = dot(a.weights, b.weights)
    if paired:
        rows = np.arange(len(a))
        crossed = a.weights[rows, b.task] * b.weights[rows, a.task]
    else:
        crossed = a.weights[:, b.task] * b.weights[:, a.task].T
    count_a, count_b = a.partners.sum(1), b.partners.sum(1)
    apart = (count_a + count_b if paired else np.add.outer(count_a, count_b)) - 2 * dot(a.partners, b.partners)
    slope = times(a.estimate, b.estimate)
    return [
        same,
        np.ones_like(same),
        slope,
        slope * same,
        times(a.size, b.size),
        times((count_a == 0).astype(np.float64), (count_b == 0).astype(np.float64)) * same,
        shared * same,
        dot(a.weights @ likeness.sources, b.weights) * at(likeness.targets),
        shared * same + crossed,
        np.exp(-apart / REACH) * same,
        *(times(act(a, feature), act(b, feature)) for feature in likeness.features),
        *(dot(a.weights @ alike, b.weights) * at(alike) for alike in likeness.alike),
    ]


def find_likeness(
    reference: NDArray[np.bool_], estimates: Floats, typical: float, features: Sequence[Floats] = ()
) -> Likeness:
    """Which tasks are alike, by what a cheap estimate says about reference subsets.

    The estimate is split into effects of each partner on each task by ridge regression. Two tasks react alike where
    their rows of effects correlate, and act alike where their columns do.

    Args:
        reference: bool (m, T).
        estimates: (m, T) centred and scaled within tasks.
        typical: size of a typical subset.
        features: each (T, T); the diagonal is not used, NaN counts as the mean of its row.
    """
    n = reference.shape[1]
    points, effects = make_points(reference, estimates, typical), np.zeros((n, n))
    for task in range(n):
        own = points.task == task
        if own.sum() > 1:
            x, y = points.weights[own], points.estimate[own]
            x = x - x.mean(0)
            effects[task] = np.linalg.solve(x.T @ x + SHRINK * own.sum() * np.eye(n), x.T @ (y - y.mean()))
    effects = _off_diagonal(effects)
    tables = [_off_diagonal(np.array(feature, dtype=np.float64)) for feature in features]
    centred = [table - table.mean(1, keepdims=True) for table in tables]
    for table in centred:
        np.fill_diagonal(table, 0.0)
    alike = [_kernel(table) for table in tables if np.ptp(table) > 0 and _symmetric(table)]
    return Likeness(
        _kernel(_cosines(effects - effects.mean(1, keepdims=True))),
        _kernel(_cosines((effects - effects.mean(0)).T)),
        tuple(table / table.std() for table in centred if table.std() > 1e-12),
        tuple(alike),
    )


def _off_diagonal(table: Floats) -> Floats:
    """The table with its diagonal and NaN replaced by the mean of the row."""
    table = table.copy()
    np.fill_diagonal(table, np.nan)
    known = ~np.isnan(table)
    mean = np.where(known, table, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(known, table, mean[:, None])


def _symmetric(table: Floats) -> bool:
    off = ~np.eye(len(table), dtype=bool)
    return bool(np.allclose(table[off], table.T[off])) and bool((np.abs(table[off]) <= 1).all())


def _cosines(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1)
    rows = rows / np.where(norms > 1e-12, norms, 1.0)[:, None]
    return rows @ rows.T


def _kernel(table: Floats) -> Floats:
    """The nearest positive semidefinite matrix to the positive part, with a diagonal of 1."""
    table = np.clip((table + table.T) / 2, 0.0, None)
    np.fill_diagonal(table, 1.0)
    values, vectors = np.linalg.eigh(table)
    table = (vectors * np.clip(values, 0.0, None)) @ vectors.T
    scale = np.sqrt(np.diag(table))
    return table / scale[:, None] / scale
