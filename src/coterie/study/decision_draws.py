"""Joint draws of the values that decide which models to serve, and what a run would add to the decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coterie.study.menu import ModelMenu, draws_of_menu, predicted_menu
from coterie.study.results import Floats, Mask, Results
from coterie.study.serving_plan import all_in_one
from coterie.study.study_view import StudyView
from coterie.study.subset_rules import servable

#: joint draws, and those of them whose best models are looked for
_DRAWS, _PLANS = 300, 100
#: draws are so much wider than the predictor believes: what it learnt from few runs is surer than it should be, most
#: of all at the optimum of what it predicts (benchmarks/study_decisions.py)
_WIDER = 1.5
#: values that are drawn jointly at most: targets times models
_VALUES = 1500


@dataclass(frozen=True, eq=False)
class DecisionDraws:
    """What is believed of the models that may be served, and of the choices that may be best.

    Attributes:
        menu: models.
        draws: (draws, models, targets) joint draws of their values, around those of the menu.
        noise: (targets,) standard deviation of one run.
        measured: (models, targets) which targets a run of each model would measure.
        shares: (targets,) of the reductions of losses in the mean gain.
        serves: (plans, targets) row of the model that serves each target, for every choice that is best in some draw;
            the first is the best one as things are expected.
    """

    menu: ModelMenu
    draws: Floats
    noise: Floats
    measured: Mask
    shares: Floats
    serves: NDArray[np.int64]

    @cached_property
    def gains(self) -> Floats:
        """(draws, plans) gains up to what all plans have in common, around their means."""
        return -np.einsum("dpt,t->dp", self._centred[:, self.serves, np.arange(len(self.shares))], self.shares)

    @cached_property
    def expected(self) -> Floats:
        """(plans,) means of the gains."""
        return -(self.menu.values[self.serves, np.arange(len(self.shares))] @ self.shares)

    @cached_property
    def _centred(self) -> Floats:
        """The draws less their means, 0 where a model cannot serve."""
        return np.nan_to_num(self.draws - self.draws.mean(axis=0))

    def regret(self) -> float:
        """The gain that is expected to be missed with the best choice of now."""
        return max(0.0, float((self.expected + self.gains).max(axis=1).mean() - self.expected.max()))

    def worth(self) -> Floats:
        """(models,) what one run of each is worth to the decision: its two worths, each as a share of the largest.

        The gain that one result adds is 0 for all where no single result changes the choice; what it tells of the
        choices that may be best is not.
        """
        found = np.array([self.worths(row) for row in range(len(self.menu.costs))])
        return (found / np.maximum(found.max(axis=0), 1e-300)).sum(axis=1)

    def worths(self, row: int) -> tuple[float, float]:
        """Two worths of one run of a model.

        The gain that its result is expected to add to that of the choice (the knowledge gradient); and how much it
        lowers the variance of the differences between the choice and the others, each with its probability to be best.
        """
        weights, seen = self._regression(row, self.gains)
        moved = seen @ weights
        # both signs of every draw: the mean of the moves is exactly 0
        tops = [(self.expected + sign * moved).max(axis=1).mean() for sign in (1, -1)]
        differences = moved - moved[:, [int(self.expected.argmax())]]
        told = (differences**2).mean(axis=0) @ self.probability
        return float(np.mean(tops) - self.expected.max()), float(told)

    @cached_property
    def probability(self) -> Floats:
        """(plans,) how often each is the best one."""
        tops = (self.expected + self.gains).argmax(axis=1)
        return np.bincount(tops, minlength=len(self.expected)) / len(tops)

    def _regression(self, row: int, of: Floats) -> tuple[Floats, Floats]:
        """Weights with which results of a run move what is expected of (draws, any), and the results (draws, seen)."""
        at = np.flatnonzero(self.measured[row])
        values, count = self._centred[:, row, at], len(self.draws)
        noise = self.noise[at] * np.random.default_rng(row).standard_normal(values.shape)
        covariance = values.T @ values / count + np.diag(self.noise[at] ** 2 + 1e-12 * (self.noise**2).max() + 1e-300)
        weights = np.asarray(np.linalg.solve(covariance, values.T @ of / count), dtype=np.float64)
        return weights, values + noise

    def after(self, row: int) -> DecisionDraws:
        """The draws once a run of a model has told what is expected of it: less varied, with the same means."""
        flat = self._centred.reshape(len(self.draws), -1)
        weights, seen = self._regression(row, flat)
        moved = (seen @ weights).reshape(self.draws.shape)
        return replace(self, draws=self.draws - moved)


def decision_draws(view: StudyView, others: Mask, seed: int) -> DecisionDraws:
    """What is believed after some runs.

    Args:
        view: the runs.
        others: (subsets, sources) subsets that a run may tell of, beside those that may be served.
        seed: of the draws.
    """
    most = max(12, _VALUES // len(view.results.targets))
    leading = view.leading().first(most)
    variant = all_in_one(view.results).variants[0]
    fresh = others[[leading.row(row, variant) is None for row in others]]
    menu = leading
    if len(fresh) and most > len(leading.costs):
        rest = predicted_menu(view.results, view.posterior_or_raise, fresh[: most - len(leading.costs)], [variant])
        menu = leading.together(rest)
    draws = draws_of_menu(menu, view.posterior_or_raise, _DRAWS, seed)
    middle = draws.mean(axis=0)
    draws = middle + _WIDER * (draws - middle)
    served = slice(len(leading.costs))
    weights, limits = view.total.weights, view.aim.limits
    plans = [leading.choose(weights, limits, search=True).serves]
    plans += [
        replace(leading, values=drawn[served]).choose(weights, limits, search=True).serves for drawn in draws[:_PLANS]
    ]
    measured = servable(view.results, menu.trained)
    return DecisionDraws(menu, draws, run_noise(view), measured, view.total.shares, np.unique(np.stack(plans), axis=0))


def run_noise(view: StudyView) -> Floats:
    """(targets,) standard deviation of a single run around the value of its subset.

    The mean over runs of the squared distance from what is expected of the subset, plus what that may be off by.
    """
    results: Results = view.results
    squares, counts = np.zeros(len(results.targets)), np.zeros(len(results.targets))
    for variant in dict.fromkeys(results.variants):
        rows = np.array([name == variant for name in results.variants])
        mean, error = view.posterior_or_raise.predict(results.trained[rows], variant)
        found = (results.losses[rows] - mean) ** 2 + error**2
        squares += np.nansum(found, axis=0)
        counts += np.isfinite(found).sum(axis=0)
    return np.sqrt(squares / np.maximum(counts, 1))
