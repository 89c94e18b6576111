"""Whether more than one model is worth it: yes, no, or not to be told with so many seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from coterie.errors import SettingError
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.intervals import Interval

YES, NO, UNDECIDED = "yes", "no", "undecided"
#: gain from which more models are worth their price, unless the user says otherwise
WORTHWHILE = 0.01
#: the most seeds that are asked for
MOST_SEEDS = 100


def check_worthwhile(worthwhile: float) -> float:
    """A gain that matters is a share below one.

    Raises:
        SettingError: for anything else.
    """
    known = isinstance(worthwhile, int | float | np.number) and not isinstance(worthwhile, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if known and 0 <= worthwhile < 1:
        return float(worthwhile)
    hint = f" Write {worthwhile / 100:g} for {worthwhile:g} %." if known and 1 <= worthwhile < 100 else ""
    raise SettingError(
        f"Parameter `worthwhile` should be a gain as a share, at least 0 and below 1, such as {WORTHWHILE} for 1 %. "
        f"Found {worthwhile!r}.{hint}"
    )


@dataclass(frozen=True, eq=False)
class DecisionRules:
    """What the validation losses of a comparison say.

    Attributes:
        comparison: really trained candidates.
        budget: largest number of models that may be served; None for no limit.
        worthwhile: the smallest gain over one model for all tasks that is worth more models.
    """

    comparison: Comparison
    budget: int | None = None
    worthwhile: float = WORTHWHILE

    @cached_property
    def allowed(self) -> tuple[str, ...]:
        """Candidates within the budget, fewest models first.

        Raises:
            SettingError: when there are none.
        """
        models = self.comparison.n_models
        found = [name for name in self.comparison.candidates if self.budget is None or models(name) <= self.budget]
        if not found:
            raise SettingError(f"Parameter `budget` should allow at least one model. Found {self.budget!r}.")
        return tuple(sorted(found, key=models))

    @cached_property
    def others(self) -> tuple[str, ...]:
        """What else than one model for all tasks is allowed."""
        return tuple(name for name in self.allowed if name != JOINT)

    @cached_property
    def eliminated(self) -> tuple[str, ...]:
        """Candidates that left before the comparison; its validation examples, though not its seeds, saw them leave."""
        return () if self.comparison.halving is None else self.comparison.halving.eliminated

    @property
    def level(self) -> float:
        """Of the intervals that call a candidate better: 95 %, adjusted for the number that was tried."""
        return 1 - 0.05 / max(1, len(self.others) + len(self.eliminated))

    def better(self, name: str, than: str, part: str = "validation") -> float:
        """Mean gain over another candidate when it is beyond the noise, else 0."""
        interval = self.comparison.total(name, part, against=than, level=self.level)
        return interval.mean if interval.low > 0 else 0.0

    def small(self, name: str) -> bool:
        """Whether the mean gain over one model is below what matters, however sure it is."""
        return self.comparison.total(name, "validation", against=JOINT).mean < self.worthwhile

    def excluded(self, names: Iterable[str], than: str) -> bool:
        """Whether none of some candidates can be better than another one by a gain that matters."""
        return all(self.comparison.total(name, "validation", than).high <= self.worthwhile for name in names)

    def of(self, chosen: str) -> str:
        """The verdict when a candidate is chosen: whether tasks are worth grouping.

        A grouping that is better than one model for all tasks beyond the noise, with a mean gain that matters, is a
        yes. One model for all tasks is a no when every other candidate is surely without a gain that matters;
        single-task models are a no when they are so much better than one model, and every grouping is surely without a
        gain over them that matters.
        """
        if chosen == JOINT:
            return NO if self.excluded(self.others, JOINT) else UNDECIDED
        if not self.better(chosen, JOINT) or self.small(chosen):
            return UNDECIDED
        if chosen != BASELINE:
            return YES
        return NO if self.excluded([name for name in self.others if name != BASELINE], BASELINE) else UNDECIDED

    @cached_property
    def matter(self) -> tuple[str, ...]:
        """What else than one model has a mean gain over it that matters: more models are a price to pay."""
        return tuple(name for name in self.others if not self.small(name))

    def careful(self) -> str:
        """The fewest models that nothing with more models and a gain that matters beats beyond the noise."""
        chosen = self.allowed[0]
        for size in sorted({self.comparison.n_models(name) for name in self.matter}):
            rivals = [name for name in self.matter if self.comparison.n_models(name) == size and name != chosen]
            better = [(gain, name) for name in rivals if (gain := self.better(name, chosen)) > 0]
            if better:
                chosen = max(better)[1]
        return chosen

    def lowest(self, names: Iterable[str] | None = None) -> str:
        """The lowest mean validation losses; fewer models among equals."""
        gains = {name: self.comparison.total(name, "validation").mean for name in names or self.allowed}
        return max(gains, key=lambda name: (gains[name], -self.comparison.n_models(name)))

    def guess(self) -> str:
        """The candidate with the largest gain over one model less its standard error; one model if none is above 0.

        A large gain that is mostly luck is no better guess than a moderate one that most seeds and examples agree on.
        A mean gain that does not matter is no reason to serve more models, however sure it is. With one seed the error
        is not known, and the fewest models are the guess.
        """
        found = {name: self.comparison.spread(name) for name in self.matter}
        surest = {name: -one.mean - one.error() for name, one in found.items()}
        return max(
            (name for name in surest if surest[name] > 0), key=lambda name: surest[name], default=self.allowed[0]
        )

    def more_seeds(self) -> int | None:
        """How many further seeds would probably decide; None where no reasonable number would.

        With means and variances as they are now, a candidate whose mean gain matters would be better beyond the noise,
        or all would be without a gain that matters.
        """
        found = [self.comparison.spread(name) for name in self.others]
        if not found:
            return None
        matters = -np.log1p(-self.worthwhile)
        for seeds in range(max(2, len(self.comparison.seeds) + 1), MOST_SEEDS + 1):
            yes = any(-one.mean > max(one.reach(self.level, seeds), matters) for one in found)
            if yes or all(matters + one.mean > one.reach(0.95, seeds) for one in found):
                return seeds - len(self.comparison.seeds)
        return None


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
    by = rules.comparison.decided_by
    rule = (
        "more models are recommended only when they are better beyond the noise (95 % interval over seeds and examples "
        "above 0, adjusted for the number of candidates)"
        if budget is None or seeds < 2
        else f"the {'lowest losses' if by is None else f'best {by}'} among candidates with at most {budget} "
        f"model{'s' * (budget != 1)}"
    )
    numbers = (
        "Numbers are test losses."
        if by is None
        else f"Decided by {by}: a gain is how much less is lacking to its best value. Numbers are of test data."
    )
    text = (
        f"Chosen on validation examples that no training saw, {seeds} seed{'s' * (seeds != 1)} a candidate: {rule}. "
        f"A gain below {100 * rules.worthwhile:g} % does not count. {numbers}"
    )
    if left := len(rules.eliminated):
        text += f" Before, {left} other candidate{'s' * (left != 1)} left by successive halving, on other seeds."
    return text
