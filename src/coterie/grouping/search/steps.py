"""One move at a time: each move is made because the prediction itself says that it gains, and more than any other.

Several moves at once need far fewer predictions, but may end on a lower hill. With few tasks predictions are cheap, so
that given starts are first climbed in this way: the result of the search is then never below that of a plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray, IntArray
from coterie.grouping.objective import Objective
from coterie.grouping.search.moves import BATCH, PAIRS, Limits, largest_gains, never


class Steps:
    """Disjoint groups, what they are worth, and what it gains to move a task.

    The gain of a move is what the old group gains by the leaving plus what the new group gains by the joining. Both
    are kept after other moves as guesses; :meth:`best_move` asks for the most promising ones first.

    Args:
        objective: what groups are worth.
        groups: bool (K, T), disjoint and not empty; tasks in none of them stay out.
    """

    def __init__(self, objective: Objective, groups: BoolArray) -> None:
        self.objective = objective
        self.groups = groups.copy()
        self.totals: FloatArray = objective.totals(groups)
        k, n = groups.shape
        self.alone: FloatArray = objective.totals(np.eye(n, dtype=bool))
        self._leave, self._join = np.zeros(n), np.zeros((n, k))
        self._left, self._joined = np.zeros(n, dtype=bool), np.zeros((n, k), dtype=bool)

    @property
    def worth(self) -> float:
        """Sum of the groups' totals."""
        return float(self.totals.sum())

    @property
    def labels(self) -> IntArray:
        """(T,) group of each task, -1 for a task in none."""
        return np.where(self.groups.any(0), self.groups.argmax(0), -1).astype(np.int64)

    def gains(self, limits: Limits) -> tuple[FloatArray, BoolArray]:
        """(T, K + 1) gains of moving a task into a group, last a new one; -inf where not allowed; which are known."""
        (k, n), labels = self.groups.shape, self.labels
        single = self.groups.sum(1)[labels] == 1
        gain = np.hstack([self._join, self.alone[:, None]]) + self._leave[:, None]
        gain[np.arange(n), labels] = -np.inf
        gain[labels < 0] = -np.inf
        if k <= limits.least:
            gain[single] = -np.inf
        gain[single, k] = -np.inf
        if k >= limits.most:
            gain[:, k] = -np.inf
        known = np.hstack([self._joined, np.ones((n, 1), dtype=bool)]) & self._left[:, None]
        return gain, known

    def refresh(self, tasks: IntArray, targets: IntArray) -> None:
        """Bring the gains of moves tasks[i] -> targets[i] up to date."""
        leaving = np.unique(tasks[~self._left[tasks]])
        old = targets < len(self.groups)
        pairs = np.unique(np.column_stack([tasks[old], targets[old]]), axis=0)
        pairs = pairs[~self._joined[pairs[:, 0], pairs[:, 1]]]
        task, target = pairs[:, 0], pairs[:, 1]
        labels = self.labels
        without, joined = self.groups[labels[leaving]], self.groups[target]
        without[np.arange(len(leaving)), leaving] = False
        joined[np.arange(len(task)), task] = True
        totals = self.objective.totals(np.concatenate([without, joined]))
        self._leave[leaving] = totals[: len(leaving)] - self.totals[labels[leaving]]
        self._join[task, target] = totals[len(leaving) :] - self.totals[target]
        self._left[leaving], self._joined[task, target] = True, True

    def promising(self, limits: Limits, count: int) -> tuple[IntArray, IntArray, FloatArray]:
        """The moves with the largest gains, as far as guesses tell, up to date: tasks, targets, gains (falling)."""
        if not self._left.any():  # nothing to guess from yet
            gain, _ = self.gains(limits)
            self.refresh(*np.nonzero(np.isfinite(gain)))
        gain, _ = self.gains(limits)
        tasks, targets = largest_gains(gain, count)
        self.refresh(tasks, targets)
        gain, _ = self.gains(limits)
        order = np.argsort(-gain[tasks, targets], kind="stable")
        return tasks[order], targets[order], gain[tasks, targets][order]

    def best_move(self, limits: Limits) -> bool:
        """Make the best of the most promising moves that gains anything; False where none does."""
        count = BATCH
        while True:
            tasks, targets, gain = self.promising(limits, count)
            if len(gain) and gain[0] > self.objective.tolerance:
                self.move(int(tasks[0]), int(targets[0]))
                return True
            value, known = self.gains(limits)
            if not (np.isfinite(value) & ~known).any():
                return False
            count *= 4

    def best_swap(self, limit: int) -> bool:
        """Exchange two tasks where that gains anything, most promising pairs first, at most `limit` pairs."""
        labels = self.labels
        first, second = np.nonzero(np.triu((labels[:, None] != labels) & (labels >= 0) & (labels[:, None] >= 0)))
        if not len(first):
            return False
        moved = self._leave[:, None] + self._join
        guess = moved[first, labels[second]] + moved[second, labels[first]]
        order = np.argsort(-guess, kind="stable")[:limit]
        for start in range(0, len(order), PAIRS):
            i, j = first[order[start : start + PAIRS]], second[order[start : start + PAIRS]]
            changed, before = np.zeros((2, len(i), len(labels)), dtype=bool), np.zeros(len(i))
            for side, (leaves, stays) in enumerate(((i, j), (j, i))):
                changed[side] = self.groups[labels[leaves]]
                changed[side, np.arange(len(i)), leaves], changed[side, np.arange(len(i)), stays] = False, True
                before += self.totals[labels[leaves]]
            totals = self.objective.totals(changed.reshape(-1, len(labels))).reshape(2, -1).sum(0)
            best = int(np.argmax(totals - before))
            if totals[best] - before[best] > self.objective.tolerance:
                self.replace({int(labels[i[best]]): changed[0, best], int(labels[j[best]]): changed[1, best]})
                return True
        return False

    def move(self, task: int, target: int) -> None:
        """Move a task into a group; number K is a new one."""
        source = int(self.labels[task])
        without = self.groups[source].copy()
        joined = self.groups[target].copy() if target < len(self.groups) else np.zeros_like(without)
        without[task], joined[task] = False, True
        back = -self._leave[task], -(self._join[task, target] if target < len(self.groups) else self.alone[task])
        self._join[task, source], self._leave[task] = back  # the way back would undo the gain: a good guess
        self.replace({source: without, target: joined})

    def replace(self, changed: Mapping[int, BoolArray]) -> None:
        """Put other groups in the place of some; number K adds one, an empty group is dropped."""
        k, n = self.groups.shape
        if k in changed:
            self.groups = np.vstack([self.groups, np.zeros((1, n), dtype=bool)])
            self.totals = np.append(self.totals, 0.0)
            self._join = np.hstack([self._join, self.alone[:, None]])
            self._joined = np.hstack([self._joined, np.zeros((n, 1), dtype=bool)])
        for index, members in changed.items():
            self._left[self.groups[index] | members] = False
            self._joined[:, index] = False
            self.groups[index] = members
        index = list(changed)
        self.totals[index] = self.objective.totals(self.groups[index])
        full = self.groups.any(1)
        if not full.all():
            self.groups, self.totals = self.groups[full], self.totals[full]
            self._join, self._joined = self._join[:, full], self._joined[:, full]


def climb_by_steps(steps: Steps, limits: Limits, *, stop: Callable[[], bool] = never) -> None:
    """Move and exchange tasks until nothing of that gains or the time is up.

    Args:
        steps: changed in place.
        limits: of the number of groups.
        stop: whether the time is up.
    """
    n = steps.groups.shape[1]
    for _ in range(100 * n):  # every step raises the objective; the limit only guards against rounding
        if stop() or not (steps.best_move(limits) or steps.best_swap(max(200, 4 * n))):
            return
