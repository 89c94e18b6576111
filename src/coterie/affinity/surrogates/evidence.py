"""Marginal likelihood of a Gaussian process over subsets, its gradient, and where it is largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve  # pyright: ignore[reportUnknownVariableType]
from scipy.optimize import minimize  # pyright: ignore[reportUnknownVariableType]

from coterie.affinity.surrogates.covariance import Floats, Likeness

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
        unsure: predictive variances are larger by this number over that of observations, as variances that few
            observations taught are themselves uncertain.
        learn: False keeps the prior means.
        steps: at most so many steps of the search.
    """

    slope: float = 0.35
    mean: float = -3.5
    deviation: float = 1.5
    spread: float = 0.7
    luck: float = 0.4
    shift: float = 0.7
    unsure: float = 12.0
    learn: bool = True
    steps: int = 40

    def priors(self, likeness: Likeness) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the log-variances, last that of the noise."""
        special = {"level": (2.0, 3.0), "offset": (2.0, 3.0), "slope": (float(np.log(0.15**2)), 0.01)}
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


def learn(evidence: Evidence, means: Floats, deviations: Floats, settings: ProcessPriors) -> tuple[Floats, Floats]:
    """Log-variances and tasks' factors where the penalised marginal likelihood is largest."""
    count, n = len(means), evidence.n_tasks
    if not settings.learn or not len(evidence.observed):
        return means, np.ones(n)
    centre = np.concatenate([means, np.zeros(n)])
    width = np.concatenate([deviations, np.full(n, settings.spread)])

    def objective(x: Floats) -> tuple[float, Floats]:
        value, gradient = negative_log_likelihood(evidence, x[:count], x[count:])
        away = (x - centre) / width
        return value + 0.5 * float(away @ away), gradient + away / width

    bounds = [BOUND] * count + [FACTOR_BOUND] * n
    found = minimize(objective, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": settings.steps})
    x = np.asarray(found.x, dtype=np.float64)
    return x[:count], np.exp(x[count:])
