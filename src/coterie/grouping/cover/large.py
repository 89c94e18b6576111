"""Good groups for many tasks: local search from several starts, then iterated."""

from __future__ import annotations

import time

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.cover.problem import SLACK, Cover, CoverProblem
from coterie.grouping.matrix import BoolArray, IntArray, symmetrise
from coterie.grouping.objective import membership, random_labels


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


#: random partitions to start from
RANDOM_STARTS = 3
#: disturbances in a row without success after which the search ends: so many, and more where they are cheap
_PATIENCE, _CHEAP = 30, 1500


def search_cover(
    problem: CoverProblem,
    *,
    seed: int = 0,
    patience: int | None = None,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> BoolArray:
    """Groups that no step of the local search improves, after several starts and many disturbances.

    Starts: all tasks in one group (or packed, where a limit forbids that), spectral clusters, random partitions. Then
    one or two groups of the best selection are dissolved, their tasks go where they harm least, new groups grow in
    the free places, and the result is kept when it is better: merges and splits are special cases.

    Args:
        problem: what is to be solved.
        seed: of starts and disturbances.
        patience: disturbances in a row without success after which the search ends; None: 30, more for few tasks.
        time_limit: seconds; what was found by then counts.
        progress: told of the starts and the disturbances.

    Returns:
        (groups, T) groups that serve some task.

    Raises:
        SettingError: no start covers all tasks within budget and limit.

    Cost:
        For a matrix T^2 a tried group, about a second at 100 tasks; for a model T predictions a tried group.
    """
    say = progress or silent
    until = np.inf if time_limit is None else time.monotonic() + time_limit
    patience = patience or max(_PATIENCE, _CHEAP // problem.n)
    generator = np.random.default_rng(seed)
    local = LocalSearch(problem, until)
    best: Cover | None = None
    starts = _starts(problem, local, generator)
    for done, start in enumerate(starts):
        say("grouping: starts", done, len(starts))
        if best is not None and time.monotonic() > until:
            break
        found = local.descend(Cover(problem, start))
        if np.isfinite(found.total) and (best is None or found.total > best.total + local.tolerance):
            best = found
    say("grouping: starts", len(starts), len(starts))
    if best is None:
        raise problem.out_of_reach("The search found")
    failures = 0
    while failures < patience and len(best.groups) > 1 and time.monotonic() < until:
        say("grouping: disturbances without success", failures, patience)
        found = local.descend(_disturbed(best, generator))
        better = found.total > best.total + local.tolerance
        best, failures = (found, 0) if better else (best, failures + 1)
    say("grouping: disturbances without success", patience, patience)
    return best.selected()


def _starts(problem: CoverProblem, local: LocalSearch, generator: np.random.Generator) -> list[BoolArray]:
    """(K, T) groups to start from; K is the largest number of groups."""
    places = max(1, problem.most_groups)
    empty = np.zeros((places, problem.n), dtype=bool)
    whole = empty.copy()
    whole[0] = True
    labels: list[IntArray] = []
    if places < problem.n:
        labels.append(_clusters(local, places))
        labels += [random_labels(problem.n, places, generator) for _ in range(RANDOM_STARTS)]
    proposed = [whole, *(membership(one).T > 0 for one in labels)]
    possible = [one for one in proposed if problem.allowed(one).all() and problem.affordable(problem.costs(one).sum())]
    return [*possible, empty]  # the empty one is packed by the repair


def _clusters(local: LocalSearch, k: int) -> IntArray:
    """Spectral clusters of the affinities of pairs."""
    from coterie.grouping.spectral import spectral_labels

    pairs = local.pairs.copy()
    np.fill_diagonal(pairs, 0.0)
    return spectral_labels(symmetrise(pairs), k, seed=0)


def _disturbed(cover: Cover, generator: np.random.Generator) -> Cover:
    """A copy with one or two groups dissolved, or with a tenth of the tasks thrown out of their groups."""
    changed = cover.copy()
    active = np.flatnonzero(cover.groups.any(axis=1))
    kind = int(generator.integers(3))
    if kind < 2:
        for position in generator.choice(active, min(kind + 1, len(active) - 1), replace=False):
            changed.put(int(position), np.zeros(cover.problem.n, dtype=bool))
        return changed
    out = generator.random(cover.problem.n) < max(0.1, 2 / cover.problem.n)
    for position in active:
        changed.put(int(position), cover.groups[position] & ~out)
    return changed
