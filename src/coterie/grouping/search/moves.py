"""Moves of tasks between groups: one at a time, in chains, or all that gain at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coterie.grouping.matrix import BoolArray, FloatArray, IntArray
from coterie.grouping.objective import Objective
from coterie.grouping.search.guesses import Guesses

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


# Several moves at once need far fewer predictions, but may end on a lower hill. With few tasks predictions are cheap,
# so that given starts are first climbed in this way: the result of the search is then never below that of a plain
# one.


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
