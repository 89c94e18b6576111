"""What to serve after some runs of a study, and whether it is known to be better than one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coterie._check import choice
from coterie._show import html_table, short_repr
from coterie._surface import known_arguments
from coterie.errors import require
from coterie.study.confirmation import ERROR, Confirmation, WantedRun
from coterie.study.loss_total import OBJECTIVES
from coterie.study.results import Results, ValuePredictor
from coterie.study.sequential import GainInterval, mean_interval
from coterie.study.serving_plan import (
    ALL_IN_ONE,
    GROUPS,
    SINGLE_TASK,
    ServingPlan,
    all_in_one,
    paired_gains,
    single_task,
)
from coterie.study.study_view import MATTERS, MODELS, NO, UNDECIDED, YES, Aim, StudyView, check_results, fit_values
from coterie.study.study_wording import reason_of, text_of
from coterie.study.subset_rules import SubsetRules

if TYPE_CHECKING:
    import pandas

#: a choice gives way to another one that is better by what matters with this probability
SURE = 0.9
#: fresh seeds are asked for when the choice is better than one model with this probability
PROMISING = 0.8


@dataclass(frozen=True, eq=False)
class StudyCandidate:
    """One way to serve all targets.

    Attributes:
        name: ``"all-in-one"``, ``"single-task"`` or ``"groups"``.
        plan: its models.
        cost: what they cost together; NaN where it is not known.
        objective: what the recommendation's `objective_of` names; NaN where a value is not known.
        predicted: mean gain over one model with the 95 % interval of the predictor; None without one.
        measured: mean gain over one model of the runs that share a seed with it. The interval may be looked at after
            every run, but does not know that these runs may have led to the choice.
        seeds: number of those seeds.
    """

    name: str
    plan: ServingPlan
    cost: float
    objective: float
    predicted: GainInterval | None
    measured: GainInterval | None
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        numbers = {"cost": self.cost, "objective": self.objective}
        intervals = {"predicted": self.predicted, "measured": self.measured}
        return {
            "name": self.name,
            **self.plan.to_dict(),
            **{key: (value if np.isfinite(value) else None) for key, value in numbers.items()},
            **{key: (None if value is None else value.to_dict()) for key, value in intervals.items()},
            "seeds": self.seeds,
        }


@short_repr
@dataclass(frozen=True, eq=False)
class StudyRecommendation:
    """What to serve.

    Attributes:
        text: one line, the first thing to read.
        recommended: the candidate to serve now: ``"all-in-one"``, ``"single-task"`` or ``"groups"``. With the verdict
            ``"undecided"`` it is the best guess.
        verdict: whether more than one model is worth it: ``"yes"`` (confirmed with fresh seeds), ``"no"`` (do not
            bother: a gain that matters is excluded) or ``"undecided"`` (not yet).
        plan: the best models within the limits; they are what `groups` and `serves` name.
        targets: names of the targets.
        objective: of these models.
        objective_of: what `objective` is.
        candidates: the simple ways to serve, and `plan`.
        confirm: runs with fresh seeds that would confirm the choice.
        confirmation: what was written down for them; keep it, and give it to the next call.
        exact: whether no other models within the limits have a better objective.
        reason: how the choice was made.
    """

    text: str
    recommended: str
    verdict: str
    plan: ServingPlan
    targets: tuple[str, ...]
    objective: float
    objective_of: str
    candidates: tuple[StudyCandidate, ...]
    confirm: tuple[WantedRun, ...]
    confirmation: Confirmation | None
    exact: bool
    reason: str

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of the tasks that each of the best models trains on."""
        return self.plan.groups

    @property
    def serves(self) -> dict[str, int]:
        """Target -> index of the group that serves it."""
        return dict(zip(self.targets, self.plan.serves, strict=True))

    def to_dict(self, sources: Sequence[str] | None = None) -> dict[str, Any]:
        """A JSON-ready form.

        Args:
            sources: names of the tasks that can be trained on; None: they are the targets.
        """
        return {
            "text": self.text,
            "recommended": self.recommended,
            "verdict": self.verdict,
            "groups": [list(group) for group in self.groups],
            "variants": list(self.plan.variants),
            "serves": self.serves,
            "objective": self.objective,
            "objective_of": self.objective_of,
            "exact": self.exact,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "confirm": [run.to_dict(sources or self.targets) for run in self.confirm],
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "reason": self.reason,
        }

    def to_frame(self) -> pandas.DataFrame:
        """One row per candidate (needs pandas, extra ``table``); gains are shares."""
        frames: Any = require("pandas", extra="table", purpose="StudyRecommendation.to_frame()")
        rows: list[dict[str, Any]] = []
        for one in self.candidates:
            row: dict[str, Any] = {"candidate": one.name, "models": len(one.plan.groups), "cost": one.cost}
            row["objective"] = one.objective
            for kind, interval in (("predicted", one.predicted), ("measured", one.measured)):
                for end in ("mean", "low", "high"):
                    row[f"{kind}_{end}"] = np.nan if interval is None else getattr(interval, end)
            rows.append({**row, "seeds": one.seeds})
        return frames.DataFrame(rows)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        head = ("candidate", "models", "predicted gain over one model", "measured", "seeds")
        rows = [
            (one.name, one.plan.models, one.predicted or "", one.measured or "", one.seeds) for one in self.candidates
        ]
        return html_table(head, rows, self.text, left=2)


@known_arguments
def recommend(
    results: Results,
    *,
    models: int | None = None,
    costs: float | None = None,
    values: Literal["posterior", "observed"] = "posterior",
    predictor: ValuePredictor | None = None,
    matters: float = MATTERS,
    rules: SubsetRules | None = None,
    confirmation: Confirmation | None = None,
) -> StudyRecommendation:
    """Choose the models to serve, and say whether they are known to be better than one model for all tasks.

    Each target is served by the best of the chosen models. With values as they were observed, only what was trained is
    a candidate, and the objective is the sum of the losses. With values of a predictor every subset is, and the
    objective is the mean gain over one model for all tasks.

    "Yes" is said only of a choice that was written down before (`confirmation`), on fresh seeds: runs of its models and
    of one model with seeds that no earlier run had. The evidence is an e-process (:mod:`coterie.study.sequential`), so
    "yes" is said in error in at most 5 % of studies, however often somebody looks. A choice that is given up for
    another one has spent its share of the 5 %.

    Args:
        results: runs so far.
        models: the most models that may be served; None is 3, or any number where `costs` is given.
        costs: the most that the models may cost together, in the unit of the costs of the runs.
        values: ``"posterior"``: what the predictor expects; ``"observed"``: means over runs.
        predictor: of values; None for the usual one.
        matters: the smallest gain over one model that is worth more models, as a share.
        rules: subsets that may be trained.
        confirmation: what the last call returned, from the first confirmatory run on.

    Raises:
        SettingError: no models within the limits serve all targets; an argument out of range.
        WorkloadError: no run, or a target that no run measured.

    Cost:
        A fit of the predictor. Observed values: 1 ms with 5 targets, 0.5 s with 14.

    Source:
        Standley et al. (2020), arXiv 1905.07553, for the choice within a budget; the rest is made here.

    Example:
        >>> trained = np.array([[True, True], [True, False], [False, True]])
        >>> losses = np.array([[0.3, 0.5], [0.4, np.nan], [np.nan, 0.4]])
        >>> found = recommend(Results.of(("a", "b"), trained, losses), models=2, values="observed")
        >>> found.groups, found.serves, found.objective
        ((('a', 'b'), ('b',)), {'a': 0, 'b': 1}, 0.7)
    """
    choice(values, "values", ("posterior", "observed"))
    aim = Aim(MODELS if models is None and costs is None else models, costs, matters, rules or SubsetRules())
    check_results(results)
    if values == "observed":
        view = StudyView.observed(results, aim)
    else:
        view = StudyView.of(results, aim, fit_values(results, predictor))
    return advise_study(view, confirmation)


def advise_study(view: StudyView, confirmation: Confirmation | None = None) -> StudyRecommendation:
    """The recommendation that a view of the runs leads to; see :func:`recommend`."""
    results, matters = view.results, view.aim.matters
    kept = written_choice(view, confirmation)
    written = kept if kept is not None and view.is_allowed(kept.plan) else None  # other limits, another choice
    plan, verdict = view.plan, UNDECIDED
    if written is not None and written.is_better(results) and written.interval(results).mean >= matters:
        plan, verdict = written.plan, YES
    elif is_excluded(view, written):
        verdict = NO
    names = {ALL_IN_ONE: all_in_one(results), SINGLE_TASK: single_task(results), GROUPS: plan}
    candidates = tuple(_candidate(view, name, one) for name, one in names.items() if one is not None)
    best = candidates[-1]
    guess = plan if verdict == YES or (verdict == UNDECIDED and _is_guess(view, best)) else all_in_one(results)
    return StudyRecommendation(
        text=text_of(view, best, verdict, guess, written),
        recommended=guess.name(results),
        verdict=verdict,
        plan=plan,
        targets=results.targets,
        objective=view.objective(plan),
        objective_of=OBJECTIVES[view.total.kind],
        candidates=candidates,
        confirm=written.wanted(results) if written is not None and verdict == UNDECIDED else (),
        confirmation=kept,
        exact=view.chosen.exact and view.is_whole,
        reason=reason_of(view, written),
    )


def written_choice(view: StudyView, confirmation: Confirmation | None) -> Confirmation | None:
    """The choice that fresh seeds should judge: the one that was written down, or the best one of now.

    A choice of which no fresh run was made is replaced freely. One with fresh runs stays, unless another one is better
    by what matters with 90 %: then the other one is a new attempt.
    """
    results, best, attempt = view.results, view.plan, 1
    if confirmation is not None:
        judged = len(confirmation.gains(results)) > 0
        begun = judged or int(results.seeds.max(initial=-1)) >= confirmation.first_seed
        fits = view.is_allowed(confirmation.plan)
        if confirmation.plan == best or (fits and begun and not _is_better(view, best, confirmation.plan)):
            return confirmation
        attempt = confirmation.attempt + judged
    if not _is_promising(view, best):
        return confirmation
    return Confirmation.of(results, best, view.total.shares, attempt)


def _is_better(view: StudyView, plan: ServingPlan, other: ServingPlan) -> bool:
    """Whether a plan is better than another one by what matters, as far as is known."""
    if view.posterior is None:
        return bool(view.gain(plan) - view.gain(other) >= view.aim.matters)
    mine, theirs = view.draws([plan, other])
    return bool((mine - theirs).mean() >= view.aim.matters and (mine > theirs).mean() >= SURE)


def _is_promising(view: StudyView, plan: ServingPlan) -> bool:
    """Whether fresh seeds are worth asking for."""
    one = all_in_one(view.results)
    if plan == one or not view.aim.rules.allowed(view.results.sources, one.subsets(view.results.sources)).all():
        return False
    if not view.gain(plan) >= view.aim.matters:
        return False
    return view.posterior is None or bool((view.draws([plan])[0] > 0).mean() >= PROMISING)


def is_excluded(view: StudyView, written: Confirmation | None) -> bool:
    """Whether a gain over one model that matters is excluded, for everything within the limits.

    Fresh seeds exclude it for the choice that was written down, if that is still the best one. A predictor excludes it
    where the best choice in each joint draw of the values has a smaller gain in 95 % of them.
    """
    matters = view.aim.matters
    if written is not None and written.plan == view.plan and written.interval(view.results).high < matters:
        return True
    if view.posterior is None or not view.gain(view.plan) < matters:
        return False
    return bool(np.mean(view.best_gains(view.leading()) < matters) >= 1 - ERROR)


def _is_guess(view: StudyView, best: StudyCandidate) -> bool:
    """Whether the best models are a better guess than one model."""
    if best.predicted is None:
        return not view.gain(best.plan) < view.aim.matters
    error = float(view.draws([best.plan])[0].std())
    return best.predicted.mean >= max(view.aim.matters, error) or not view.is_allowed(all_in_one(view.results))


def _candidate(view: StudyView, name: str, plan: ServingPlan) -> StudyCandidate:
    """What is known of a candidate."""
    results, one = view.results, all_in_one(view.results)
    gains = paired_gains(results, plan, one, view.total.shares)
    predicted = None
    if view.posterior is not None:
        low, high = np.quantile(view.draws([plan])[0], [0.025, 0.975])
        predicted = GainInterval(view.gain(plan), float(low), float(high))
    measured = mean_interval(gains, ERROR) if len(gains) else None
    return StudyCandidate(name, plan, view.cost(plan), view.objective(plan), predicted, measured, len(gains))
