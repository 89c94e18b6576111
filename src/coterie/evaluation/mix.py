"""Serve a task from a simpler model where that is surely better."""

from __future__ import annotations

import numpy as np

from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.intervals import t_interval
from coterie.grouping import Grouping


def mix(comparison: Comparison, candidate: str, budget: int | None = None) -> Grouping | None:
    """The candidate's grouping with some tasks served by the all-in-one or by their single-task model.

    A task moves only when the simpler model's validation loss is lower beyond the noise (paired 95 % interval over
    seeds above 0). All tasks that are better served by the all-in-one model move together first, since one more model
    serves them all, then those of single groups (which a whole group may leave), then single tasks in the order of
    their gain; each move only while the number of models stays within the budget. Groups that serve no task any more
    are dropped.

    Returns:
        The mixed grouping, or None when no task moves.
    """
    base = comparison.groupings[comparison.index(candidate)]
    groups = [tuple(group) for group in base.groups]
    serves = list(base.serves)
    for bundle, group in _bundles(base, sorted(_moves(comparison, candidate), reverse=True)):
        if group not in groups:
            groups.append(group)
        trial = [groups.index(group) if t in bundle else s for t, s in enumerate(serves)]
        if not any(serves[t] != base.serves[t] for t in bundle) and (budget is None or len(set(trial)) <= budget):
            serves = trial
    if serves == list(base.serves):
        return None
    used = sorted(set(serves))
    return Grouping(
        tasks=comparison.tasks,
        groups=tuple(groups[g] for g in used),
        serves=tuple(used.index(s) for s in serves),
        method=f"{base.method}, mixed with simpler models",
    )


def _bundles(
    base: Grouping, moves: list[tuple[float, int, tuple[int, ...]]]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(tasks that move together, group that would serve them), in the order in which they are tried."""
    everything = tuple(range(len(base.tasks)))
    joint = [task for _, task, group in moves if group == everything]
    by_group = [tuple(t for t in joint if base.serves[t] == g) for g in range(len(base.groups))]
    together = [tuple(joint), *by_group]
    return [(tasks, everything) for tasks in together if tasks] + [((task,), group) for _, task, group in moves]


def _moves(comparison: Comparison, candidate: str) -> list[tuple[float, int, tuple[int, ...]]]:
    """(gain, task, group that would serve it) for each task that a simpler model serves better beyond the noise."""
    moves: list[tuple[float, int, tuple[int, ...]]] = []
    everything = tuple(range(len(comparison.tasks)))
    for simple in (JOINT, BASELINE):
        if simple == candidate:
            continue
        gains = comparison.gains("validation", against=candidate)[comparison.index(simple)]
        for task in range(len(comparison.tasks)):
            interval = t_interval(gains[:, task])
            if np.isfinite(interval.low) and interval.low > 0:
                moves.append((interval.mean, task, everything if simple == JOINT else (task,)))
    return moves
