"""The sentences of a recommendation. Gains are against one model for all tasks, on test data, unless said otherwise."""

from __future__ import annotations

from coterie.evaluation.comparison import BASELINE, JOINT
from coterie.evaluation.intervals import Interval
from coterie.evaluation.verdict import Judge


def _gain(judge: Judge, name: str, against: str = JOINT) -> Interval:
    return judge.comparison.total(name, "test", against=against)


def _models(judge: Judge, name: str) -> str:
    """A candidate in words."""
    if name == JOINT:
        return "one model for all tasks"
    return "one model per task" if name == BASELINE else f"{judge.comparison.n_models(name)} models ({name})"


def groups(judge: Judge, chosen: str) -> str:
    """A grouping that is better beyond the noise."""
    over_single = _gain(judge, chosen, BASELINE)
    text = (
        f"Train {_models(judge, chosen)}: mean gain {_gain(judge, chosen)} against one model for all tasks, on test "
        f"data. Against single-task models: {over_single}."
    )
    return text + " If you can afford one model per task, that does better." * bool(over_single.high < 0)


def single_tasks(judge: Judge) -> str:
    """Single-task models are better than one model, and no grouping is better than they are."""
    return (
        f"Do not bother with joint training: one model per task has a mean gain of {_gain(judge, BASELINE)} against "
        "one model for all tasks on test data, and no grouping that was tried and allowed does better by a gain that "
        "matters."
    )


def no_groups(judge: Judge) -> str:
    """Nothing has a gain that matters."""
    if not judge.others:
        return "Do not bother with groups: the budget allows one model for all tasks and nothing else."
    best = judge.lowest(judge.others)
    return (
        f"Do not bother with groups: a gain of {100 * judge.worthwhile:g} % or more over one model for all tasks is "
        f"excluded for all that was tried and allowed. The best of it, {_models(judge, best)}, has "
        f"{_gain(judge, best)} on test data."
    )


def undecided(judge: Judge, chosen: str, further: int | None) -> str:
    """Neither better beyond the noise, nor surely without a gain."""
    seeds = len(judge.comparison.seeds)
    text = f"Undecided with {seeds} seed{'s' * (seeds != 1)}: "
    if chosen not in judge.matter and any(judge.better(name, JOINT) for name in judge.others):
        matters = f"{100 * judge.worthwhile:g} % or more"
        text += f"more than one model is better beyond the noise, but whether by {matters} is open. "
    elif chosen == BASELINE and judge.better(BASELINE, JOINT):
        text += (
            "one model per task is better than one model for all tasks, but whether groups do better still is open. "
        )
    else:
        text += "whether more than one model is worth it cannot be told from noise. "
    text += f"Best guess: {_models(judge, chosen)}"
    best = judge.lowest(judge.others) if chosen == JOINT else chosen
    gain = f"a mean gain of {_gain(judge, best)} against one model for all tasks on test data"
    text += f"; {_models(judge, best)} would have {gain}. " if chosen == JOINT else f", with {gain}. "
    if judge.budget is not None and chosen != JOINT:
        text += "If a single model would be welcome, take it. "
    return text + _further(judge, further)


def _further(judge: Judge, further: int | None) -> str:
    if len(judge.comparison.seeds) < 2:
        return "With one seed there is no interval: give at least 3."
    if further is None:
        return "More seeds alone would hardly decide: the difference is too small for so few validation examples."
    return f"About {further} further seed{'s' * (further != 1)} would probably decide."


def sent_back(judge: Judge, chosen: str) -> str:
    """Test data do not confirm what validation data favoured."""
    return (
        f"Undecided: validation data favoured {_models(judge, chosen)}, but on test data the mean gain over one model "
        f"for all tasks is {_gain(judge, chosen)}. Best guess: one model for all tasks."
    )


def surprised(judge: Judge, name: str) -> str:
    """Test data show a gain that validation data excluded."""
    return (
        f"Undecided: validation data exclude a gain of {100 * judge.worthwhile:g} % or more over one model for all "
        f"tasks, but on test data {_models(judge, name)} would have {_gain(judge, name)}. Best guess: one model for "
        "all tasks."
    )


def beyond_budget(judge: Judge, chosen: str) -> str:
    """What the budget excluded and is better beyond the noise."""
    comparison, budget = judge.comparison, judge.budget
    beyond = [name for name in comparison.candidates if name not in judge.allowed]
    better = [(margin, name) for name in beyond if (margin := judge.better(name, chosen)) > 0]
    if not better:
        return ""
    name = max(better)[1]
    gain = _gain(judge, name, chosen)
    return f" Beyond the budget of {budget}: {name} ({comparison.n_models(name)} models) would do better by {gain}."


def reason(judge: Judge) -> str:
    """How the choice was made."""
    budget, seeds = judge.budget, len(judge.comparison.seeds)
    rule = (
        "more models are recommended only when they are better beyond the noise (95 % interval over seeds and examples "
        "above 0, adjusted for the number of candidates)"
        if budget is None or seeds < 2
        else f"the lowest losses among candidates with at most {budget} model{'s' * (budget != 1)}"
    )
    text = (
        f"Chosen on validation examples that no training saw, {seeds} seed{'s' * (seeds != 1)} a candidate: {rule}. "
        f"A gain below {100 * judge.worthwhile:g} % does not count. Numbers are test losses."
    )
    if left := len(judge.eliminated):
        text += f" Before, {left} other candidate{'s' * (left != 1)} left by successive halving, on other seeds."
    return text
