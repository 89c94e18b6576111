"""The sentences of a study's recommendation. Gains are against one model for all tasks."""

from __future__ import annotations

from math import isnan
from typing import Protocol

from coterie.study.confirmation import Confirmation
from coterie.study.sequential import GainInterval
from coterie.study.serving_plan import ServingPlan, all_in_one
from coterie.study.study_view import NO, YES, StudyView


class Described(Protocol):
    """A candidate with what is known of its gain."""

    @property
    def plan(self) -> ServingPlan:
        """Its models."""
        ...

    @property
    def predicted(self) -> GainInterval | None:
        """Its gain as the predictor expects it."""
        ...


def text_of(view: StudyView, best: Described, verdict: str, guess: ServingPlan, written: Confirmation | None) -> str:
    """The one line to read first.

    Args:
        view: what is known.
        best: the best models within the limits, or those that were confirmed.
        verdict: yes, no or undecided.
        guess: what to serve now.
        written: the choice that fresh seeds judge.
    """
    matters = f"{100 * view.aim.matters:g} %"
    if verdict == YES and written is not None:
        seeds = len(written.gains(view.results))
        return (
            f"Train {best.plan.models}: mean gain {written.interval(view.results)} against one model for all tasks, on "
            f"{seeds} fresh seeds."
        )
    if verdict == NO:
        return (
            f"Do not bother with groups: a gain of {matters} or more over one model for all tasks is excluded. The "
            f"best of them, {best.plan.models}, has {_expected(view, best)}."
        )
    return (
        f"Not yet decided whether more than one model is worth it. Best guess: {_served(view, guess)}"
        f"{_why(view, best, guess)}. {_next(view, best, written)}"
    )


def _served(view: StudyView, plan: ServingPlan) -> str:
    return "one model for all tasks" if plan == all_in_one(view.results) else plan.models


def _expected(view: StudyView, best: Described) -> str:
    return str(best.predicted) if best.predicted is not None else f"{100 * view.gain(best.plan):+.1f} %"


def _why(view: StudyView, best: Described, guess: ServingPlan) -> str:
    """The gain of the best models, where one model is not the best there is and its losses are known."""
    one = all_in_one(view.results)
    if best.plan == one:
        return ""
    if isnan(view.gain(best.plan)):
        return ", but no run has trained all tasks together to compare with"
    known = "an expected" if best.predicted is not None else "an observed"
    gain = f"{known} mean gain of {_expected(view, best)} against one model for all tasks"
    return f"; {best.plan.models} would have {gain}" if guess == one else f", with {gain}"


def _next(view: StudyView, best: Described, written: Confirmation | None) -> str:
    """What would decide."""
    if written is None:
        return (
            "More runs are needed." if best.plan != all_in_one(view.results) else "More runs may show another choice."
        )
    wanted, seeds = written.wanted(view.results), len(written.gains(view.results))
    so_far = f" So far: {written.interval(view.results)} on {seeds} fresh seed{'s' * (seeds != 1)}." if seeds else ""
    return f"To confirm it, make {len(wanted)} runs with fresh seeds, {wanted[0].seed} and up.{so_far}"


def reason_of(view: StudyView, written: Confirmation | None) -> str:
    """How the choice was made."""
    limits, runs = view.aim.limits, len(view.results.losses)
    within = [] if limits.models is None else [f"at most {limits.models} model{'s' * (limits.models != 1)}"]
    within += [] if limits.cost is None else [f"a total cost of at most {limits.cost:g}"]
    values = (
        "means over runs of what was trained" if view.posterior is None else "what the predictor expects of subsets"
    )
    text = (
        f"Chosen for {' and '.join(within) or 'any number of models'} after {runs} run{'s' * (runs != 1)}, by "
        f"{values}. A gain below {100 * view.aim.matters:g} % does not count. "
        '"Yes" needs runs with fresh seeds of a choice that was written down before, and errs in at most 5 % of '
        "studies, however often somebody looks. Intervals cover seeds, not the examples that losses were measured on."
    )
    if written is not None and written.attempt > 1:
        text += f" This is choice number {written.attempt}: it has to show more than the first one."
    return text
