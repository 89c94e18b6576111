"""Steps that improve a selection: put a task in or out, move it, fill a free place with a new group."""

from __future__ import annotations

import time

import numpy as np

from coterie.grouping.cover.problem import SLACK, CoverProblem
from coterie.grouping.cover.state import Cover
from coterie.grouping.matrix import BoolArray, IntArray


class LocalSearch:
    """Improves selections of one problem until no step helps.

    Args:
        problem: what is to be solved.
        until: time (monotonic clock) at which a descent stops where it is.
    """

    def __init__(self, problem: CoverProblem, until: float = np.inf) -> None:
        self.problem, self.until = problem, until
        self.pairs = problem.scores.pairs()
        known = np.abs(self.pairs[~np.eye(problem.n, dtype=bool)])
        #: smallest improvement of the sum over tasks that counts
        self.tolerance = 1e-10 * max(float(known.max()), 1e-300) * problem.n

    def descend(self, cover: Cover) -> Cover:
        """The same object, at a local optimum unless time is up. Tasks without a group are put into one first.

        Cost:
            T^2 a tried group for a matrix, T predictions for a model.
        """
        self.repair(cover)
        while True:
            before = cover.total
            for position in range(len(cover.groups)):
                if time.monotonic() > self.until:
                    return cover
                if not cover.groups[position].any():
                    self.fill(cover, position)
                else:
                    self.toggle(cover, position)
            if not cover.total > before + self.tolerance and not self.move(cover):
                return cover

    def toggle(self, cover: Cover, position: int) -> None:
        """Put tasks into a group or take them out, the best one each time, while that helps."""
        problem, others, room = self.problem, cover.without(position), cover.room(position)
        now = cover.total
        while cover.groups[position].any() and time.monotonic() <= self.until:
            group = cover.groups[position]
            values = problem.scores.toggles(group)
            totals = np.maximum(values, others).sum(axis=1)
            totals[~self._possible(_toggled(group), room)] = -np.inf
            best = int(np.argmax(totals))
            if not totals[best] > now + self.tolerance:
                return
            now = float(totals[best])
            changed = group.copy()
            changed[best] ^= True
            cover.put(position, changed, values[best])

    def move(self, cover: Cover) -> bool:
        """Move one task from a group to another where that helps most; whether it did.

        Putting a task in and taking it out one after the other would have to go through something worse.
        """
        active = [p for p in range(len(cover.groups)) if cover.groups[p].any()]
        toggles = {p: self.problem.scores.toggles(cover.groups[p]) for p in active}
        best_total, best_step = cover.total + self.tolerance, None
        for source in active:
            members = np.flatnonzero(cover.groups[source]).astype(np.int64)
            for target in active:
                tasks = members[~cover.groups[target][members]]
                if source == target or not len(tasks):
                    continue
                fixed = cover.without(source, target)
                values = np.maximum(np.maximum(toggles[source][tasks], toggles[target][tasks]), fixed)
                totals = values.sum(axis=1)
                totals[~self._movable(cover, source, target, tasks)] = -np.inf
                which = int(np.argmax(totals))
                if totals[which] > best_total:
                    best_total, best_step = float(totals[which]), (source, target, int(tasks[which]))
        if best_step is None:
            return False
        source, target, task = best_step
        for position in (source, target):
            changed = cover.groups[position].copy()
            changed[task] ^= True
            cover.put(position, changed, toggles[position][task])
        return True

    def fill(self, cover: Cover, position: int) -> None:
        """Start a group from the pair, or the single task, that helps most, and let it grow."""
        problem, now = self.problem, cover.without(position)
        alone = np.maximum(np.diag(self.pairs) - now, 0.0)
        target = np.maximum(self.pairs - now[:, None], 0.0)
        gain = target + target.T
        np.fill_diagonal(gain, alone)
        sizes = problem.sizes[:, None] + problem.sizes
        costs = problem.model_cost + problem.task_costs[:, None] + problem.task_costs
        np.fill_diagonal(sizes, problem.sizes)
        np.fill_diagonal(costs, problem.model_cost + problem.task_costs)
        gain[(sizes > problem.limit * (1 + SLACK)) | (costs > self._ceiling(cover.room(position)))] = -np.inf
        first, second = divmod(int(np.argmax(gain)), problem.n)
        if gain[first, second] > self.tolerance:
            group = np.zeros(problem.n, dtype=bool)
            group[[first, second]] = True
            cover.put(position, group)
            self.toggle(cover, position)

    def repair(self, cover: Cover) -> None:
        """Put every task that is in no group into the one where that harms least."""
        problem = self.problem
        for task in np.flatnonzero(~cover.groups.any(axis=0)):
            joined = cover.groups.copy()
            joined[:, task] = True
            values = problem.scores.scores(joined)
            covered = np.asarray(cover.groups.any(axis=0))
            covered[task] = True
            totals = np.full(len(joined), -np.inf)
            for position in range(len(joined)):
                if self._possible(joined[position][None], cover.room(position))[0]:
                    totals[position] = np.maximum(values[position], cover.without(position))[covered].sum()
            best = int(np.argmax(totals))
            if totals[best] > -np.inf:
                cover.put(best, joined[best], values[best])

    def _possible(self, groups: BoolArray, room: float) -> BoolArray:
        return self.problem.allowed(groups) & (self.problem.costs(groups) <= self._ceiling(room))

    def _movable(self, cover: Cover, source: int, target: int, tasks: IntArray) -> BoolArray:
        groups = _toggled(cover.groups[source])[tasks], _toggled(cover.groups[target])[tasks]
        cost = self.problem.costs(groups[0]) + self.problem.costs(groups[1])
        return self.problem.allowed(groups[1]) & (cost <= self._ceiling(cover.room(source, target)))

    def _ceiling(self, room: float) -> float:
        """A cost within the room, up to rounding."""
        return room + SLACK * self.problem.budget


def _toggled(group: BoolArray) -> BoolArray:
    return group ^ np.eye(len(group), dtype=bool)
