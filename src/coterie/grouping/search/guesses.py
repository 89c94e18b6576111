"""Groups under changes whose gains are guessed: moves that cost no prediction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray, IntArray


class Guesses:
    """A partition whose tasks move between its groups, none of which is emptied; what that gains is guessed.

    Args:
        groups: bool (K, T), disjoint and not empty.
        value: (T, K) what each task is worth to each group, with what its company adds to the others there.
        effects: (T, T) [t, s], what the company of t adds to the value of s, as if it were so in any group.
    """

    def __init__(self, groups: BoolArray, value: FloatArray, effects: FloatArray) -> None:
        self.groups, self.value, self.effects = groups.copy(), value.copy(), effects
        self.labels: IntArray = np.where(groups.any(0), groups.argmax(0), -1).astype(np.int64)
        self.rows = np.flatnonzero(self.labels >= 0)
        self.sizes = groups.sum(1)
        self.gain = 0.0

    def move(self, task: int, target: int) -> None:
        """Move a task into another group; nothing happens where that would empty its own."""
        source = int(self.labels[task])
        if self.sizes[source] < 2 or source == target:
            return
        self.gain += float(self.value[task, target] - self.value[task, source])
        both = self.effects[task] + self.effects[:, task]
        self.value[:, source] -= both
        self.value[:, target] += both
        self.groups[source, task], self.groups[target, task] = False, True
        self.sizes[source], self.sizes[target] = self.sizes[source] - 1, self.sizes[target] + 1
        self.labels[task] = target

    def climb(self, tolerance: float) -> Iterator[BoolArray]:
        """The groups after one, two, ... moves, always the best one, while that gains more than `tolerance`."""
        for _ in range(2 * len(self.labels)):
            source = self.labels[self.rows]
            gain = self.value[self.rows] - self.value[self.rows, source][:, None]
            gain[self.sizes[source] == 1] = -np.inf
            place, target = divmod(int(np.argmax(gain)), len(self.groups))
            if not gain[place, target] > tolerance:
                return
            self.move(int(self.rows[place]), target)
            yield self.groups

    def chain(self, task: int, target: int) -> tuple[float, BoolArray]:
        """The best point of a way that starts with a given move and goes on with others, whether each gains or not.

        Every task moves once at most; a point has at least two moves.

        Source:
            Kernighan and Lin 1970, "An efficient heuristic procedure for partitioning graphs".
        """
        free = np.ones(len(self.labels), dtype=bool)
        best, kept = -np.inf, self.groups.copy()
        for step in range(len(self.rows)):
            self.move(task, target)
            free[task] = False
            if step and self.gain > best:
                best, kept = self.gain, self.groups.copy()
            rows = self.rows[free[self.rows]]
            if not len(rows):
                break
            source = self.labels[rows]
            gain = self.value[rows] - self.value[rows, source][:, None]
            gain[np.arange(len(rows)), source] = -np.inf
            gain[self.sizes[source] == 1] = -np.inf
            place, target = divmod(int(np.argmax(gain)), len(self.groups))
            if not np.isfinite(gain[place, target]):
                break
            task = int(rows[place])
        return best, kept
