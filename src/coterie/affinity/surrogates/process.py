"""A Gaussian process over subsets: a cheap estimate as prior, corrected by a few real runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular  # pyright: ignore[reportUnknownVariableType]

from coterie._check import whole_number
from coterie.affinity.surrogates.covariance import (
    REACH,
    Collapsed,
    Evidence,
    Floats,
    Likeness,
    Points,
    ProcessPriors,
    apart,
    collapse,
    covariances,
    factor,
    find_likeness,
    learn,
    make_points,
    observed,
    spread,
)
from coterie.errors import SettingError

#: points that are predicted at a time
CHUNK = 2000


@dataclass(frozen=True, eq=False)
class SubsetProcess:
    """A Gaussian process over values f(S, t), see :func:`fit_process`.

    Attributes:
        centre: (T,) mean estimate of each task over the reference subsets.
        scale: (T,) scale of each task's differences by the estimate.
        relative: (T,) learned factor on that scale for what the estimate does not explain.
        typical: size of a typical subset.
        likeness: what is known of the tasks.
        variances: of each covariance, in units of the scale, and last the noise of one run.
        points: what was observed.
        factor: (n, n) lower Cholesky factor of the covariance of the observations.
        weights: (n,) covariance^-1 (observations - prior mean).
        offset: added to every prediction, in units of the scale.
        settings: priors, the share of luck.
        support: log of the penalised marginal likelihood, up to a constant.
    """

    centre: Floats
    scale: Floats
    relative: Floats
    typical: float
    likeness: Likeness
    variances: Floats
    points: Points
    factor: Floats
    weights: Floats
    offset: float
    settings: ProcessPriors
    support: float = 0.0

    def predict(self, subsets: NDArray[np.bool_], estimates: Floats, *, errors: bool = True) -> tuple[Floats, Floats]:
        """Mean and standard deviation of f(S, t), the mean over trainings with all seeds; NaN outside the subset.

        Args:
            subsets: bool (m, T).
            estimates: (m, T) cheap estimates of the same subsets.
            errors: False leaves the standard deviations NaN, which saves almost all of the time.

        Returns:
            two arrays (m, T), in units of the values.
        """
        if not errors:
            return self._means(subsets, estimates), np.full(subsets.shape, np.nan)
        asked = self.at(subsets, estimates)
        mean, deviation = np.full(subsets.shape, np.nan), np.full(subsets.shape, np.nan)
        for part in _slices(len(asked)):
            some = asked.take(part)
            across = self._with_observed(some)
            at = (some.row, some.task)
            guess = self.settings.slope * some.estimate + self.offset + across @ self.weights
            mean[at] = self.centre[some.task] + self.scale[some.task] * guess
            variance = self._prior(some, some) - self._explained(across, across)
            deviation[at] = self.scale[some.task] * np.sqrt(self.inflation * np.maximum(variance, 0.0))
        return mean, deviation

    def covariance_with_single(
        self, subsets: NDArray[np.bool_], estimates: Floats, alone: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Posterior of tasks alone, and how it varies with that of subsets.

        Args:
            subsets: bool (m, T).
            estimates: (m, T) cheap estimates.
            alone: (T,) cheap estimates of f({t}, t).

        Returns:
            mean (T,) and standard deviation (T,) of f({t}, t), and the covariance (m, T) of f(S, t) with f({t}, t).
        """
        n = subsets.shape[1]
        each = np.eye(n, dtype=bool)
        means, deviations = self.predict(each, np.where(each, alone[:, None], np.nan))
        singles = self.at(each, np.where(each, alone[:, None], np.nan))
        single_rows = self._with_observed(singles)
        asked, result = self.at(subsets, estimates), np.full(subsets.shape, np.nan)
        for part in _slices(len(asked)):
            some = asked.take(part)
            explained = self._explained(self._with_observed(some), single_rows[some.task])
            variance = self._prior(some, singles.take(some.task)) - explained
            result[some.row, some.task] = self.scale[some.task] ** 2 * self.inflation * variance
        return np.diag(means).copy(), np.diag(deviations).copy(), result

    def at(self, subsets: NDArray[np.bool_], estimates: Floats) -> Points:
        """The points of subsets (m, T) with their cheap estimates (m, T)."""
        return make_points(subsets, (estimates - self.centre) / self.scale, self.typical)

    def covariances(self, points: Points) -> list[Floats]:
        """Covariances of unit variance between the points, one (n, n) a term."""
        return covariances(points, points, self.likeness)

    @property
    def inflation(self) -> float:
        """Factor on predictive variances for what is not known of the variances themselves."""
        seen, settings = len(self.points), self.settings
        return 1.0 + settings.unsure / (seen + settings.known) if seen else 1.0

    def factors(self, luck: bool) -> Floats:
        """Variance of each covariance that is of the truth, or of the luck that all runs share."""
        share = np.where(lucky(self.likeness), self.settings.luck, 0.0)
        return self.variances[:-1] * (share if luck else 1.0 - share)

    @property
    def shared_luck(self) -> float:
        """Variance of what all runs of a task share and no run can show."""
        return self.settings.shift * float(self.variances[-1] + self.factors(True).sum())

    @cached_property
    def _collapsed(self) -> Collapsed:
        """The observations, added up."""
        return collapse(self.points, self.weights, self.factors(False), self.relative, self.likeness, self.typical)

    def _means(self, subsets: NDArray[np.bool_], estimates: Floats) -> Floats:
        """(m, T) posterior means, NaN outside the subset."""
        scaled = (estimates - self.centre) / self.scale
        guess = self.settings.slope * scaled + self.offset + self._collapsed(subsets, scaled)
        return np.where(subsets, self.centre + self.scale * guess, np.nan)

    def _with_observed(self, some: Points) -> Floats:
        terms = covariances(some, self.points, self.likeness)
        scale = self.relative[some.task][:, None] * self.relative[self.points.task]
        return combine(terms, self.factors(False), scale, self.likeness)

    def _prior(self, a: Points, b: Points) -> Floats:
        """Covariance of the truth at a[i] with that at b[i], which belong to the same task."""
        scale, terms = self.relative[a.task] ** 2, covariances(a, b, self.likeness, paired=True)
        truth = combine(terms, self.factors(False), scale, self.likeness)
        own = self.settings.own * float(self.variances[-1])
        truth += scale * own * (terms[self.likeness.names.index("overlap")] == 1.0)  # of the same subset only
        # runs with common random numbers share their luck: the mean of a task over all runs is off by as much as one
        # run is, and no run can show it
        return truth + scale * self.shared_luck

    def _explained(self, a: Floats, b: Floats) -> Floats:
        if not len(self.points):
            return np.zeros(len(a))
        left = solve_triangular(self.factor, a.T, lower=True)
        right = left if a is b else solve_triangular(self.factor, b.T, lower=True)
        return np.einsum("ij,ij->j", left, right)


def fit_process(
    subsets: NDArray[np.bool_],
    values: Floats,
    estimates: Floats,
    reference: NDArray[np.bool_],
    reference_estimates: Floats,
    *,
    features: Sequence[Floats] = (),
    settings: ProcessPriors | None = None,
) -> SubsetProcess:
    """Correct a cheap estimate by real runs.

    Prior mean: ``settings.slope`` times the estimate's difference from its mean within the task. Prior covariance: a
    level and a slope of each task, effects of partners (of each on each task, alike for alike tasks, mutual), a kernel
    on overlap, size, and features. Variances are found by penalised marginal likelihood, as is a factor on each task's
    scale.

    Args:
        subsets: bool (N, T), the real runs; N may be 0.
        values: (N, T) their values, NaN outside the subset.
        estimates: (N, T) cheap estimates of the same.
        reference: bool (m, T), random subsets that say what is usual.
        reference_estimates: (m, T) cheap estimates of these.
        features: each (T, T), [t, j] may say what j does to t. Only differences within a row count; symmetric ones
            with entries from -1 to 1 also say which tasks are alike.
        settings: priors and the share of luck.

    Cost: about 50 Cholesky factors of the number of observed pairs (S, t): seconds for 1000 of them.
    """
    settings = settings or ProcessPriors()
    centre, scale = _scales(reference, reference_estimates)
    typical = float(reference.sum(1).mean())
    likeness = find_likeness(reference, (reference_estimates - centre) / scale, typical, features)
    points = make_points(subsets, (estimates - centre) / scale, typical)
    seen = (values[points.row, points.task] - centre[points.task]) / scale[points.task]
    observed = seen - settings.slope * points.estimate
    offset = float(np.median(observed)) if len(points) else 0.0
    evidence = Evidence(
        covariances(points, points, likeness), absolute(likeness), observed - offset, points.task, len(centre)
    )
    logs, relative, support = learn(evidence, *settings.priors(likeness), settings)
    lower, weights = factor(evidence, np.exp(logs), relative)
    return SubsetProcess(
        centre, scale, relative, typical, likeness, np.exp(logs), points, lower, weights, offset, settings, support
    )


def absolute(likeness: Likeness) -> NDArray[np.bool_]:
    """Which covariances are in units of the estimate, so that the learned factor on the scale is not theirs."""
    return np.array([name.endswith("slope") for name in likeness.names])


def lucky(likeness: Likeness) -> NDArray[np.bool_]:
    """Which covariances may be a seed's luck, which all runs share, instead of the truth."""
    named = ("partners", "transfer", "mutual", "overlap", "alike")
    return np.array([name.split(" ")[0] in named for name in likeness.names])


def combine(terms: Sequence[Floats], variances: Floats, scale: Floats, likeness: Likeness) -> Floats:
    """Sum of the terms, times `scale` but for those in units of the estimate, see :func:`absolute`."""
    total = np.zeros_like(terms[0])
    for term, variance, stays in zip(terms, variances, absolute(likeness), strict=True):
        total += variance * term * (1.0 if stays else scale)
    return total


def _scales(reference: NDArray[np.bool_], estimates: Floats) -> tuple[Floats, Floats]:
    """Mean and scale of each task's estimates; scales are kept away from 0 by half their median."""
    known = np.where(reference, estimates, 0.0)
    count = reference.sum(0)
    centre = known.sum(0) / np.maximum(count, 1)
    spread = np.sqrt((np.where(reference, estimates - centre, 0.0) ** 2).sum(0) / np.maximum(count, 1))
    spread[count == 0] = np.median(spread[count > 0]) if (count > 0).any() else 1.0
    scale = np.sqrt(spread**2 + (np.median(spread) / 2) ** 2)
    floor = 1e-6 * max(float(np.abs(centre).max(initial=0.0)), math.ulp(1.0))
    return centre, np.maximum(scale, floor)


def _slices(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]


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
    many = parts.scaled * (1.0 - parts.lone)[:, None]
    same = apart(parts.members, parts.members) == 0
    prior += process.settings.own * process.variances[-1] * (lone @ lone.T + same * (many @ many.T))
    kernel = np.exp(-apart(parts.members, observed(points)) / REACH) * parts.scaled[:, task]
    kernel += np.exp(-points.partners.sum(1) / REACH) * parts.alone_scaled[:, task]
    return prior, across + of["overlap"] * relative * kernel


def choose_subsets(process: SubsetProcess, subsets: NDArray[np.bool_], estimates: Floats, count: int) -> list[int]:
    """Choose runs one after the other, each as the one that lowers the posterior variance most.

    What counts is the variance of differences between the given subsets within a task, summed over all of them. It does
    not depend on the values that the runs will have, so that all can be chosen, and trained, at once.

    Args:
        process: its variances are believed, its observations are not looked at; usually one without any.
        subsets: bool (m, T), random subsets to choose from.
        estimates: (m, T) cheap estimates of these.
        count: how many to choose, at most m.

    Returns:
        rows of `subsets`, best first: a shorter choice is the beginning of a longer one.

    Raises:
        SettingError: when `count` is more than there are.

    Cost: count + 1 passes over a covariance of all pairs (S, t).
    """
    whole_number(count, "count", low=0)
    if count > len(subsets):
        raise SettingError(f"Parameter `count` should be at most {len(subsets)}, the number of subsets. Found {count}.")
    points = process.at(subsets, estimates)
    terms = process.covariances(points)
    share = np.where(lucky(process.likeness), 1.0 - process.settings.luck, 1.0)
    levels = np.array([name in ("level", "offset") for name in process.likeness.names])
    variances = process.variances[:-1]
    scale = np.outer(process.relative[points.task], process.relative[points.task])
    observed = combine(terms, variances, scale, process.likeness)
    truth = combine(terms, np.where(levels, 0.0, share * variances), scale, process.likeness)
    own = (points.task[:, None] == np.arange(subsets.shape[1])).astype(np.float64)
    truth -= own @ ((own.T @ truth) / np.maximum(own.sum(0), 1)[:, None])  # differences within a task only
    noise = process.variances[-1] * process.relative[points.task] ** 2
    blocks = [np.flatnonzero(points.row == row) for row in range(len(subsets))]
    chosen: list[int] = []
    left = list(range(len(subsets)))
    for _ in range(count):
        gains = [_reduction(observed, truth, noise, blocks[row]) for row in left]
        best = left.pop(int(np.argmax(gains)))
        chosen.append(best)
        _condition(observed, truth, noise, blocks[best])
    return chosen


def _reduction(observed: Floats, truth: Floats, noise: Floats, block: NDArray[np.int64]) -> float:
    """By how much the variances of the truth, summed, fall when a run is seen."""
    inside = observed[np.ix_(block, block)] + np.diag(noise[block])
    across = truth[:, block]
    return float(np.trace(np.linalg.solve(inside, across.T @ across)))


def _condition(observed: Floats, truth: Floats, noise: Floats, block: NDArray[np.int64]) -> None:
    """Both covariances after a run is seen, in place."""
    inside = observed[np.ix_(block, block)] + np.diag(noise[block])
    weights = np.linalg.solve(inside, observed[block])
    truth -= truth[:, block] @ weights
    observed -= observed[:, block] @ weights
