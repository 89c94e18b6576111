"""What to do, said in one line: the simplest candidate that nothing beats beyond the noise."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._process_lock import process_lock
from coterie._show import short_repr
from coterie.evaluation import verdict as wording
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.labels import LabelLosses
from coterie.evaluation.verdict import NO, UNDECIDED, WORTHWHILE, DecisionRules, check_worthwhile
from coterie.grouping import Grouping


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


Sources = dict[int, str]
#: seeds that it takes to choose on one half of them and to judge on the other
LEAST_SEEDS = 4


@short_repr
@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixed grouping, and part -> (seeds, labels) what such mixtures lose where they were not chosen."""

    grouping: Grouping
    losses: Mapping[str, NDArray[np.float32]]


def mix(comparison: Comparison, candidate: str, budget: int | None = None) -> Mixture | None:
    """The candidate's grouping with some tasks served by the all-in-one or by their single-task model.

    A task moves when the simpler model's validation loss is lower beyond the noise (95 % interval above 0). All tasks
    that are better served by the all-in-one model move together first, since one more model serves them all, then those
    of single groups (which a whole group may leave), then single tasks in the order of their gain; each move only while
    the number of models stays within the budget. Groups that serve no task any more are dropped.

    A choice for many tasks flatters itself on the seeds and the examples on which it was made. So it is made on one
    half of the seeds and one half of the validation examples, and judged on the other halves, all four ways round; the
    mixture is returned only when that out-of-sample gain over the candidate is above 0 beyond the noise. Its losses are
    those of mixtures chosen on other seeds (and, on validation, other examples), too.

    Args:
        comparison: really trained candidates with label losses.
        candidate: the candidate to improve.
        budget: largest number of models.

    Returns:
        The mixture, or None when no task should move, with fewer than four seeds, or where a metric decides, which is
        no mean over examples.
    """
    labels = comparison.labels.get("validation")
    if labels is None or len(comparison.seeds) < LEAST_SEEDS or comparison.decided_by is not None:
        return None
    sources = _sources(comparison, candidate, budget)
    if not sources:
        return None
    losses = _out_of_sample(comparison, candidate, budget)
    name = "chosen out of sample"
    grouping = comparison.groupings[comparison.index(candidate)]
    if comparison.extended(name, grouping, losses).total(name, "validation", against=candidate).low > 0:
        return Mixture(_serve(comparison, candidate, sources), losses)
    return None


def _serve(comparison: Comparison, candidate: str, sources: Mapping[int, str]) -> Grouping:
    """The grouping in which some tasks are served by another candidate's model of that task."""
    base = comparison.groupings[comparison.index(candidate)]
    everything = tuple(range(len(comparison.tasks)))
    groups = [
        {JOINT: everything, BASELINE: (task,)}.get(sources.get(task, ""), tuple(base.groups[base.serves[task]]))
        for task in range(len(comparison.tasks))
    ]
    order = list(dict.fromkeys(groups))
    return Grouping(
        tasks=comparison.tasks,
        groups=tuple(order),
        serves=tuple(order.index(group) for group in groups),
        method=f"{base.method}, mixed with simpler models",
    )


def _sources(comparison: Comparison, candidate: str, budget: int | None) -> Sources:
    """Task -> candidate that serves it instead, for the tasks that move."""
    moves = sorted(_moves(comparison, candidate), reverse=True)
    serves = comparison.groupings[comparison.index(candidate)].serves
    joint = [task for _, task, simple in moves if simple == JOINT]
    tried: list[tuple[list[int], str]] = [(joint, JOINT)]
    tried += [([t for t in joint if serves[t] == group], JOINT) for group in sorted(set(serves))]
    tried += [([task], simple) for _, task, simple in moves]
    sources: Sources = {}
    for tasks, simple in tried:
        trial = {**sources, **dict.fromkeys(tasks, simple)}
        fits = budget is None or len(_serve(comparison, candidate, trial).groups) <= budget
        if tasks and not any(task in sources for task in tasks) and fits:
            sources = trial
    return sources


def _moves(comparison: Comparison, candidate: str) -> list[tuple[float, int, str]]:
    """(gain, task, simpler candidate) for each task that the simpler candidate serves better beyond the noise."""
    return [
        (interval.mean, task, simple)
        for simple in (JOINT, BASELINE)
        if simple != candidate
        for task, interval in enumerate(comparison.per_task(simple, "validation", against=candidate))
        if np.isfinite(interval.low) and interval.low > 0
    ]


def _out_of_sample(comparison: Comparison, candidate: str, budget: int | None) -> dict[str, NDArray[np.float32]]:
    """part -> (seeds, labels) losses of mixtures that were chosen on other seeds and other validation examples."""
    index = comparison.index(candidate)
    losses = {part: labels.values[index].copy() for part, labels in comparison.labels.items()}
    labels = comparison.labels["validation"]
    examples, position = np.unique(labels.row, return_inverse=True)
    side = (np.random.default_rng(0).permutation(len(examples)) % 2 == 0)[position]
    everywhere = np.ones(len(side), dtype=bool)
    numbers = range(len(comparison.seeds))
    for choose, judge in ((numbers[::2], numbers[1::2]), (numbers[1::2], numbers[::2])):
        for chosen_on in (side, ~side):
            part = _seen_through(comparison, labels.restricted(chosen_on, choose), choose)
            _put(losses["validation"], comparison, labels, _sources(part, candidate, budget), judge, ~chosen_on)
        if "test" in losses:
            part = _seen_through(comparison, labels.restricted(everywhere, choose), choose)
            test = comparison.labels["test"]
            whole = np.ones(len(test.task), dtype=bool)
            _put(losses["test"], comparison, test, _sources(part, candidate, budget), judge, whole)
    return losses


def _put(
    losses: NDArray[np.float32],
    comparison: Comparison,
    labels: LabelLosses,
    sources: Sources,
    seeds: Sequence[int],
    keep: NDArray[np.bool_],
) -> None:
    """Write what the chosen sources lose at some seeds and labels."""
    for task, simple in sources.items():
        where = np.ix_(np.asarray(seeds), np.flatnonzero(keep & (labels.task == task)))
        losses[where] = labels.values[comparison.index(simple)][where]


def _seen_through(comparison: Comparison, labels: LabelLosses, seeds: Sequence[int]) -> Comparison:
    """The comparison seen through some validation labels and some seeds only."""
    with np.errstate(invalid="ignore"), process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a task without a label there has no mean, and does not move
        means: NDArray[np.float64] = labels.means(len(comparison.tasks))
    chosen = tuple(comparison.seeds[seed] for seed in seeds)
    return replace(comparison, seeds=chosen, validation=means, test=means, labels={"validation": labels})


#: what takes more seeds than a comparison
MIXING = "serving single tasks from simpler models"


def conclude(
    comparison: Comparison, budget: int | None = None, worthwhile: float = WORTHWHILE
) -> tuple[Comparison, Recommendation]:
    """Recommend; then let simpler models serve the tasks for which they are surely better, if that pays as a whole.

    Where a mixture of many models is worth its price, a grouping with no more models may be worth more: among those the
    best on validation data is taken, and mixed in its turn. Whatever comes out has to be better than one model for all
    tasks beyond the noise to be more than a guess, and may be vetoed by the test data.

    Args:
        comparison: really trained candidates with label losses.
        budget: largest number of models that may be served; None for no limit.
        worthwhile: the smallest gain over one model for all tasks that is worth more models, as a share.

    Returns:
        The comparison with the mixtures that were found, and the recommendation.

    Raises:
        SettingError: see :func:`recommend`.

    Cost: milliseconds; up to seconds with hundreds of tasks.
    """
    advice = recommend(comparison, budget, worthwhile)
    for _ in range(2):
        mixed = mix(comparison, advice.candidate, budget)
        if mixed is None:
            break
        name = f"mixed ({len(mixed.grouping.groups)})"
        if name in comparison.candidates:
            name = f"{name}, from {advice.candidate}"
        comparison = comparison.extended(name, mixed.grouping, mixed.losses)
        rivals = [rival for rival in comparison.candidates if comparison.n_models(rival) <= comparison.n_models(name)]
        best = DecisionRules(comparison).lowest(rivals)
        advice = advise(comparison, best, budget, worthwhile)
        if best == name:
            break
    advice = veto(comparison, advice, budget, worthwhile)
    missing = LEAST_SEEDS - len(comparison.seeds)
    if advice.verdict == UNDECIDED and missing > 0 and comparison.decided_by is None:
        text = f"{advice.text} Not tried for lack of seeds: {MIXING}, which takes at least {missing} more."
        further = max(missing, advice.further_seeds or 0)
        advice = replace(advice, text=text, further_seeds=further, not_tried=(MIXING,))
    return comparison, advice
