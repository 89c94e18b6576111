"""What to do, said in one line: the simplest candidate that nothing beats beyond the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coterie.errors import SettingError
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison


@dataclass(frozen=True)
class Recommendation:
    """Which candidate to serve, and why.

    Attributes:
        text: one line, the first thing that a report says.
        candidate: name of the recommended candidate.
        models: how many models it serves.
        do_not_bother: whether grouping is not worth it.
        reason: how the choice was made.
    """

    text: str
    candidate: str
    models: int
    do_not_bother: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return dict(vars(self))


def recommend(comparison: Comparison, budget: int | None = None) -> Recommendation:
    """Choose on validation data, report on test data.

    Without a budget, models cost something: starting from the candidate with the fewest models, a candidate with more
    models takes over only when its validation losses are lower beyond the noise: the 95 % interval (over seeds and
    examples) of the mean gain over the current choice is above 0. The level is adjusted for the number of candidates,
    those that left by successive halving included. With one seed there is no interval, and the fewest models win.

    With a budget, so many models are affordable, and the best guess counts: the candidate within it that has the
    lowest validation losses, with fewer models among equals. Whether it is better beyond the noise is said.

    Args:
        comparison: really trained candidates.
        budget: largest number of models that may be served; None for no limit.

    Raises:
        SettingError: when no candidate fits the budget.
    """
    allowed = [name for name in comparison.candidates if budget is None or comparison.n_models(name) <= budget]
    if not allowed:
        raise SettingError(f"Parameter `budget` should allow at least one model. Found {budget!r}.")
    if budget is not None and len(comparison.seeds) > 1:
        return advise(comparison, _best_guess(comparison, allowed), budget)
    order = sorted(allowed, key=comparison.n_models)
    chosen = order[0]
    level = 1 - 0.05 / max(1, len(order) - 1 + len(_eliminated(comparison)))  # several candidates were tried
    for size in sorted({comparison.n_models(name) for name in order}):
        rivals = [name for name in order if comparison.n_models(name) == size and name != chosen]
        better = [(margin, name) for name in rivals if (margin := _surely_better(comparison, name, chosen, level)) > 0]
        if better:
            chosen = max(better)[1]
    return advise(comparison, chosen, budget)


def _best_guess(comparison: Comparison, allowed: Sequence[str]) -> str:
    """The lowest mean validation losses; fewer models among equals."""
    gains = {name: comparison.total(name, "validation").mean for name in allowed}
    return max(gains, key=lambda name: (gains[name], -comparison.n_models(name)))


def _eliminated(comparison: Comparison) -> tuple[str, ...]:
    """Candidates that left before the comparison; its validation examples, though not its seeds, saw them leave."""
    return () if comparison.halving is None else comparison.halving.eliminated


def _surely_better(comparison: Comparison, name: str, than: str, level: float = 0.95) -> float:
    """Mean validation gain over another candidate when its interval is above 0, else 0."""
    interval = comparison.total(name, "validation", against=than, level=level)
    return interval.mean if interval.low > 0 else 0.0


def advise(comparison: Comparison, chosen: str, budget: int | None = None) -> Recommendation:
    """Say in words what a choice means, with test losses, the unwelcome included."""
    models, seeds = comparison.n_models(chosen), len(comparison.seeds)
    rule = (
        "more models are recommended only when they are better beyond the noise (95 % interval over seeds and examples "
        "above 0, adjusted for the number of candidates)"
        if budget is None or seeds < 2
        else f"the lowest losses among candidates with at most {budget} model{'s' * (budget != 1)}"
    )
    reason = (
        f"Chosen on validation examples that no training saw, {seeds} seed{'s' * (seeds != 1)} a candidate: {rule}. "
        "Numbers are test losses."
    )
    if left := len(_eliminated(comparison)):
        reason += f" Before, {left} other candidate{'s' * (left != 1)} left by successive halving, on other seeds."
    words = {JOINT: _one_model, BASELINE: _one_each}.get(chosen, _groups)
    text = words(comparison, chosen)
    if budget is not None and seeds > 1 and chosen != JOINT:
        text += _how_sure(comparison, chosen)
    if seeds < 2:
        text = f"Undecided, so the fewest models: with one seed there is no interval. {text}"
    beyond = [name for name in comparison.candidates if budget is not None and comparison.n_models(name) > budget]
    better = [(margin, name) for name in beyond if (margin := _surely_better(comparison, name, chosen)) > 0]
    if better:
        name = max(better)[1]
        gain = comparison.total(name, "test", against=chosen)
        text += (
            f" Beyond the budget of {budget}: {name} ({comparison.n_models(name)} models) would do better by {gain}."
        )
    return Recommendation(text, chosen, models, chosen in (JOINT, BASELINE), reason)


def _how_sure(comparison: Comparison, chosen: str) -> str:
    """The best guess within a budget may be within the noise."""
    if comparison.total(chosen, "validation", against=JOINT).low > 0:
        return ""
    return (
        " That it is better than one model for all tasks is the best guess, within the noise of the validation data: "
        "if a single model would be welcome, take it."
    )


def _one_model(comparison: Comparison, chosen: str) -> str:
    over_single = comparison.total(chosen, "test")
    if len(comparison.seeds) < 2:
        return f"One model for all tasks: {over_single} against single-task models on test data."
    if over_single.high < 0:
        return (
            "Do not bother with groups yet: on validation data nothing that was allowed is better than one model "
            f"for all tasks beyond the noise, but on test data one model per task is (one model: {over_single})."
        )
    return (
        "Do not bother with groups: no grouping that was tried and allowed is better than one model for all tasks "
        f"beyond the noise ({over_single} against single-task models on test data)."
    )


def _one_each(comparison: Comparison, chosen: str) -> str:
    joint = f"(one model for all tasks: {comparison.total(JOINT, 'test', against=chosen)} against it on test data)."
    if _surely_better(comparison, chosen, JOINT) > 0:
        return f"Do not bother with joint training: one model per task is better, beyond the noise {joint}"
    return f"Train one model per task {joint}"


def _groups(comparison: Comparison, chosen: str) -> str:
    over_single = comparison.total(chosen, "test")
    over_joint = comparison.total(chosen, "test", against=JOINT)
    text = (
        f"Train {comparison.n_models(chosen)} models ({chosen}): mean gain {over_joint} against one model for all "
        f"tasks and {over_single} against single-task models, on test data."
    )
    if over_single.high < 0:
        text += " If you can afford one model per task, that does better."
    return text


def veto(comparison: Comparison, advice: Recommendation) -> Recommendation:
    """Fall back to one model for all tasks when the test data do not confirm what the validation data favoured.

    Test data never choose between candidates; they can only send the choice back to the simplest one. Nothing changes
    unless the mean test gain over one model for all tasks is at most 0.
    """
    gain = comparison.total(advice.candidate, "test", against=JOINT)
    if advice.candidate == JOINT or gain.mean > 0:
        return advice
    text = (
        f"Do not bother with groups: validation data favoured {advice.candidate} ({advice.models} models), but on test "
        f"data it is no better than one model for all tasks ({gain})."
    )
    return Recommendation(text, JOINT, comparison.n_models(JOINT), True, advice.reason)


def helped_and_harmed(comparison: Comparison, candidate: str, against: str = BASELINE) -> tuple[int, int]:
    """How many tasks gain, and how many lose, beyond the noise on test data."""
    intervals = comparison.per_task(candidate, "test", against)
    return sum(i.low > 0 for i in intervals), sum(i.high < 0 for i in intervals)
