"""A partition under change: guesses of what many moves gain together, asked for where they may matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray, IntArray
from coterie.grouping.objective import Objective
from coterie.grouping.search.guesses import Guesses
from coterie.grouping.search.moving import PAIRS, Limits, MovingTasks, largest_gains

#: with more tasks all moves of a changed group are asked for together: models fit neighbours of a group at once
WHOLE = 96
#: ways of several moves that are valued at a time, most promising first
CHAINS = 12


class Partition(MovingTasks):
    """Disjoint groups, what they are worth, and what it gains to move a task, or several.

    When a group is asked for, each task's own value in it tells how the task that came or went acts on each of the
    others. From these effects follows what a move gains after other moves: exactly to first order, and to second order
    as if effects were the same in every group. Such guesses say which moves are asked for next, and which are tried
    together.

    Args:
        objective: what groups are worth.
        groups: bool (K, T), disjoint and not empty; tasks in none of them stay out.
    """

    def __init__(self, objective: Objective, groups: BoolArray) -> None:
        values = objective.values(groups)
        super().__init__(objective, groups, values)
        k, n = groups.shape
        #: [t, s] what the company of t adds to the value of s
        self._effects = np.zeros((n, n))
        #: (T, K) value of each task in each group, itself included, and what its company adds to the others there
        self._own, self._adds = np.where(groups, values, self.alone).T.copy(), np.zeros((n, k))
        self._asked = False

    def _guessed_gains(self) -> tuple[FloatArray, FloatArray]:
        joining = self._own + self._adds
        return joining, -joining[np.arange(len(joining)), self.labels]

    def _learn(self, leaving: IntArray, joining: tuple[IntArray, IntArray], values: FloatArray) -> None:
        task, target = joining
        self._learn_effects(leaving, self.labels[leaving], values[: len(leaving)], -1.0)
        self._learn_effects(task, target, values[len(leaving) :], 1.0)
        self._own[task, target] = values[len(leaving) + np.arange(len(task)), task]

    def _learn_effects(self, tasks: IntArray, groups: IntArray, values: FloatArray, sign: float) -> None:
        """Effects of tasks[i] on the others of groups[i], from their values (m, T) after it came (1) or went (-1)."""
        for task, group, found in zip(tasks, groups, values, strict=True):
            others = self.groups[group].copy()
            others[task] = False
            effects = sign * (found[others] - self._own[others, group])
            self._effects[task, others] = effects
            self._adds[task, group] = effects.sum()

    def _ask_all(self) -> bool:
        first, self._asked = not self._asked, True  # there is nothing to guess from at first
        return first or len(self.labels) > WHOLE

    def _make(self, task: int, target: int, gain: float) -> None:
        if not self._several(gain):
            self.move(task, target)

    def _several(self, least: float) -> bool:
        """Make the first of a way of guessed moves, as many as are worth most, if that gains more than `least`."""
        ways = [groups.copy() for groups in self.guesses().climb(self.objective.tolerance)]
        tried = [ways[number - 1] for number in (2**power for power in range(1, 20)) if number < len(ways)]
        return self._best_of([*tried, ways[-1]], least) if len(ways) > 1 else False

    def best_chain(self, limits: Limits, count: int) -> bool:
        """Make the best of the most promising ways of several moves, of which single ones may lose, if that gains."""
        gain, _ = self.gains(limits)
        gain = gain[:, : len(self.groups)]
        found: dict[bytes, tuple[float, BoolArray]] = {}
        for task, target in zip(*largest_gains(gain, 2 * count), strict=True):
            worth, groups = self.guesses().chain(int(task), int(target))
            found[groups.tobytes()] = worth, groups
        ways = sorted(found.values(), key=lambda one: -one[0])[:count]
        return bool(ways) and self._best_of([groups for _, groups in ways], 0.0)

    def guesses(self) -> Guesses:
        """The partition as far as guesses tell."""
        return Guesses(self.groups, self._own + self._adds, self._effects)

    def _best_of(self, ways: Sequence[BoolArray], least: float) -> bool:
        """Put the best of several partitions (K, T) in the place of this one if that gains more than `least`."""
        stacked = np.stack(ways)
        worth = self.objective.totals(stacked.reshape(-1, stacked.shape[2])).reshape(len(ways), -1).sum(1)
        best = int(np.argmax(worth))
        if worth[best] - self.worth <= max(least, self.objective.tolerance):
            return False
        changed = (ways[best] != self.groups).any(1)
        self.replace({int(index): ways[best][index] for index in np.flatnonzero(changed)})
        return True

    def best_swap(self, limit: int) -> bool:
        """Exchange two tasks where that gains anything, most promising pairs first, at most `limit` pairs.

        It ends sooner where a pair would have to be better than its guess by more than guesses were ever off.
        """
        labels, value = self.labels, self._own + self._adds
        first, second = self.pairs_apart()
        if not len(first):
            return False
        moved = value[:, labels] - value[np.arange(len(labels)), labels][:, None]
        both = self._effects + self._effects.T
        guess = moved[first, second] + moved[second, first] - 2 * both[first, second]
        order, off = np.argsort(-guess, kind="stable")[:limit], np.inf
        for start in range(0, len(order), PAIRS):
            pairs = order[start : start + PAIRS]
            if guess[pairs[0]] < -off:
                return False
            gain, changed = self.exchanged(first[pairs], second[pairs])
            best = int(np.argmax(gain))
            if gain[best] > self.objective.tolerance:
                i, j = first[pairs[best]], second[pairs[best]]
                self.replace({int(labels[i]): changed[0, best], int(labels[j]): changed[1, best]})
                return True
            off = max(off if start else 0.0, float(np.abs(gain - guess[pairs]).max()))
        return False

    def _change(self, index: int, members: BoolArray) -> None:
        came, went = members & ~self.groups[index], self.groups[index] & ~members
        self._own[:, index] += self._effects[came].sum(0) - self._effects[went].sum(0)
        self._adds[:, index] += self._effects[:, came].sum(1) - self._effects[:, went].sum(1)

    def _value(self, index: list[int], values: FloatArray) -> None:
        self._own[:, index] = np.where(self.groups[index], values, self._own[:, index].T).T

    def _open(self) -> None:
        self._own = np.hstack([self._own, self.alone[:, None]])
        self._adds = np.hstack([self._adds, np.zeros((len(self._adds), 1))])

    def _keep(self, full: BoolArray) -> None:
        self._own, self._adds = self._own[:, full], self._adds[:, full]


def never() -> bool:
    """The time is not up."""
    return False


def climb(
    partition: Partition,
    limits: Limits,
    swaps: int | None = None,
    *,
    thorough: bool = True,
    stop: Callable[[], bool] = never,
) -> int:
    """Move and exchange tasks until nothing of that gains; returns the number of steps.

    Args:
        partition: changed in place.
        limits: of the number of groups.
        swaps: exchanges that are tried when no move gains, most promising first; None for four a task, 200 at least.
        thorough: False asks for the most promising moves only, and for no chains or exchanges.
        stop: whether the time is up.
    """
    n = partition.groups.shape[1]
    tried = max(200, 4 * n) if swaps is None else swaps
    tried = tried if thorough else 0
    for step in range(100 * n):  # every step raises the objective; the limit only guards against rounding
        if stop() or not (
            partition.best_move(limits, thorough=thorough)
            or (thorough and CHAINS and partition.best_chain(limits, CHAINS))
            or (tried and partition.best_swap(tried))
        ):
            return step
    return 100 * n
