"""The process without a loop over observations: what they say, added up once into tables of tasks and partners.

Almost every covariance between f(S, t) and an observation is a product of something of S and something of the
observation. The weighted sum over observations then needs only sums that do not depend on S: one number a task, or one
number a task and partner. The kernel on overlap is no product, but it depends on the two subsets alone, so that it is
needed once for each observed subset and not for each observed value. The results equal those of the sums over
observations up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.surrogates.covariance import REACH, Floats, Likeness, Points


@dataclass(frozen=True, eq=False)
class Collapsed:
    """Tables that give sum_i K((S, t), i) w_i for any S and t.

    Attributes:
        constant: (T,) whatever the subset.
        slope: (T,) for each unit of the estimate.
        size: (T,) for each unit of the log of the size.
        alone: (T,) for a task without partners.
        partners: (T, T) [t, j] for partner j, over the root of the number of partners; 0 on the diagonal.
        runs: (R, T) the observed subsets.
        overlap: (R, T) what the kernel on overlap with each is multiplied by.
        typical: size of a typical subset.
    """

    constant: Floats
    slope: Floats
    size: Floats
    alone: Floats
    partners: Floats
    runs: Floats
    overlap: Floats
    typical: float

    def __call__(self, subsets: NDArray[np.bool_], estimates: Floats) -> Floats:
        """(m, T) sums for subsets (m, T) with centred and scaled estimates (m, T); outside of subsets it means nothing.

        Cost: ``2 m T (T + runs)`` multiply-adds.
        """
        member, count = subsets.astype(np.float64), subsets.sum(1, keepdims=True)
        result = self.constant + self.slope * estimates + self.size * np.log(np.maximum(count, 1) / self.typical)
        result += self.alone * (count == 1) + member @ self.partners.T / np.sqrt(np.maximum(count - 1, 1))
        return result + np.exp(-apart(member, self.runs) / REACH) @ self.overlap


def collapse(
    points: Points, weights: Floats, factors: Floats, relative: Floats, likeness: Likeness, typical: float
) -> Collapsed:
    """Add up observations.

    Args:
        points: the observations.
        weights: (n,) of each.
        factors: variance of each covariance, in the order of ``likeness.names``.
        relative: (T,) factors on the tasks' scales.
        likeness: what is known of the tasks.
        typical: size of a typical subset.
    """
    of, n = dict(zip(likeness.names, factors, strict=True)), len(relative)
    scaled, members = weights * relative[points.task], observed(points)

    def each(values: Floats) -> Floats:
        return np.bincount(points.task, values, n).astype(np.float64)

    effects = np.zeros((n, n))
    np.add.at(effects, points.task, scaled[:, None] * points.weights)
    partners = spread(effects[None], factors, likeness)[0]
    np.fill_diagonal(partners, 0.0)
    runs, row = np.unique(members, axis=0, return_inverse=True)
    overlap = np.zeros((len(runs), n))
    np.add.at(overlap, (row.reshape(-1), points.task), scaled)
    lone = (points.partners.sum(1) == 0).astype(np.float64)
    return Collapsed(
        relative * (of["level"] * each(scaled) + of["offset"] * scaled.sum()),
        of["slope"] * (weights @ points.estimate) + of["task slope"] * each(weights * points.estimate),
        relative * of["size"] * (scaled @ points.size),
        relative * of["alone"] * each(scaled * lone),
        relative[:, None] * partners,
        runs,
        of["overlap"] * relative * overlap,
        typical,
    )


def spread(effects: Floats, factors: Floats, likeness: Likeness) -> Floats:
    """Covariances of effects of partners: (m, T, T) tables, [t, j] of partner j on task t, times their covariance.

    The inner product of the result with another table is the covariance of what the two tables weigh.
    """
    of = dict(zip(likeness.names, factors, strict=True))
    result = (of["partners"] + of["mutual"]) * effects + of["mutual"] * effects.swapaxes(1, 2)
    result += of["transfer"] * (likeness.targets @ effects @ likeness.sources)
    for number, feature in enumerate(likeness.features):
        result += of[f"feature {number}"] * np.einsum("mij,ij->m", effects, feature)[:, None, None] * feature
    for number, alike in enumerate(likeness.alike):
        result += of[f"alike {number}"] * (alike @ effects @ alike)
    return result


def observed(points: Points) -> Floats:
    """(n, T) indicators of the subset of each point."""
    members = points.partners.copy()
    members[np.arange(len(points)), points.task] = 1.0
    return members


def apart(a: Floats, b: Floats) -> Floats:
    """(len(a), len(b)) number of tasks in which two subsets differ, from their indicators."""
    return a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T
