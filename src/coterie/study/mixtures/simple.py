"""The simple models of the field, as predictors of mixtures: one rule a target, errors from leaving a run out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coterie.study.mixtures.forest import grow
from coterie.study.mixtures.results import (
    MixtureResults,
    check_told,
    error_correlations,
    total_of,
    unit_scales,
)
from coterie.study.results import Floats

#: (mixtures, targets) values at mixtures
MixtureRule = Callable[[Floats], Floats]
#: penalties of ridge regression that are tried, for standardised sources
PENALTIES = tuple(np.logspace(-3, 3, 13).tolist())
#: how far below the least loss the floor of a law may lie, in ranges of the losses
FLOORS = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, eq=False)
class RulePosterior:
    """Values by a rule, with one standard error a target.

    Attributes:
        rule: values at mixtures.
        errors: (targets,) root mean square error of runs that the rule did not see, luck of the run included.
        left_out: (runs, targets) what the rule says of runs that it did not see.
        alike: (targets, targets) correlations of errors.
    """

    rule: MixtureRule
    errors: Floats
    left_out: Floats
    alike: Floats

    def mean(self, shares: Floats) -> Floats:
        """Values of mixtures, (mixtures, targets)."""
        return self.rule(shares)

    def predict(self, shares: Floats) -> tuple[Floats, Floats]:
        """Values of mixtures and their standard errors, each (mixtures, targets)."""
        found = self.rule(shares)
        return found, np.broadcast_to(self.errors, found.shape).copy()

    def total(self, shares: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted sums of targets and their standard errors; weights are (totals, targets)."""
        return total_of(*self.predict(shares), self.alike, weights)

    def sample(self, shares: Floats, draws: int, rng: np.random.Generator) -> Floats:
        """Draws of the values as if errors of mixtures had nothing to do with each other."""
        values, errors = self.predict(shares)
        return values + errors * rng.standard_normal((draws, *values.shape))


class RulePredictor(ABC):
    """A rule for each target; runs of other sizes are not looked at, unless there are no others."""

    def fit(self, results: MixtureResults) -> RulePosterior:
        """What is known after some runs.

        Raises:
            WorkloadError: no run; a target that no run measured.
        """
        sizes = dict.fromkeys(results.sizes)
        own = results.of_size("" if "" in sizes else max(sizes, key=results.sizes.count)) if sizes else results
        check_told(own)
        rule, left_out = self.learn(own)
        _, scale = unit_scales(own.losses)
        errors = np.maximum(np.sqrt(np.nanmean((left_out - own.losses) ** 2, 0)), 1e-9 * scale)
        return RulePosterior(rule, errors, left_out, error_correlations(left_out, own.losses))

    @abstractmethod
    def learn(self, results: MixtureResults) -> tuple[MixtureRule, Floats]:
        """The rule, and what it says of each run without it, (runs, targets)."""


@dataclass(frozen=True)
class MixtureConstant(RulePredictor):
    """Every mixture has the mean of the runs."""

    def learn(self, results: MixtureResults) -> tuple[MixtureRule, Floats]:
        """Means."""
        losses, known = results.losses, np.isfinite(results.losses)
        total, count = np.where(known, losses, 0.0).sum(0), known.sum(0)
        middle = total / count
        others = (total - np.where(known, losses, 0.0)) / np.maximum(count - known, 1)
        return lambda shares: np.tile(middle, (len(shares), 1)), np.where(count > 1, others, middle)


@dataclass(frozen=True)
class MixtureLinear(RulePredictor):
    """Ridge regression on shares, its penalty by runs that are left out. Source: the linear model of RegMix."""

    def learn(self, results: MixtureResults) -> tuple[MixtureRule, Floats]:
        """A plane a target."""
        return _by_target(results, lambda x, y: _ridge(x, y))


@dataclass(frozen=True)
class MixtureLaw(RulePredictor):
    """A log-linear law: loss = floor + exp(level + slopes on shares).

    The floor is the one of a few that predicts runs best which are left out; slopes are found by ridge regression on
    the logarithm.

    Source: Ye et al. (2025), "Data mixing laws", ICLR, without their constraint on slopes; Olmix fits the same form.
    """

    def learn(self, results: MixtureResults) -> tuple[MixtureRule, Floats]:
        """A law a target."""
        return _by_target(results, _law)


@dataclass(frozen=True)
class MixtureTrees(RulePredictor):
    """Extra trees, see :mod:`coterie.study.mixtures.forest`."""

    def learn(self, results: MixtureResults) -> tuple[MixtureRule, Floats]:
        """A forest a target."""
        forest = grow(results)
        return forest.mean, forest.left_out


#: values at shares (mixtures,) and, for the runs, without each
_OneRule = tuple[Callable[[Floats], Floats], Floats]


def _by_target(results: MixtureResults, learn: Callable[[Floats, Floats], _OneRule]) -> tuple[MixtureRule, Floats]:
    """A rule for each target from the runs that measured it."""
    rules: list[Callable[[Floats], Floats]] = []
    left_out = np.full_like(results.losses, np.nan)
    for target, losses in enumerate(results.losses.T):
        rows = np.isfinite(losses)
        rule, left_out[rows, target] = learn(results.shares[rows], losses[rows])
        rules.append(rule)
    return lambda shares: np.stack([rule(shares) for rule in rules], 1), left_out


def _ridge(x: Floats, y: Floats) -> _OneRule:
    """A plane, with the penalty of least error at runs that are left out."""
    middle, level = x.mean(0), float(y.mean())
    deviation = max(float(x.std(0).mean()), 1e-9)
    z = (x - middle) / deviation
    left, size, right = np.linalg.svd(z, full_matrices=False)
    told = left.T @ (y - level)
    best: tuple[float, Floats, Floats] | None = None
    for penalty in PENALTIES:
        kept = size**2 / (size**2 + penalty)
        hat = np.einsum("ij,j,ij->i", left, kept, left) + 1 / len(y)
        off = (y - level - left @ (kept * told)) / np.maximum(1 - hat, 1e-6)
        if best is None or float(off @ off) < best[0]:
            best = float(off @ off), right.T @ (size / (size**2 + penalty) * told), y - off
    assert best is not None  # noqa: S101 - there are penalties
    slopes = best[1]
    return lambda shares: level + (shares - middle) / deviation @ slopes, best[2]


def _law(x: Floats, y: Floats) -> _OneRule:
    """A floor and a plane of logarithms."""
    span = max(float(np.ptp(y)), 1e-9 * max(float(np.abs(y).max()), 1e-300))
    best: tuple[float, float, Callable[[Floats], Floats], Floats] | None = None
    for below in FLOORS:
        floor = float(y.min()) - below * span
        plane, said = _ridge(x, np.log(y - floor))
        left_out = floor + np.exp(np.minimum(said, np.log(np.ptp(y) * 3 + y.max() - floor + 1e-300)))
        error = float(((left_out - y) ** 2).sum())
        if best is None or error < best[0]:
            best = error, floor, plane, left_out
    assert best is not None  # noqa: S101 - there are floors
    _, floor, plane, left_out = best
    return lambda shares: floor + np.exp(plane(shares)), left_out
