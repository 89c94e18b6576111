"""Merges and splits of groups, by what the objective says the result is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray, IntArray
from coterie.grouping.objective import Objective
from coterie.grouping.search.moves import Limits, Partition, climb, never

#: steps in which half of a group leaves for the second part, and tasks that are tried for each place of a step
STEPS, TRIED = 6, 4
#: up to so many tasks a merge and a split are tried together where the number of groups is fixed; it is dear
FEW = 40
#: merges that are tried together with a split
MERGES = 1


class Reshaper:
    """Finds merges and splits; remembers the splits that it tried.

    Args:
        objective: what groups are worth.
        swaps: see :func:`coterie.grouping.search.moves.climb`.
        stop: whether the time is up.
    """

    def __init__(self, objective: Objective, swaps: int | None = None, stop: Callable[[], bool] = never) -> None:
        self.objective, self.swaps, self.stop = objective, swaps, stop
        self._splits: dict[bytes, tuple[float, BoolArray]] = {}

    def improve(self, partition: Partition, limits: Limits) -> bool:
        """Merge two groups, split one, or both at once, if that gains anything; False where nothing does."""
        k, least = len(partition.groups), self.objective.tolerance
        if k > limits.least and k > 1:
            gain, first, second = self.best_merge(partition)
            if gain > least:
                merge(partition, first, second)
                return True
        if k < limits.most:
            gain, index, parts = self.best_split(partition)
            if gain > least:
                partition.replace({index: parts[0], k: parts[1]})
                return True
        few = partition.groups.shape[1] <= FEW
        return few and k > 1 and k == limits.most and self._exchange(partition)

    def best_merge(self, partition: Partition) -> tuple[float, int, int]:
        """Gain and numbers of the two groups that are best merged."""
        first, second = np.triu_indices(len(partition.groups), 1)
        unions = self.objective.totals(partition.groups[first] | partition.groups[second])
        gain: FloatArray = unions - partition.totals[first] - partition.totals[second]
        best = int(np.argmax(gain))
        return float(gain[best]), int(first[best]), int(second[best])

    def best_split(self, partition: Partition) -> tuple[float, int, BoolArray]:
        """Gain, number and parts (2, T) of the group that is best split; -inf where every group is one task."""
        found = [(*self.split(members), index) for index, members in enumerate(partition.groups)]
        gain, parts, index = max(found, key=lambda one: one[0])
        return gain, index, parts

    def split(self, members: BoolArray) -> tuple[float, BoolArray]:
        """Gain of splitting a group in two, and the parts (2, T).

        Tasks leave a few at a time, always those with which both parts are worth most; the best point of the way is
        improved by moves.

        Cost: about 6 groups are asked for each task.
        """
        key = members.tobytes()
        if key not in self._splits:
            self._splits[key] = self._split(members)
        return self._splits[key]

    def _split(self, members: BoolArray) -> tuple[float, BoolArray]:
        n, size = len(members), int(members.sum())
        parts = np.stack([members, np.zeros(n, dtype=bool)])
        if size < 2:
            return -np.inf, parts
        partition = Partition(self.objective, members[None])
        whole, best, kept, at_once = partition.worth, -np.inf, parts, -(-size // (2 * STEPS))
        for step in range(STEPS):
            if not step:
                tasks, _, _ = partition.promising(Limits(1, 2), size)
                partition.move(int(tasks[0]), 1)
            elif partition.groups[0].sum() > at_once:
                leaving = self._leaving(partition, at_once)
                changed = partition.groups.copy()
                changed[0, leaving], changed[1, leaving] = False, True
                partition.replace(dict(enumerate(changed)))
            if partition.worth > best:
                best, kept = partition.worth, partition.groups.copy()
        polished = Partition(self.objective, kept)
        climb(polished, Limits(2, 2), 0)  # exchanges come after the split
        return polished.worth - whole, polished.groups

    def _leaving(self, partition: Partition, count: int) -> IntArray:
        """The tasks that best leave the first of two groups for the second."""
        gain, _ = partition.gains(Limits(2, 2))
        rows = np.flatnonzero(partition.groups[0])
        rows = rows[np.argsort(-gain[rows, 1], kind="stable")][: TRIED * max(2, count)]
        partition.refresh(rows, np.ones(len(rows), dtype=np.int64))
        gain, _ = partition.gains(Limits(2, 2))
        return rows[np.argsort(-gain[rows, 1], kind="stable")][:count]

    def _exchange(self, partition: Partition) -> bool:
        """Merge two groups and split another one: the number of groups stays."""
        first, second = np.triu_indices(len(partition.groups), 1)
        unions = partition.groups[first] | partition.groups[second]
        lost = self.objective.totals(unions) - partition.totals[first] - partition.totals[second]
        splits = [self.split(members) for members in partition.groups]
        for pair in np.argsort(-lost, kind="stable")[:MERGES]:
            a, b = int(first[pair]), int(second[pair])
            others = [(splits[c][0], c, splits[c][1]) for c in range(len(splits)) if c not in (a, b)]
            gain, index, parts = max(
                [*others, (self.split(unions[pair])[0], a, self.split(unions[pair])[1])], key=lambda one: one[0]
            )
            if lost[pair] + gain <= self.objective.tolerance:
                continue
            changed = {a: parts[0], b: parts[1]} if index == a else {a: unions[pair], b: parts[0], index: parts[1]}
            partition.replace(changed)
            return True
        return False


def merge(partition: Partition, first: int, second: int) -> None:
    """Put two groups together."""
    union = partition.groups[first] | partition.groups[second]
    partition.replace({first: union, second: np.zeros_like(union)})


def fit_number(partition: Partition, limits: Limits, reshaper: Reshaper) -> None:
    """Merge or split, at the smallest loss, until the number of groups is allowed."""
    while len(partition.groups) > limits.most:
        _, first, second = reshaper.best_merge(partition)
        merge(partition, first, second)
    while len(partition.groups) < limits.least:
        _, index, parts = reshaper.best_split(partition)
        partition.replace({index: parts[0], len(partition.groups): parts[1]})


def ascend(partition: Partition, limits: Limits, reshaper: Reshaper) -> None:
    """Moves and exchanges, then merges and splits, until nothing gains or the time is up."""
    fit_number(partition, limits, reshaper)
    for _ in range(10 * partition.groups.shape[1]):
        climb(partition, limits, reshaper.swaps, thorough=False, stop=reshaper.stop)
        if reshaper.stop():
            return
        if reshaper.improve(partition, limits):
            continue
        if not climb(partition, limits, reshaper.swaps, stop=reshaper.stop):
            return
