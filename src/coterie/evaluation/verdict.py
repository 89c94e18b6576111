"""Whether more than one model is worth it: yes, no, or not to be told with so many seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from coterie.errors import SettingError
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison

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
