"""Local search for the partition with the largest predicted gain."""

from __future__ import annotations

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.density import as_labels, membership
from coterie.grouping.matrix import BoolArray, FloatArray, IntArray
from coterie.grouping.objective import Objective


def search(
    objective: Objective, labels: IntArray, *, max_swaps: int = 20_000, progress: Progress | None = None
) -> IntArray:
    """Make the best move of one task, again and again; when none helps, swap two tasks; stop when neither helps.

    Works for any worth that adds up over groups, such as the gain that a model predicts; it need not come from pairs.

    Args:
        objective: its `totals` say what single groups are worth; asked for many groups at once.
        labels: (T,) where to start; the number of groups stays and no group is emptied.
        max_swaps: swaps are only tried while there are at most so many pairs of tasks in different groups.
        progress: called with the number of steps made so far.

    Returns:
        (T,) labels that are worth at least as much, groups numbered by their first task.

    Cost:
        T * groups groups are asked for at the start, T a move afterwards, and two for each pair in a round of swaps.
    """
    say = progress or silent
    current = as_labels(labels, len(labels))
    for step in range(100 * len(labels)):  # every step raises the objective; the limit only guards against rounding
        say("grouping: local search", step, 0)
        gain, changed = _best_move(objective, current)
        if gain <= objective.tolerance and _unlike_pairs(current) <= max_swaps:
            gain, changed = _best_swap(objective, current)
        if gain <= objective.tolerance:
            break
        current = changed
    return as_labels(current, len(current))


def _unlike_pairs(labels: IntArray) -> int:
    """Number of pairs of tasks in different groups."""
    return int((labels[:, None] != labels[None, :]).sum()) // 2


def _best_move(objective: Objective, labels: IntArray) -> tuple[float, IntArray]:
    """Gain and result of the best move of one task to another group."""
    groups: BoolArray = membership(labels).T > 0
    n, k = len(labels), len(groups)
    movable = np.flatnonzero(groups.sum(axis=1)[labels] > 1)
    if k == 1 or not len(movable):
        return 0.0, labels
    now = objective.totals(groups)
    without = groups[labels[movable]]
    without[np.arange(len(movable)), movable] = False
    joined = np.repeat(groups[None], len(movable), axis=0)
    joined[np.arange(len(movable)), :, movable] = True
    leaving = objective.totals(without) - now[labels[movable]]
    gain: FloatArray = leaving[:, None] + objective.totals(joined.reshape(-1, n)).reshape(-1, k) - now
    gain[np.arange(len(movable)), labels[movable]] = -np.inf
    which, target = divmod(int(np.argmax(gain)), k)
    result = labels.copy()
    result[movable[which]] = target
    return float(gain[which, target]), result


def _best_swap(objective: Objective, labels: IntArray) -> tuple[float, IntArray]:
    """Gain and result of the best exchange of two tasks of different groups."""
    groups: BoolArray = membership(labels).T > 0
    first, second = np.nonzero(np.triu(labels[:, None] != labels[None, :]))
    if not len(first):
        return 0.0, labels
    now, pairs = objective.totals(groups), np.arange(len(first))
    gain = -now[labels[first]] - now[labels[second]]
    for stays, leaves in ((first, second), (second, first)):
        changed = groups[labels[leaves]]
        changed[pairs, leaves], changed[pairs, stays] = False, True
        gain = gain + objective.totals(changed)
    best = int(np.argmax(gain))
    result = labels.copy()
    result[first[best]], result[second[best]] = labels[second[best]], labels[first[best]]
    return float(gain[best]), result
