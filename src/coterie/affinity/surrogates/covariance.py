"""Covariances between values f(S, t): which runs tell something about which other subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve  # pyright: ignore[reportUnknownVariableType]
from scipy.optimize import minimize  # pyright: ignore[reportUnknownVariableType]

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
    off = ~np.eye(n, dtype=bool)
    symmetric = [np.allclose(table[off], table.T[off]) and (np.abs(table[off]) <= 1).all() for table in tables]
    alike = [_kernel(table) for table, even in zip(tables, symmetric, strict=True) if even and np.ptp(table) > 0]
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


# Almost every covariance between f(S, t) and an observation is a product of something of S and something of the
# observation. The weighted sum over observations then needs only sums that do not depend on S: one number a task, or
# one number a task and partner. The kernel on overlap is no product, but it depends on the two subsets alone, so that
# it is needed once for each observed subset and not for each observed value. The results equal those of the sums over
# observations up to rounding.


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


#: added to the diagonal, in units of the scale
JITTER = 1e-6
#: log-variances and logs of factors stay within
BOUND, FACTOR_BOUND = (-10.0, 7.0), (-2.5, 2.5)


@dataclass(frozen=True)
class ProcessPriors:
    """Priors of the process; measured, see docs/decisions.md.

    Args:
        slope: estimates overstate differences: the share of a difference that is believed before a run.
        mean: prior mean of the log-variance of a covariance.
        deviation: its prior standard deviation.
        spread: prior standard deviation of the log of each task's factor.
        luck: share of the smooth differences between real runs that is the luck of their common seed.
        shift: variance of that luck in a task's level over the variance of one run.
        own: what no other run tells of a value, its variance over that of one run's noise: a run beside it cannot say
            how much of what it does not explain was luck.
        unsure: predictive variances are larger by this number over that of observations and `known`, as variances that
            few observations taught are themselves uncertain.
        known: variances are as sure before a run as so many observations would make them.
        learn: False keeps the prior means.
        steps: at most so many steps of the search.
    """

    slope: float = 0.35
    mean: float = -3.5
    deviation: float = 1.5
    spread: float = 0.7
    luck: float = 0.4
    shift: float = 0.7
    own: float = 0.5
    unsure: float = 24.0
    known: float = 8.0
    learn: bool = True
    steps: int = 40

    def priors(self, likeness: Likeness) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the log-variances, last that of the noise."""
        special = {"level": (0.75, 3.0), "offset": (0.75, 3.0), "slope": (float(np.log(0.15**2)), 0.01)}
        special |= {"task slope": (-4.5, 1.0), "alone": (float(np.log(6.0)), 0.5)}
        usual = [
            special.get(name, (self.mean - 1.5 * name.startswith("feature"), self.deviation)) for name in likeness.names
        ]
        means, deviations = zip(*usual, (0.0, 1.5), strict=True)
        return np.array(means), np.array(deviations)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the marginal likelihood needs.

    Attributes:
        terms: covariances of the observations, each (n, n) with unit variance.
        absolute: (terms,) which of them do not scale with the task's factor.
        observed: (n,) observations minus prior mean.
        task: (n,) their tasks.
        n_tasks: number of tasks.
    """

    terms: Sequence[Floats]
    absolute: NDArray[np.bool_]
    observed: Floats
    task: NDArray[np.int64]
    n_tasks: int

    def covariance(self, variances: Floats, relative: Floats) -> tuple[Floats, Floats, Floats]:
        """Covariance of the observations, the part that scales with the factors, and the scale (n, n) itself."""
        own = relative[self.task]
        scale = np.outer(own, own)
        fixed, scaled = np.zeros_like(scale), np.zeros_like(scale)
        for term, variance, stays in zip(self.terms, variances[:-1], self.absolute, strict=True):
            part = fixed if stays else scaled
            part += variance * term
        scaled *= scale
        scaled[np.diag_indices_from(scaled)] += variances[-1] * own**2
        return fixed + scaled + JITTER * np.eye(len(own)), scaled, scale


def factor(evidence: Evidence, variances: Floats, relative: Floats) -> tuple[Floats, Floats]:
    """Lower Cholesky factor of the covariance of the observations, and covariance^-1 observations."""
    covariance, _, _ = evidence.covariance(variances, relative)
    lower = np.linalg.cholesky(covariance).astype(np.float64)
    weights: Floats = cho_solve((lower, True), evidence.observed) if len(lower) else evidence.observed
    return lower, weights


def negative_log_likelihood(evidence: Evidence, logs: Floats, log_relative: Floats) -> tuple[float, Floats]:
    """-log p(observations) up to a constant, and its gradient in log-variances and logs of the tasks' factors."""
    variances, relative = np.exp(logs), np.exp(log_relative)
    covariance, scaled, scale = evidence.covariance(variances, relative)
    lower = np.linalg.cholesky(covariance)
    weights: Floats = cho_solve((lower, True), evidence.observed)
    value = 0.5 * evidence.observed @ weights + np.log(np.diag(lower)).sum()
    inverse: Floats = cho_solve((lower, True), np.eye(len(lower)))
    slack = inverse - np.outer(weights, weights)
    slack_scaled = slack * scale
    own = [
        0.5 * variance * np.vdot(slack if stays else slack_scaled, term)
        for term, variance, stays in zip(evidence.terms, variances[:-1], evidence.absolute, strict=True)
    ]
    noise = 0.5 * variances[-1] * np.diag(slack_scaled).sum()
    factors = np.bincount(evidence.task, np.einsum("ij,ij->i", slack, scaled), evidence.n_tasks)
    return float(value), np.concatenate([own, [noise], factors])


def learn(
    evidence: Evidence, means: Floats, deviations: Floats, settings: ProcessPriors
) -> tuple[Floats, Floats, float]:
    """Log-variances and tasks' factors where the penalised marginal likelihood is largest; its log up to a constant."""
    count, n = len(means), evidence.n_tasks
    if not len(evidence.observed):
        return means, np.ones(n), 0.0
    centre = np.concatenate([means, np.zeros(n)])
    width = np.concatenate([deviations, np.full(n, settings.spread)])

    def objective(x: Floats) -> tuple[float, Floats]:
        value, gradient = negative_log_likelihood(evidence, x[:count], x[count:])
        away = (x - centre) / width
        return value + 0.5 * float(away @ away), gradient + away / width

    if not settings.learn:
        return means, np.ones(n), -objective(centre)[0]
    bounds = [BOUND] * count + [FACTOR_BOUND] * n
    found = minimize(objective, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": settings.steps})
    x = np.asarray(found.x, dtype=np.float64)
    return x[:count], np.exp(x[count:]), -float(found.fun)
