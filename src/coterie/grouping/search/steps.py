"""One move at a time: each move is made because the prediction itself says that it gains, and more than any other.

Several moves at once need far fewer predictions, but may end on a lower hill. With few tasks predictions are cheap, so
that given starts are first climbed in this way: the result of the search is then never below that of a plain one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray, IntArray
from coterie.grouping.objective import Objective
from coterie.grouping.search.moves import never
from coterie.grouping.search.moving import PAIRS, Limits, MovingTasks


class Steps(MovingTasks):
    """Disjoint groups, what they are worth, and what it gains to move a task; one move at a time.

    What the old group gains by a leaving and a new one by a joining is kept after other moves as the guess.

    Args:
        objective: what groups are worth.
        groups: bool (K, T), disjoint and not empty; tasks in none of them stay out.
    """

    def __init__(self, objective: Objective, groups: BoolArray) -> None:
        super().__init__(objective, groups, objective.values(groups))
        k, n = groups.shape
        self._leave, self._join = np.zeros(n), np.zeros((n, k))

    def _guessed_gains(self) -> tuple[FloatArray, FloatArray]:
        return self._join, self._leave

    def _learn(self, leaving: IntArray, joining: tuple[IntArray, IntArray], values: FloatArray) -> None:
        (task, target), totals = joining, values.sum(1)
        self._leave[leaving] = totals[: len(leaving)] - self.totals[self.labels[leaving]]
        self._join[task, target] = totals[len(leaving) :] - self.totals[target]

    def _ask_all(self) -> bool:
        return not self._left.any()  # nothing to guess from yet

    def _make(self, task: int, target: int, gain: float) -> None:
        del gain
        self.move(task, target)

    def best_swap(self, limit: int) -> bool:
        """Exchange two tasks where that gains anything, most promising pairs first, at most `limit` pairs."""
        labels = self.labels
        first, second = self.pairs_apart()
        if not len(first):
            return False
        moved = self._leave[:, None] + self._join
        guess = moved[first, labels[second]] + moved[second, labels[first]]
        order = np.argsort(-guess, kind="stable")[:limit]
        for start in range(0, len(order), PAIRS):
            i, j = first[order[start : start + PAIRS]], second[order[start : start + PAIRS]]
            gain, changed = self.exchanged(i, j)
            best = int(np.argmax(gain))
            if gain[best] > self.objective.tolerance:
                self.replace({int(labels[i[best]]): changed[0, best], int(labels[j[best]]): changed[1, best]})
                return True
        return False

    def move(self, task: int, target: int) -> None:
        """Move a task into a group; number K is a new one."""
        source = int(self.labels[task])
        back = -self._leave[task], -(self._join[task, target] if target < len(self.groups) else self.alone[task])
        self._join[task, source], self._leave[task] = back  # the way back would undo the gain: a good guess
        super().move(task, target)

    def _change(self, index: int, members: BoolArray) -> None:
        """Guesses stay as they are."""

    def _value(self, index: list[int], values: FloatArray) -> None:
        """Guesses stay as they are."""

    def _open(self) -> None:
        self._join = np.hstack([self._join, self.alone[:, None]])

    def _keep(self, full: BoolArray) -> None:
        self._join = self._join[:, full]


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
