"""What to do, said in one line: the simplest candidate that nothing beats beyond the noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Any

from coterie.evaluation import verdict as wording
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.verdict import NO, UNDECIDED, WORTHWHILE, DecisionRules, check_worthwhile


@dataclass(frozen=True)
class Recommendation:
    """Which candidate to serve, and why.

    Attributes:
        text: one line, the first thing that a report says.
        candidate: name of the recommended candidate; with the verdict ``"undecided"`` it is the best guess.
        models: how many models it serves.
        verdict: ``"yes"`` (train groups), ``"no"`` (do not bother) or ``"undecided"``.
        reason: how the choice was made.
        further_seeds: undecided: so many more seeds would probably decide, or are the fewest with which more can be
            tried; None where more seeds would not decide, or that cannot be told.
        not_tried: what was left out for lack of seeds.
    """

    text: str
    candidate: str
    models: int
    verdict: str
    reason: str
    further_seeds: int | None = None
    not_tried: tuple[str, ...] = ()

    @property
    def do_not_bother(self) -> bool:
        """Whether grouping is surely not worth it."""
        return self.verdict == NO

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {**vars(self), "not_tried": list(self.not_tried), "do_not_bother": self.do_not_bother}

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<p><strong>{escape(self.text)}</strong></p><p>{escape(self.reason)}</p>"


def recommend(comparison: Comparison, budget: int | None = None, worthwhile: float = WORTHWHILE) -> Recommendation:
    """Choose on validation data, report on test data.

    Without a budget, models cost something: starting from the candidate with the fewest models, a candidate with more
    models and a mean gain over one model that is worthwhile takes over only when its validation losses are lower beyond
    the noise: the 95 % interval (over seeds and examples) of the mean gain over the current choice is above 0. The
    level is adjusted for the number of candidates, those that left by successive halving included.

    Where nothing takes over, the verdict is "no" if the 95 % intervals of all candidates exclude a gain over one model
    that is worthwhile, and "undecided" otherwise. The best guess is then, among the candidates with a worthwhile mean
    gain over one model, the one whose gain less its standard error is the largest, or one model where none is above 0.
    With one seed there is no interval, and the fewest models are the guess.

    With a budget, so many models are affordable, and the best guess counts: the candidate within it that has the lowest
    validation losses, with fewer models among equals. The verdict says whether it is better beyond the noise.

    Args:
        comparison: really trained candidates.
        budget: largest number of models that may be served; None for no limit.
        worthwhile: the smallest gain over one model for all tasks that is worth more models, as a share.

    Raises:
        SettingError: when no candidate fits the budget, or `worthwhile` is no share.
    """
    rules = DecisionRules(comparison, budget, check_worthwhile(worthwhile))
    if budget is not None and len(comparison.seeds) > 1:
        chosen = rules.lowest()
    else:
        chosen = rules.careful()
        chosen = rules.guess() if chosen == JOINT else chosen
    return advise(comparison, chosen, budget, worthwhile)


def advise(
    comparison: Comparison, chosen: str, budget: int | None = None, worthwhile: float = WORTHWHILE
) -> Recommendation:
    """Say in words what a choice means, with test losses, the unwelcome included.

    One model for all tasks takes the place of a choice that is surely without a gain that matters; where no budget says
    that more models cost nothing, of one with a mean gain that does not matter, too.
    """
    rules = DecisionRules(comparison, budget, worthwhile)
    if rules.of(JOINT) == NO or (budget is None and rules.small(chosen)):
        chosen = JOINT
    verdict = rules.of(chosen)
    further = rules.more_seeds() if verdict == UNDECIDED else None
    text = {
        UNDECIDED: lambda: wording.undecided(rules, chosen, further),
        NO: lambda: wording.no_groups(rules) if chosen == JOINT else wording.single_tasks(rules),
    }.get(verdict, lambda: wording.groups(rules, chosen))()
    return Recommendation(
        text + wording.beyond_budget(rules, chosen), chosen, comparison.n_models(chosen), verdict,
        wording.reason(rules), further,
    )  # fmt: skip


def veto(
    comparison: Comparison, advice: Recommendation, budget: int | None = None, worthwhile: float = WORTHWHILE
) -> Recommendation:
    """Take back a verdict that the test data do not confirm, and fall back to one model for all tasks.

    Test data never choose between candidates; they can only send the choice back to the simplest one, and make a
    verdict undecided. A choice of more models is sent back when its mean test gain over one model for all tasks is at
    most 0; a "no" is taken back when a candidate has a test gain that matters, beyond the noise.
    """
    rules = DecisionRules(comparison, budget, worthwhile)
    if advice.candidate == JOINT:
        surprise = [name for name in rules.others if rules.better(name, JOINT, "test") > worthwhile]
        if advice.verdict != NO or not surprise:
            return advice
        text = wording.surprised(rules, surprise[0])
    elif comparison.total(advice.candidate, "test", against=JOINT).mean > 0:
        return advice
    else:
        text = wording.sent_back(rules, advice.candidate)
    return replace(
        advice, text=text, candidate=JOINT, models=comparison.n_models(JOINT), verdict=UNDECIDED, further_seeds=None
    )


def helped_and_harmed(comparison: Comparison, candidate: str, against: str = BASELINE) -> tuple[int, int]:
    """How many tasks gain, and how many lose, beyond the noise on test data."""
    intervals = comparison.per_task(candidate, "test", against)
    return sum(i.low > 0 for i in intervals), sum(i.high < 0 for i in intervals)
