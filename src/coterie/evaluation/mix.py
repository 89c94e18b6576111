"""Serve a task from a simpler model where that is surely better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.labels import LabelLosses
from coterie.grouping import Grouping

Sources = dict[int, str]


def mix(comparison: Comparison, candidate: str, budget: int | None = None) -> Grouping | None:
    """The candidate's grouping with some tasks served by the all-in-one or by their single-task model.

    A task moves when the simpler model's validation loss is lower beyond the noise (95 % interval above 0). All tasks
    that are better served by the all-in-one model move together first, since one more model serves them all, then those
    of single groups (which a whole group may leave), then single tasks in the order of their gain; each move only while
    the number of models stays within the budget. Groups that serve no task any more are dropped.

    The choice of many tasks on the same examples flatters the result. So it is made on each half of the validation
    examples and judged on the other; the mixture is returned only when that out-of-sample gain over the candidate is
    above 0 beyond the noise.

    Args:
        comparison: really trained candidates with label losses of the validation part.
        candidate: the candidate to improve.
        budget: largest number of models.

    Returns:
        The mixed grouping, or None when no task should move.
    """
    sources = _sources(comparison, candidate, budget)
    if not sources or not _holds_out_of_sample(comparison, candidate, budget):
        return None
    return _serve(comparison, candidate, sources)


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


def _holds_out_of_sample(comparison: Comparison, candidate: str, budget: int | None) -> bool:
    """Whether mixtures chosen on one half of the examples are better than the candidate on the other half."""
    labels = comparison.labels.get("validation")
    if labels is None:
        return False
    examples, position = np.unique(labels.row, return_inverse=True)
    side = (np.random.default_rng(0).permutation(len(examples)) % 2 == 0)[position]
    crossed = labels.values[comparison.index(candidate)].copy()
    for chosen_on in (side, ~side):
        part = _on_validation(comparison, labels.restricted(chosen_on))
        if not np.isfinite(part.validation).all():
            return False
        for task, simple in _sources(part, candidate, budget).items():
            judged = ~chosen_on & (labels.task == task)
            crossed[:, judged] = labels.values[comparison.index(simple)][:, judged]
    name = "chosen on the other half"
    wider = replace(
        comparison,
        candidates=(*comparison.candidates, name),
        groupings=(*comparison.groupings, comparison.groupings[comparison.index(candidate)]),
    )
    return _on_validation(wider, labels.extended(crossed)).total(name, "validation", against=candidate).low > 0


def _on_validation(comparison: Comparison, labels: LabelLosses) -> Comparison:
    """The comparison seen through some validation labels only."""
    means: NDArray[np.float64] = labels.means(len(comparison.tasks))
    return replace(comparison, validation=means, test=means, labels={"validation": labels})
