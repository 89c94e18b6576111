"""How sure sums of many values f(S, t) are, such as the total of a grouping: their joint posterior covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular  # pyright: ignore[reportUnknownVariableType]

from coterie.affinity.surrogates.collapsed import apart, observed, spread
from coterie.affinity.surrogates.covariance import REACH, Floats
from coterie.affinity.surrogates.process import SubsetProcess

#: entries of the tables of effects that are held at a time
_HELD = 2**24


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums of values, one a subset S: over t in S of ``c[t] f(S, t) + d[t] f({t}, t)``.

    Attributes:
        subsets: bool (m, T).
        estimates: (m, T) cheap estimates of the values in the subsets.
        weights: (m, T) c.
        alone: (T,) cheap estimates of the tasks alone.
        alone_weights: (m, T) d.
    """

    subsets: NDArray[np.bool_]
    estimates: Floats
    weights: Floats
    alone: Floats
    alone_weights: Floats


def covariance_of_sums(process: SubsetProcess, sums: Sums) -> Floats:
    """(m, m) posterior covariance of weighted sums of values.

    The values of different tasks and subsets are known from the same runs and estimates, so that their errors go
    together: a difference between two groupings is often surer than either total.

    Args:
        process: see :func:`coterie.affinity.surrogates.process.fit_process`.
        sums: what is summed.

    Returns:
        Squared units of the weighted values.

    Cost: ``m T (T (T + m) + n)`` multiply-adds for n observations; no loop over pairs of points.
    """
    parts = _parts(process, sums)
    factors = process.factors(False)
    prior, across = _simple(process, parts, factors)
    m, n = sums.subsets.shape
    effects = parts.scaled[:, :, None] * parts.partners[:, None, :]
    effects[:, np.arange(n), np.arange(n)] = 0.0
    step, flat = max(1, _HELD // (n * n)), effects.reshape(m, -1)
    acting = np.flatnonzero(flat.any(1))  # tasks alone have no partners
    for start in range(0, len(acting), step):
        rows = acting[start : start + step]
        moved = spread(effects[rows], factors, process.likeness)
        prior[rows] += moved.reshape(len(moved), -1) @ flat.T
        for task in range(n):
            own = process.points.task == task
            if own.any():
                scale = process.relative[task]
                across[np.ix_(rows, own)] += scale * (moved[:, task] @ process.points.weights[own].T)
    if len(process.points):
        half = solve_triangular(process.factor, across.T, lower=True)
        prior -= half.T @ half
    return process.inflation * (prior + prior.T) / 2


@dataclass(frozen=True, eq=False)
class _Parts:
    """Weights in units of the process: `fixed` of values, `scaled` also by the tasks' factors; tasks alone likewise."""

    members: Floats
    partners: Floats
    size: Floats
    lone: Floats
    estimates: Floats
    fixed: Floats
    scaled: Floats
    alone_estimates: Floats
    alone_fixed: Floats
    alone_scaled: Floats
    alone_size: float


def _parts(process: SubsetProcess, sums: Sums) -> _Parts:
    inside = sums.subsets
    count = inside.sum(1)
    fixed = np.where(inside, sums.weights * process.scale, 0.0)
    alone_fixed = np.where(inside, sums.alone_weights * process.scale, 0.0)
    member = inside.astype(np.float64)
    return _Parts(
        member,
        member / np.sqrt(np.maximum(count - 1, 1))[:, None],
        np.log(count / process.typical),
        (count == 1).astype(np.float64),
        np.where(inside, (sums.estimates - process.centre) / process.scale, 0.0),
        fixed,
        fixed * process.relative,
        (sums.alone - process.centre) / process.scale,
        alone_fixed,
        alone_fixed * process.relative,
        float(-np.log(process.typical)),
    )


def _simple(process: SubsetProcess, parts: _Parts, factors: Floats) -> tuple[Floats, Floats]:
    """Prior covariance (m, m) of all terms but the effects of partners, and the one (m, n) with the observations."""
    of, points = dict(zip(process.likeness.names, factors, strict=True)), process.points
    task, relative = points.task, process.relative[points.task]
    level = parts.scaled + parts.alone_scaled
    lone = parts.scaled * parts.lone[:, None] + parts.alone_scaled
    total = level.sum(1)
    size = parts.scaled.sum(1) * parts.size + parts.alone_scaled.sum(1) * parts.alone_size
    slope = parts.fixed * parts.estimates + parts.alone_fixed * parts.alone_estimates
    prior = (of["level"] + process.shared_luck) * level @ level.T + of["offset"] * np.outer(total, total)
    prior += of["slope"] * np.outer(slope.sum(1), slope.sum(1)) + of["task slope"] * slope @ slope.T
    prior += of["size"] * np.outer(size, size) + of["alone"] * lone @ lone.T
    seen_lone = (points.partners.sum(1) == 0).astype(np.float64)
    across = of["level"] * level[:, task] + of["offset"] * total[:, None] + of["alone"] * lone[:, task] * seen_lone
    across = relative * (across + of["size"] * np.outer(size, points.size))
    across += points.estimate * (of["slope"] * slope.sum(1)[:, None] + of["task slope"] * slope[:, task])
    # the kernel on overlap: a task alone differs from its group in all its partners
    near = np.exp(-(parts.members.sum(1) - 1) / REACH)[:, None] * parts.scaled
    with_alone = near @ parts.alone_scaled.T
    overlap = np.exp(-apart(parts.members, parts.members) / REACH) * (parts.scaled @ parts.scaled.T)
    prior += of["overlap"] * (overlap + with_alone + with_alone.T + parts.alone_scaled @ parts.alone_scaled.T)
    kernel = np.exp(-apart(parts.members, observed(points)) / REACH) * parts.scaled[:, task]
    kernel += np.exp(-points.partners.sum(1) / REACH) * parts.alone_scaled[:, task]
    return prior, across + of["overlap"] * relative * kernel
