"""Disjoint groups whose tasks move: what moves gain, kept as guesses, brought up to date where it may matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray, IntArray
from coterie.grouping.objective import Objective

#: moves whose gains are brought up to date at a time, most promising first
BATCH = 32
#: exchanges that are valued at a time, most promising first
PAIRS = 64


@dataclass(frozen=True)
class Limits:
    """Least and largest number of groups."""

    least: int
    most: int


class MovingTasks(ABC):
    """Disjoint groups, what they are worth, and what it gains to move a task.

    The gain of a move is what the old group gains by the leaving plus what the new group gains by the joining. Both
    are kept as guesses when groups change; how they are guessed is a matter of the subclass.

    Args:
        objective: what groups are worth.
        groups: bool (K, T), disjoint and not empty; tasks in none of them stay out.
        values: (K, T) what each task adds to the worth of its group.
    """

    def __init__(self, objective: Objective, groups: BoolArray, values: FloatArray) -> None:
        self.objective = objective
        self.groups = groups.copy()
        k, n = groups.shape
        self.totals: FloatArray = values.sum(1)
        self.alone: FloatArray = objective.totals(np.eye(n, dtype=bool))
        self._left, self._joined = np.zeros(n, dtype=bool), np.zeros((n, k), dtype=bool)

    @property
    def worth(self) -> float:
        """Sum of the groups' totals."""
        return float(self.totals.sum())

    @property
    def labels(self) -> IntArray:
        """(T,) group of each task, -1 for a task in none."""
        return np.where(self.groups.any(0), self.groups.argmax(0), -1).astype(np.int64)

    @abstractmethod
    def _guessed_gains(self) -> tuple[FloatArray, FloatArray]:
        """(T, K) gains of joining each group, and (T,) of leaving the own one; up to the same number a task."""

    @abstractmethod
    def _learn(self, leaving: IntArray, joining: tuple[IntArray, IntArray], values: FloatArray) -> None:
        """Note values (m, T) of groups without each task that leaves, then of groups with each that joins."""

    @abstractmethod
    def _ask_all(self) -> bool:
        """Whether all moves are asked for before the most promising ones are chosen."""

    @abstractmethod
    def _make(self, task: int, target: int, gain: float) -> None:
        """Make a move that gains, or something that gains more."""

    @abstractmethod
    def _change(self, index: int, members: BoolArray) -> None:
        """Note that a group is about to get other members."""

    @abstractmethod
    def _value(self, index: list[int], values: FloatArray) -> None:
        """Note the values (m, T) of groups that have changed."""

    @abstractmethod
    def _open(self) -> None:
        """Make room for one more group, which is empty."""

    @abstractmethod
    def _keep(self, full: BoolArray) -> None:
        """Forget what was noted of groups that are empty now."""

    def gains(self, limits: Limits) -> tuple[FloatArray, BoolArray]:
        """(T, K + 1) gains of moving a task into a group, last a new one; -inf where not allowed; which are known."""
        (k, n), labels = self.groups.shape, self.labels
        single = self.groups.sum(1)[labels] == 1
        joining, leaving = self._guessed_gains()
        gain = np.hstack([joining, self.alone[:, None]]) + leaving[:, None]
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
        without, joined = self.groups[self.labels[leaving]], self.groups[target]
        without[np.arange(len(leaving)), leaving] = False
        joined[np.arange(len(task)), task] = True
        self._learn(leaving, (task, target), self.objective.values(np.concatenate([without, joined])))
        self._left[leaving], self._joined[task, target] = True, True

    def promising(self, limits: Limits, count: int) -> tuple[IntArray, IntArray, FloatArray]:
        """The moves with the largest gains, as far as guesses tell, up to date: tasks, targets, gains (falling)."""
        if self._ask_all():
            gain, _ = self.gains(limits)
            self.refresh(*np.nonzero(np.isfinite(gain)))
        gain, _ = self.gains(limits)
        tasks, targets = largest_gains(gain, count)
        self.refresh(tasks, targets)
        gain, _ = self.gains(limits)
        order = np.argsort(-gain[tasks, targets], kind="stable")
        return tasks[order], targets[order], gain[tasks, targets][order]

    def best_move(self, limits: Limits, *, thorough: bool = True) -> bool:
        """Make the best of the most promising moves, or more, if that gains anything; False where none does.

        Where it is `thorough`, False means that every allowed move was asked for.
        """
        count = BATCH
        while True:
            tasks, targets, gain = self.promising(limits, count)
            if len(gain) and gain[0] > self.objective.tolerance:
                self._make(int(tasks[0]), int(targets[0]), float(gain[0]))
                return True
            value, known = self.gains(limits)
            if not thorough or not (np.isfinite(value) & ~known).any():
                return False
            count *= 4

    def pairs_apart(self) -> tuple[IntArray, IntArray]:
        """Both tasks of each pair that is in two groups."""
        labels = self.labels
        apart = (labels[:, None] != labels) & (labels >= 0) & (labels[:, None] >= 0)
        first, second = np.nonzero(np.triu(apart))
        return first.astype(np.int64), second.astype(np.int64)

    def exchanged(self, first: IntArray, second: IntArray) -> tuple[FloatArray, BoolArray]:
        """(m,) what it gains to exchange first[i] and second[i], and (2, m, T) the groups of both after that."""
        labels, rows = self.labels, np.arange(len(first))
        changed, before = np.zeros((2, len(first), len(labels)), dtype=bool), np.zeros(len(first))
        for side, (leaves, comes) in enumerate(((first, second), (second, first))):
            changed[side] = self.groups[labels[leaves]]
            changed[side, rows, leaves], changed[side, rows, comes] = False, True
            before += self.totals[labels[leaves]]
        totals = self.objective.totals(changed.reshape(-1, len(labels))).reshape(2, -1).sum(0)
        return totals - before, changed

    def move(self, task: int, target: int) -> None:
        """Move a task into a group; number K is a new one."""
        source = int(self.labels[task])
        without = self.groups[source].copy()
        joined = self.groups[target].copy() if target < len(self.groups) else np.zeros_like(without)
        without[task], joined[task] = False, True
        self.replace({source: without, target: joined})

    def replace(self, changed: Mapping[int, BoolArray]) -> None:
        """Put other groups in the place of some; number K adds one, an empty group is dropped."""
        k, n = self.groups.shape
        if k in changed:
            self._open()
            self.groups = np.vstack([self.groups, np.zeros((1, n), dtype=bool)])
            self.totals = np.append(self.totals, 0.0)
            self._joined = np.hstack([self._joined, np.zeros((n, 1), dtype=bool)])
        for index, members in changed.items():
            self._left[self.groups[index] | members] = False
            self._joined[:, index] = False
            self._change(index, members)
            self.groups[index] = members
        index = list(changed)
        values = self.objective.values(self.groups[index])
        self.totals[index] = values.sum(1)
        self._value(index, values)
        full: BoolArray = np.asarray(self.groups.any(1))
        if not full.all():
            self._keep(full)
            self.groups, self.totals, self._joined = self.groups[full], self.totals[full], self._joined[:, full]


def largest_gains(gain: FloatArray, count: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of the largest finite entries."""
    flat = gain.ravel()
    count = min(count, int(np.isfinite(flat).sum()))
    order = np.argpartition(-flat, count - 1)[:count] if 0 < count < len(flat) else np.argsort(-flat)[:count]
    rows, columns = np.divmod(np.sort(order), gain.shape[1])
    return rows.astype(np.int64), columns.astype(np.int64)
