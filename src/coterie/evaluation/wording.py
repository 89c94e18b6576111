"""The sentences of a recommendation. Gains are against one model for all tasks, on test data, unless said otherwise."""

from __future__ import annotations

from coterie.evaluation.comparison import BASELINE, JOINT
from coterie.evaluation.intervals import Interval
from coterie.evaluation.verdict import DecisionRules


def _gain(rules: DecisionRules, name: str, against: str = JOINT) -> Interval:
    return rules.comparison.total(name, "test", against=against)


def _models(rules: DecisionRules, name: str) -> str:
    """A candidate in words."""
    if name == JOINT:
        return "one model for all tasks"
    return "one model per task" if name == BASELINE else f"{rules.comparison.n_models(name)} models ({name})"


def groups(rules: DecisionRules, chosen: str) -> str:
    """A grouping that is better beyond the noise."""
    over_single = _gain(rules, chosen, BASELINE)
    text = (
        f"Train {_models(rules, chosen)}: mean gain {_gain(rules, chosen)} against one model for all tasks, on test "
        f"data. Against single-task models: {over_single}."
    )
    return text + " If you can afford one model per task, that does better." * bool(over_single.high < 0)


def single_tasks(rules: DecisionRules) -> str:
    """Single-task models are better than one model, and no grouping is better than they are."""
    return (
        f"Do not bother with joint training: one model per task has a mean gain of {_gain(rules, BASELINE)} against "
        "one model for all tasks on test data, and no grouping that was tried and allowed does better by a gain that "
        "matters."
    )


def no_groups(rules: DecisionRules) -> str:
    """Nothing has a gain that matters."""
    if not rules.others:
        return "Do not bother with groups: the budget allows one model for all tasks and nothing else."
    best = rules.lowest(rules.others)
    return (
        f"Do not bother with groups: a gain of {100 * rules.worthwhile:g} % or more over one model for all tasks is "
        f"excluded for all that was tried and allowed. The best of it, {_models(rules, best)}, has "
        f"{_gain(rules, best)} on test data."
    )


def undecided(rules: DecisionRules, chosen: str, further: int | None) -> str:
    """Neither better beyond the noise, nor surely without a gain."""
    seeds = len(rules.comparison.seeds)
    text = f"Undecided with {seeds} seed{'s' * (seeds != 1)}: "
    if chosen not in rules.matter and any(rules.better(name, JOINT) for name in rules.others):
        matters = f"{100 * rules.worthwhile:g} % or more"
        text += f"more than one model is better beyond the noise, but whether by {matters} is open. "
    elif chosen == BASELINE and rules.better(BASELINE, JOINT):
        text += (
            "one model per task is better than one model for all tasks, but whether groups do better still is open. "
        )
    else:
        text += "whether more than one model is worth it cannot be told from noise. "
    text += f"Best guess: {_models(rules, chosen)}"
    best = rules.lowest(rules.others) if chosen == JOINT else chosen
    gain = f"a mean gain of {_gain(rules, best)} against one model for all tasks on test data"
    text += f"; {_models(rules, best)} would have {gain}. " if chosen == JOINT else f", with {gain}. "
    if rules.budget is not None and chosen != JOINT:
        text += "If a single model would be welcome, take it. "
    return text + _further(rules, further)


def _further(rules: DecisionRules, further: int | None) -> str:
    if len(rules.comparison.seeds) < 2:
        return "With one seed there is no interval: give at least 3."
    if further is None:
        return "More seeds alone would hardly decide: the difference is too small for so few validation examples."
    return f"About {further} further seed{'s' * (further != 1)} would probably decide."


def sent_back(rules: DecisionRules, chosen: str) -> str:
    """Test data do not confirm what validation data favoured."""
    return (
        f"Undecided: validation data favoured {_models(rules, chosen)}, but on test data the mean gain over one model "
        f"for all tasks is {_gain(rules, chosen)}. Best guess: one model for all tasks."
    )


def surprised(rules: DecisionRules, name: str) -> str:
    """Test data show a gain that validation data excluded."""
    return (
        f"Undecided: validation data exclude a gain of {100 * rules.worthwhile:g} % or more over one model for all "
        f"tasks, but on test data {_models(rules, name)} would have {_gain(rules, name)}. Best guess: one model for "
        "all tasks."
    )


def beyond_budget(rules: DecisionRules, chosen: str) -> str:
    """What the budget excluded and is better beyond the noise."""
    comparison, budget = rules.comparison, rules.budget
    beyond = [name for name in comparison.candidates if name not in rules.allowed]
    better = [(margin, name) for name in beyond if (margin := rules.better(name, chosen)) > 0]
    if not better:
        return ""
    name = max(better)[1]
    gain = _gain(rules, name, chosen)
    return f" Beyond the budget of {budget}: {name} ({comparison.n_models(name)} models) would do better by {gain}."


def reason(rules: DecisionRules) -> str:
    """How the choice was made."""
    budget, seeds = rules.budget, len(rules.comparison.seeds)
    rule = (
        "more models are recommended only when they are better beyond the noise (95 % interval over seeds and examples "
        "above 0, adjusted for the number of candidates)"
        if budget is None or seeds < 2
        else f"the lowest losses among candidates with at most {budget} model{'s' * (budget != 1)}"
    )
    text = (
        f"Chosen on validation examples that no training saw, {seeds} seed{'s' * (seeds != 1)} a candidate: {rule}. "
        f"A gain below {100 * rules.worthwhile:g} % does not count. Numbers are test losses."
    )
    if left := len(rules.eliminated):
        text += f" Before, {left} other candidate{'s' * (left != 1)} left by successive halving, on other seeds."
    return text
