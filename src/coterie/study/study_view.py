"""What is known after some runs of a study about the models that could be served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from coterie._check import positive, whole_number
from coterie._lazy import named
from coterie.errors import SettingError, WorkloadError
from coterie.study.loss_total import LossTotal
from coterie.study.menu import EVERY_SUBSET, ModelMenu, draws_of_menu, measured_menu, predicted_menu, searched_menu
from coterie.study.results import Floats, Posterior, Results, ValuePredictor
from coterie.study.served_models import ServedModels, ServingLimits
from coterie.study.serving_plan import ServingPlan, all_in_one
from coterie.study.subset_rules import SubsetRules, run_costs, unique_rows

#: verdicts, as of a comparison
YES, NO, UNDECIDED = "yes", "no", "undecided"
#: models that may be served, unless the user says otherwise
MODELS = 3
#: gain over one model from which more models are worth their price, as in a comparison
MATTERS = 0.01
#: joint draws behind an interval, and behind the best choice in each draw
DRAWS, CHOICES = 1000, 200
#: choices from values with errors added, which show what else may be best
_GUESSES = 30


@dataclass(frozen=True, eq=False)
class Aim:
    """What is to be decided: which models to serve.

    Attributes:
        models: the most models that may be served; None for any number.
        costs: the most that they may cost together, in the unit of the costs of runs; None for no limit.
        matters: the smallest gain over one model that is worth more models, as a share.
        rules: subsets that may be trained.

    Raises:
        SettingError: a number out of range.
    """

    models: int | None = MODELS
    costs: float | None = None
    matters: float = MATTERS
    rules: SubsetRules = field(default_factory=SubsetRules)

    def __post_init__(self) -> None:
        if self.models is not None:
            whole_number(self.models, "models", low=1)
        if self.costs is not None:
            positive(self.costs, "costs")
        if not 0 <= self.matters < 1:
            raise SettingError(
                f"Parameter `matters` should be a gain as a share, at least 0 and below 1, such as {MATTERS} for 1 %. "
                f"Found {self.matters!r}."
            )

    @property
    def limits(self) -> ServingLimits:
        """How many models, at what cost."""
        return ServingLimits(self.models, self.costs)


def fit_values(results: Results, predictor: ValuePredictor | None) -> Posterior:
    """What a predictor makes of the results; None is the usual one."""
    chosen: ValuePredictor = named("coterie.study.predictors:find_predictor")() if predictor is None else predictor
    return chosen.fit(results)


def check_results(results: Results) -> None:
    """Refuse results of which nothing can be chosen.

    Raises:
        WorkloadError: no run; a target that no run measured.
    """
    if not len(results.losses):
        raise WorkloadError("There is no finished run yet. Make some first: `next_runs` says which.")
    known = np.asarray(np.isfinite(results.losses).any(axis=0))
    never = [name for place, name in enumerate(results.targets) if not known[place]]
    if never:
        raise WorkloadError(
            f"No run has measured {', '.join(never[:5])}. Each target needs a loss in some run: make a run with it, or "
            "leave it out of the study."
        )


@dataclass(frozen=True, eq=False)
class StudyView:
    """Runs, the models that could be served, and the best of them.

    Attributes:
        results: the runs.
        aim: what is to be decided.
        menu: models that could be served.
        total: how targets are weighed.
        posterior: of the predictor; None where values are taken as they were observed.
    """

    results: Results
    aim: Aim
    menu: ModelMenu
    total: LossTotal
    posterior: Posterior | None

    @staticmethod
    def observed(results: Results, aim: Aim) -> StudyView:
        """Values as they were measured; only what was trained could be served."""
        menu = measured_menu(results)
        one = all_in_one(results).losses(results.sources, menu, menu.values)
        menu = menu.only(aim.rules.allowed(results.sources, menu.trained))
        return StudyView(results, aim, menu, LossTotal.of("sum", results, one), None)

    @staticmethod
    def of(results: Results, aim: Aim, posterior: Posterior) -> StudyView:
        """Values as a predictor expects them."""
        plan = all_in_one(results)
        one = posterior.predict(plan.subsets(results.sources), plan.variants[0])[0][0]
        total = LossTotal.of("gain", results, one)
        menu = searched_menu(results, posterior, aim.rules, total.weights, aim.limits)
        return StudyView(results, aim, menu, total, posterior)

    @property
    def is_whole(self) -> bool:
        """Whether the menu has every model that could be served."""
        few = len(self.results.sources) <= EVERY_SUBSET
        return self.posterior is None or few or self.aim.rules.among is not None

    @cached_property
    def chosen(self) -> ServedModels:
        """The best models of the menu."""
        return self.menu.choose(self.total.weights, self.aim.limits)

    @cached_property
    def plan(self) -> ServingPlan:
        """The best models within the limits."""
        return ServingPlan.of(self.results, self.menu, self.chosen)

    def listed(self, plans: Sequence[ServingPlan]) -> ModelMenu:
        """The models of some plans, whether or not they are on the menu."""
        if self.posterior is None:
            return self.menu
        sources, found = self.results.sources, list[ModelMenu]()
        for variant in dict.fromkeys(name for plan in plans for name in plan.variants):
            rows = [plan.subsets(sources)[[name == variant for name in plan.variants]] for plan in plans]
            found.append(predicted_menu(self.results, self.posterior, unique_rows(np.concatenate(rows)), [variant]))
        menu = found[0]
        for other in found[1:]:
            menu = menu.together(other)
        return menu

    def losses(self, plan: ServingPlan) -> Floats:
        """(targets,) expected losses of a plan; NaN where values were observed and a model was not."""
        menu = self.listed([plan])
        return plan.losses(self.results.sources, menu, menu.values)

    def draws(self, plans: Sequence[ServingPlan], count: int = DRAWS) -> Floats:
        """(plans, draws) joint draws of the mean gain over one model."""
        everything = (all_in_one(self.results), *plans)
        menu = self.listed(everything)
        found = draws_of_menu(menu, self.posterior_or_raise, count, seed=0)
        losses = [plan.losses(self.results.sources, menu, found) for plan in everything]
        return np.stack([(losses[0] - one) @ self.total.shares for one in losses[1:]])

    def gain(self, plan: ServingPlan) -> float:
        """Expected mean gain over one model; NaN where values were observed and those of one model were not."""
        return float(self.total.gain(self.losses(plan)))

    def objective(self, plan: ServingPlan) -> float:
        """What the kind of total names."""
        if self.total.kind == "gain":
            return self.gain(plan)
        return float(self.losses(plan) @ self.total.weights)

    def is_allowed(self, plan: ServingPlan) -> bool:
        """Whether a plan keeps the limits and the rules."""
        rows = plan.subsets(self.results.sources)
        inside = bool(self.aim.limits.inside(len(plan.groups), self.cost(plan)))
        return inside and bool(self.aim.rules.allowed(self.results.sources, rows).all())

    def cost(self, plan: ServingPlan) -> float:
        """What the models of a plan cost together."""
        pairs = zip(plan.subsets(self.results.sources), plan.variants, strict=True)
        return float(sum(run_costs(self.results, subset[None], variant)[0] for subset, variant in pairs))

    def leading(self) -> ModelMenu:
        """The best models, and those that may be best for all that is known: those that come up most often first.

        They are found by choices from values with errors added, as if errors were independent.
        """
        rng, counts = np.random.default_rng(0), np.zeros(len(self.menu.costs))
        counts[list(self.chosen.models)] += _GUESSES
        for _ in range(_GUESSES):
            noise = rng.standard_normal(self.menu.values.shape) * self.menu.errors
            moved = replace(self.menu, values=self.menu.values + noise)
            counts[list(moved.choose(self.total.weights, self.aim.limits, search=True).models)] += 1
        order = np.argsort(-counts, kind="stable")
        return self.menu.only(order[counts[order] > 0])

    @property
    def posterior_or_raise(self) -> Posterior:
        """The posterior of the predictor."""
        if self.posterior is None:
            raise SettingError("Values that were observed have no joint distribution. Use values='posterior'.")
        return self.posterior

    def best_gains(self, menu: ModelMenu, count: int = CHOICES) -> Floats:
        """(draws,) mean gain over one model of the best models of a menu, in joint draws of its values."""
        one = all_in_one(self.results)
        rest = self.listed([one])
        found = draws_of_menu(menu.together(rest), self.posterior_or_raise, count, seed=1)
        values, reference = found[:, : len(menu.costs)], found[:, -1]
        gains: list[float] = []
        for drawn, losses in zip(values, reference, strict=True):
            chosen = replace(menu, values=drawn).choose(self.total.weights, self.aim.limits, search=True)
            best = drawn[chosen.serves, np.arange(drawn.shape[1])]
            gains.append(float((losses - best) @ self.total.shares))
        return np.array(gains)
