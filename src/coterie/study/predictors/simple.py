"""The simple models of the field, as predictors of values: one rule a target, errors from leaving one run out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coterie.affinity.surrogates.task_ridge import fit_task
from coterie.study.predictors.scales import LossScales, served
from coterie.study.results import Floats, Mask, Posterior, Results

#: (subsets, targets) values at subsets
Rule = Callable[[Mask], Floats]
#: runs are left out in so many parts where leaving out one at a time has no closed form
FOLDS = 8


@dataclass(frozen=True, eq=False)
class SimplePosterior:
    """Values by a rule, with one standard error a target.

    Attributes:
        results: the runs.
        rule: values at subsets.
        errors: (targets,) root mean square error of runs that the rule did not see, luck of the run included.
    """

    results: Results
    rule: Rule
    errors: Floats

    def predict(self, trained: Mask, variant: str = "") -> tuple[Floats, Floats]:
        """Values and standard errors, (subsets, targets); the variant is not looked at."""
        known = served(trained, self.results)
        values = np.where(known, self.rule(trained), np.nan)
        return values, np.where(known, self.errors, np.nan)

    def sample(self, trained: Mask, draws: int, rng: np.random.Generator, variant: str = "") -> Floats:
        """Draws of the values as if their errors had nothing to do with each other, (draws, subsets, targets)."""
        values, errors = self.predict(trained, variant)
        return values + errors * rng.standard_normal((draws, *values.shape))


class SimplePredictor(ABC):
    """A rule for each target that is learnt from standardised losses; variants are not told apart."""

    @abstractmethod
    def learn(self, results: Results, values: Floats) -> tuple[Rule, Floats | None]:
        """The rule, and each run's values as a rule says that did not see the run; None where that has to be tried.

        Args:
            results: the runs.
            values: (runs, targets) standardised losses, NaN where not measured.
        """

    def fit(self, results: Results) -> Posterior:
        """What the rule says after these runs.

        Raises:
            WorkloadError: a target that no run measured.
        """
        scales = LossScales.of(results.losses, results.targets)
        values = scales.standardise(results.losses)
        rule, left_out = self.learn(results, values)
        if left_out is None:
            left_out = self._left_out(results, values)
        count = np.isfinite(values).sum(0)
        square = np.where(np.isfinite(values), values - left_out, 0.0) ** 2
        # one usual error counts as one run, so that a target with one run does not look certain
        errors = np.sqrt((square.sum(0) + 1.0) / (count + 1.0))

        def in_units(trained: Mask) -> Floats:
            return scales.centre + scales.scale * rule(trained)

        return SimplePosterior(results, in_units, scales.scale * errors)

    def _left_out(self, results: Results, values: Floats) -> Floats:
        """(runs, targets) values of runs by rules that were learnt without a part of the runs."""
        part = np.random.default_rng(0).permutation(len(values)) % FOLDS
        found = np.zeros_like(values)
        for number in range(FOLDS):
            out = part == number
            if not out.any():
                continue
            kept = np.where(out[:, None], np.nan, values)
            rule, _ = self.learn(results, kept)
            found[out] = rule(results.trained[out])
        return found


@dataclass(frozen=True)
class ConstantValues(SimplePredictor):
    """Every target's mean, whatever the subset."""

    def learn(self, results: Results, values: Floats) -> tuple[Rule, Floats | None]:
        """Means are 0 once standardised, but for runs that are left out."""
        mean = _mean(values, 0)
        return lambda trained: np.broadcast_to(mean, (len(trained), len(mean))), None


@dataclass(frozen=True)
class SourceQuality(SimplePredictor):
    """A source is worth as much to all targets: the mean over a subset of what runs with each source lost."""

    def learn(self, results: Results, values: Floats) -> tuple[Rule, Floats | None]:
        """Means by source over all measured targets but itself, shrunk to 0 as if by one run."""
        mean = _mean(values, 0)
        left = np.where(np.isfinite(values), values - mean, 0.0)
        known = np.isfinite(values).astype(np.float64)
        member = results.trained.astype(np.float64)
        same = _own(results)
        # a target says nothing of its own source: it is always there
        total = member.T @ left
        count = member.T @ known
        total, count = np.where(same.T, 0.0, total).sum(1), np.where(same.T, 0.0, count).sum(1)
        quality = total / (count + max(count.sum() / max((count > 0).sum(), 1) / 10, 1.0))

        def rule(trained: Mask) -> Floats:
            return mean + _partner_mean(trained, np.broadcast_to(quality, same.shape), same)

        return rule, None


@dataclass(frozen=True)
class PairAverages(SimplePredictor):
    """The mean over a subset's sources of what each did to the target: its mean loss in runs with both."""

    def learn(self, results: Results, values: Floats) -> tuple[Rule, Floats | None]:
        """Pairs themselves where they were measured, else the mean over all runs with both, shrunk to the target's."""
        mean = _mean(values, 0)
        pairs = _pair_means(results, values)
        filled = np.where(np.isfinite(pairs), pairs, mean[:, None])
        same = _own(results)
        return lambda trained: _partner_mean(trained, filled, same, alone=mean), None


@dataclass(frozen=True)
class LinearValues(SimplePredictor):
    """The linear surrogate: ridge regression on membership, one a target, the penalty by leaving one run out."""

    def learn(self, results: Results, values: Floats) -> tuple[Rule, Floats | None]:
        """One regression a target."""
        return _ridges(results, values, lambda a, b: a @ b.T)


@dataclass(frozen=True)
class KernelValues(SimplePredictor):
    """Kernel ridge regression on the number of differing sources, one a target, the penalty by leaving one run out.

    Args:
        length: so many differing sources have a kernel of 1/e; None is the usual size of a subset.
    """

    length: float | None = None

    def learn(self, results: Results, values: Floats) -> tuple[Rule, Floats | None]:
        """One regression a target."""
        length = self.length or float(np.maximum(results.trained.sum(1), 1).mean())

        def near(a: Floats, b: Floats) -> Floats:
            return np.exp(-(a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T) / length)

        return _ridges(results, values, near)


@dataclass(frozen=True)
class TreeValues(SimplePredictor):
    """Extra trees on membership and target, all targets in one forest; errors from what each tree did not see.

    Args:
        trees: number of trees.
        seed: of the trees.
    """

    trees: int = 150
    seed: int = 0

    def learn(self, results: Results, values: Floats) -> tuple[Rule, Floats | None]:
        """One forest."""
        from sklearn.ensemble import ExtraTreesRegressor

        row, target = np.nonzero(np.isfinite(values))
        n = values.shape[1]
        forest = ExtraTreesRegressor(
            self.trees, min_samples_leaf=2, max_features=0.5, bootstrap=True, oob_score=True, random_state=self.seed
        )
        forest.fit(np.concatenate([results.trained[row], np.eye(n)[target]], 1), values[row, target])
        left_out = np.zeros_like(values)
        left_out[row, target] = forest.oob_prediction_

        def rule(trained: Mask) -> Floats:
            rows, targets = np.repeat(np.arange(len(trained)), n), np.tile(np.arange(n), len(trained))
            found = forest.predict(np.concatenate([trained[rows], np.eye(n)[targets]], 1))
            return np.asarray(found, dtype=np.float64).reshape(len(trained), n)

        return rule, left_out


def _ridges(results: Results, values: Floats, kernel: Callable[[Floats, Floats], Floats]) -> tuple[Rule, Floats]:
    """Kernel ridge regressions, and what each says of its own runs when they are left out."""
    member = results.trained.astype(np.float64)
    fits = []
    left_out = np.full_like(values, np.nan)
    for target, known in enumerate(np.isfinite(values).T):
        fit = fit_task(member[known], values[known, target], kernel, None, intercept=True)
        fits.append(fit)
        left_out[known, target] = values[known, target] - fit.error

    def rule(trained: Mask) -> Floats:
        asked = trained.astype(np.float64)
        return np.stack([fit.mean + (kernel(asked, fit.subsets) - fit.shift) @ fit.weights for fit in fits], 1)

    return rule, left_out


def _mean(values: Floats, axis: int) -> Floats:
    """Mean of what is known; 0 where nothing is."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis) / np.maximum(known.sum(axis), 1)


def _own(results: Results) -> Mask:
    """(targets, sources) whether the source is the target itself."""
    return np.array([[target == source for source in results.sources] for target in results.targets], dtype=bool)


def _partner_mean(trained: Mask, effects: Floats, same: Mask, alone: Floats | float = 0.0) -> Floats:
    """(m, targets) mean effect (targets, sources) of a subset's sources but the target itself."""
    others = np.where(same, 0.0, effects)
    member = trained.astype(np.float64)
    count = member @ (~same).T.astype(np.float64)
    return np.where(count > 0, (member @ others.T) / np.maximum(count, 1), alone)


def _pair_means(results: Results, values: Floats) -> Floats:
    """(targets, sources) mean value of a target in the pair with a source, else in all runs with it; NaN for none."""
    known = np.isfinite(values).astype(np.float64)
    filled = np.where(known > 0, values, 0.0)
    found = np.full((values.shape[1], results.trained.shape[1]), np.nan)
    for rows in (results.trained.sum(1) > 0, results.trained.sum(1) == 2):
        member = results.trained[rows].astype(np.float64)
        count = known[rows].T @ member
        mean = (filled[rows].T @ member) / np.maximum(count, 1)
        found = np.where(count > 0, mean, found)
    return found
