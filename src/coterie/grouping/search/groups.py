"""Groupings that are best by the estimate itself: search over partitions for the largest predicted gain."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import erf, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie._progress import Progress, silent
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.grouping.grouping import Grouping
from coterie.grouping.matrix import BoolArray, FloatArray, GainModelLike, IntArray, check_count, check_seed
from coterie.grouping.objective import GainObjective, as_labels, random_labels
from coterie.grouping.search.moves import Limits, Partition, Steps, climb_by_steps, never
from coterie.grouping.search.reshape import Reshaper, ascend

#: changes whose standard errors are looked at in a step of the cautious search, those with the best means
LOOKED_AT = 24
#: random groupings that tell how much of the differences between estimates is real
RANDOM_GROUPINGS = 64
#: variances below this share of the largest count as none
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Advantage:
    """A difference between two groupings, mean over the tasks, and its standard error."""

    mean: float
    error: float

    @property
    def probability(self) -> float:
        """Probability that the difference is above 0, by the normal distribution; 0 for a grouping with itself."""
        if self.error <= 0:
            return float(self.mean > 0)
        return 0.5 * (1 + erf(self.mean / self.error / sqrt(2)))


def advantage(objective: GainObjective, groups: BoolArray, others: BoolArray) -> Advantage | None:
    """What a grouping gains over another one; None where the model does not tell how sure it is.

    Args:
        objective: of a gain model.
        groups: bool (K, T).
        others: bool (L, T).
    """
    both = np.concatenate([groups, others])
    covariance = objective.covariance(both)
    if covariance is None:
        return None
    weights = np.concatenate([np.ones(len(groups)), -np.ones(len(others))])
    n = groups.shape[1]
    error = float(_errors(covariance, weights[None])[0])
    return Advantage(float(weights @ objective.totals(both)) / n, error / n)


def confidence(objective: GainObjective, groups: BoolArray, seed: int = 0) -> dict[str, float | str]:
    """Facts for the details of a grouping: advantages over one group and over single tasks, how sure they are.

    Where the model's standard errors are a posterior, choosing the best of many groupings does not make its
    advantage too large, since the posterior knew all the data that the choice was made from; it is as right as the
    model's prior. Elsewhere the best of many estimates is mostly the luckiest one (winner's curse), and advantages are
    shrunk, see :func:`shrunk`. What all base models get wrong alike is in no spread: such probabilities stay too large.

    Args:
        objective: of a gain model.
        groups: bool (K, T).
        seed: of the random groupings that tell how much to shrink.
    """
    n = groups.shape[1]
    kind = str(getattr(objective.model, "uncertainty", ""))
    found: dict[str, float | str] = {}
    rivals = {"all_in_one": np.ones((1, n), dtype=bool), "single_task": np.eye(n, dtype=bool)}
    for name, rival in rivals.items():
        over = advantage(objective, groups, rival)
        if over is None:
            return {}
        if kind != "posterior":
            over = shrunk(objective, groups, rival, over, seed)
        found[f"gain_over_{name}"] = over.mean
        found[f"gain_over_{name}_error"] = over.error
        found[f"probability_beats_{name}"] = over.probability
    return {**found, "uncertainty": kind}


def shrunk(objective: GainObjective, groups: BoolArray, rival: BoolArray, over: Advantage, seed: int) -> Advantage:
    """An estimated advantage, moved towards the mean one of random groupings with groups of the same sizes.

    How estimates differ between random groupings is how true advantages differ, plus errors. The share of the former in
    the variance is what is kept of the difference from the mean (empirical Bayes with normal distributions); the error
    of the mean itself stays.

    Args:
        objective: of a gain model.
        groups: bool (K, T), found by a search.
        rival: bool (L, T), what it is held against.
        over: the advantage as estimated.
        seed: of the random groupings.
    """
    (k, n), generator = groups.shape, np.random.default_rng(seed)
    labels = groups.argmax(0)
    drawn = [generator.permutation(labels) == np.arange(k)[:, None] for _ in range(RANDOM_GROUPINGS)]
    rows = np.concatenate([groups, *drawn, rival])
    covariance = objective.covariance(rows)
    if covariance is None or over.error <= 0:  # the rival itself
        return over
    weights = np.zeros((RANDOM_GROUPINGS + 1, len(rows)))
    weights[:, (RANDOM_GROUPINGS + 1) * k :] = -1.0
    for number in range(RANDOM_GROUPINGS + 1):
        weights[number, number * k : (number + 1) * k] = 1.0
    typical = weights[1:].mean(0)
    away = weights - typical
    differences, errors = away @ objective.totals(rows) / n, _errors(covariance, away) / n
    variance = float((differences[1:] ** 2).mean())
    share = max(0.0, 1.0 - float((errors[1:] ** 2).mean()) / variance) if variance > 0 else 0.0
    mean = float(typical @ objective.totals(rows)) / n + share * float(differences[0])
    error = float(_errors(covariance, typical[None])[0]) / n
    return Advantage(mean, sqrt(error**2 + share * float(errors[0]) ** 2))


class Cautious:
    """Worth of a partition: its gain over all-in-one minus `caution` standard errors of that.

    Args:
        objective: of a gain model that tells how sure it is.
        caution: standard errors that are taken off, at least 0.
    """

    def __init__(self, objective: GainObjective, caution: float) -> None:
        self.objective, self.caution = objective, caution

    def worth(self, groups: BoolArray) -> float:
        """Worth, mean over the tasks; 0 for all-in-one."""
        found = advantage(self.objective, groups, np.ones((1, groups.shape[1]), dtype=bool))
        return 0.0 if found is None else found.mean - self.caution * found.error

    def climb(self, partition: Partition, limits: Limits) -> float:
        """Best changes among those with the best means, until none raises the worth; returns the worth.

        Changes are moves and merges. Cost: the covariance of about 50 groups for each step.
        """
        n = partition.groups.shape[1]
        current = self.worth(partition.groups)
        for _ in range(10 * n):
            changes = self._changes(partition, limits)
            if not changes:
                break
            worth = self._worths(partition, changes)
            best = int(np.argmax(worth))
            if worth[best] <= current + self.objective.tolerance:
                break
            partition.replace(changes[best])
            current = self.worth(partition.groups)
        return current

    def _changes(self, partition: Partition, limits: Limits) -> list[dict[int, BoolArray]]:
        """The most promising moves and merges."""
        k, n = partition.groups.shape
        changes: list[dict[int, BoolArray]] = []
        tasks, targets, gain = partition.promising(limits, LOOKED_AT)
        for task, target in zip(tasks[np.isfinite(gain)], targets[np.isfinite(gain)], strict=True):
            source = int(partition.labels[task])
            without = partition.groups[source].copy()
            joined = partition.groups[target].copy() if target < k else np.zeros(n, dtype=bool)
            without[task], joined[task] = False, True
            changes.append({source: without, int(target): joined})
        if k > max(limits.least, 1):
            first, second = np.triu_indices(k, 1)
            unions = partition.groups[first] | partition.groups[second]
            lost = self.objective.totals(unions) - partition.totals[first] - partition.totals[second]
            for pair in np.argsort(-lost, kind="stable")[: LOOKED_AT // 4]:
                empty = np.zeros(n, dtype=bool)
                changes.append({int(first[pair]): unions[pair], int(second[pair]): empty})
        return changes

    def _worths(self, partition: Partition, changes: list[dict[int, BoolArray]]) -> FloatArray:
        """Worth after each of the changes."""
        k, n = partition.groups.shape
        new = [members for change in changes for members in change.values()]
        rows = np.concatenate([partition.groups, np.ones((1, n), dtype=bool), np.stack(new)])
        weights = np.zeros((len(changes), len(rows)))
        weights[:, :k], weights[:, k] = 1.0, -1.0
        place = k + 1
        for number, change in enumerate(changes):
            for index in change:
                if index < k:
                    weights[number, index] = 0.0
                weights[number, place] = 1.0
                place += 1
        filled = rows.any(1)
        rows, weights = rows[filled], weights[:, filled]
        covariance = self.objective.covariance(rows)
        errors = np.zeros(len(changes)) if covariance is None else _errors(covariance, weights)
        return (weights @ self.objective.totals(rows) - self.caution * errors) / n


def _errors(covariance: FloatArray, weights: FloatArray) -> FloatArray:
    """Standard errors of weighted sums, one a row of weights."""
    variances = np.einsum("ci,ij,cj->c", weights, covariance, weights, optimize=True)
    size = np.abs(weights) @ np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return np.sqrt(np.where(variances > _ROUNDING * size**2, variances, 0.0))


#: random partitions among the starts, up to so many tasks; with more tasks plain and given starts are enough. Given
#: starts are then first climbed one move at a time
RANDOM, SMALL = 2, 20
#: numbers of groups of random starts where the number is free
USUAL = 5
#: up to so many tasks the search also starts from single tasks, which asks for all pairs
PAIRS_UP_TO = 128


@known_arguments
def search_groups(
    model: GainModelLike,
    k: int | None = None,
    *,
    max_groups: int | None = None,
    starts: Sequence[Grouping | ArrayLike] = (),
    caution: float = 0.0,
    seed: int = 0,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Grouping:
    """The partition with the largest gain that a model predicts, by moves, exchanges, merges and splits.

    Nothing goes through pairs: each group is asked for as it is. The search starts from given partitions, from all
    tasks together, from single tasks, and for few tasks from random partitions. It returns the best end, which is
    never worse than any allowed start, nor, up to 20 tasks, than where a search that makes one move at a time gets from
    it. Groups are asked for in batches, most promising changes first, and never twice.

    Args:
        model: predicts the gain of every task of any subset, see :class:`coterie.affinity.GainModel`.
        k: exact number of groups, 1..T; None leaves it free.
        max_groups: largest number of groups where `k` is None; None for T.
        starts: groupings, or (T,) labels in the order of the model's tasks. Where a start has a number of groups that
            is not allowed, groups are merged or split at the smallest loss.
        caution: standard errors of the gain over all-in-one that are taken off it; the result is the best of that.
            0 goes by the mean. Counts only for models that have a ``total_covariance``.
        seed: of the random starts.
        time_limit: seconds after which the best partition so far is returned; results then depend on the machine, and
            `details` say ``"complete": False``. None searches to the end.
        progress: called as ``progress(stage, done, total)`` with the groups that were asked for and about how many
            will be.

    Returns:
        A partition; `objective` is its mean predicted gain over tasks. `details` say, where the model knows how sure
        it is: ``gain_over_all_in_one``, its standard error, ``probability_beats_all_in_one``, the same for
        ``single_task``, and what ``uncertainty`` covers. What the probabilities are worth is said in
        :func:`coterie.grouping.search.groups.confidence`.

        The order of the tasks does not matter, except among groupings that are predicted to be equally good.

    Raises:
        SettingError: settings out of range; a start of another length; a prediction that is no finite number.

    Cost:
        Some 25 to 80 predicted groups a task for each start.

    Source:
        Coterie's own; local search as for graph partitioning (Kernighan and Lin 1970, "An efficient heuristic
        procedure for partitioning graphs").

    Example:
        >>> from coterie.affinity import Affinity, PairwiseGainModel
        >>> values = np.kron(np.eye(2), np.full((3, 3), 0.2)) - 0.1
        >>> model = PairwiseGainModel(Affinity(values, tuple("abcdef"), None, "gain", "example"))
        >>> found = search_groups(model)
        >>> found.names, round(found.objective, 6)
        ((('a', 'b', 'c'), ('d', 'e', 'f')), 0.1)
    """
    if not isinstance(model, GainModelLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            f"Parameter `model` should predict the gain of any subset. Found a value of type {type(model).__name__}. A "
            "matrix is grouped by coterie.group, or wrapped first: PairwiseGainModel(affinity)."
        )
    say, n = progress or silent, len(model.tasks)
    limits = _check(n, k, max_groups, caution, seed)
    stop = _clock(time_limit)
    objective = GainObjective(model, order := _order(model))
    chosen = _starts(starts, order, limits, seed)
    expected = _expected(n, limits, len(chosen))
    objective.tell = lambda asked: say("grouping: search", min(asked, expected - 1), expected)
    reshaper = Reshaper(objective, stop=stop)
    ends: list[Partition] = []
    for number, groups in enumerate(chosen):
        if stop() and ends:
            break
        stepped = n <= SMALL and number < len(starts)
        ends.append(Partition(objective, _stepped(objective, groups, limits, stop) if stepped else groups))
        ascend(ends[-1], limits, reshaper)
    if caution > 0:
        ends = _cautious(objective, ends, [g for g in chosen if limits.least <= len(g) <= limits.most], limits, caution)
    say("grouping: search", expected, expected)
    best = ends[0] if caution > 0 else _largest(ends, objective.tolerance)
    labels = np.empty(n, dtype=np.int64)
    labels[order] = best.labels
    details: dict[str, float | str] = {"k_given": k is not None, "starts": len(chosen), "asked": objective.asked}
    details |= {"complete": not stop()} if time_limit is not None else {}
    details |= {"caution": float(caution), **confidence(objective, best.groups, seed)}
    return Grouping.from_labels(
        [str(task) for task in model.tasks], labels, objective=best.worth / n, method="search", details=details
    )


def _stepped(objective: GainObjective, groups: BoolArray, limits: Limits, stop: Callable[[], bool]) -> BoolArray:
    """Where a search that makes one move at a time ends; the groups as they are where their number is not allowed."""
    if not limits.least <= len(groups) <= limits.most:
        return groups
    steps = Steps(objective, groups)
    climb_by_steps(steps, limits, stop=stop)
    return steps.groups


def _clock(time_limit: float | None) -> Callable[[], bool]:
    """Whether the time is up."""
    if time_limit is None:
        return never
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or not time_limit > 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(f"Parameter `time_limit` should be a positive number of seconds. Found {time_limit!r}.")
    until = time.monotonic() + time_limit
    return lambda: time.monotonic() >= until


def _expected(n: int, limits: Limits, starts: int) -> int:
    """About how many groups will be asked for."""
    pairs = n * n if n <= PAIRS_UP_TO else 0
    return pairs + starts * n * (10 + 2 * min(limits.most, 10))


def _cautious(
    objective: GainObjective, ends: list[Partition], starts: list[BoolArray], limits: Limits, caution: float
) -> list[Partition]:
    """The partition with the best cautious worth: from the best few ends and starts, changed while that rises."""
    judge = Cautious(objective, caution)
    pool = [*ends, *(Partition(objective, groups) for groups in starts)]
    worth = np.array([judge.worth(partition.groups) for partition in pool])
    if objective.covariance(pool[0].groups[:1]) is None:  # no standard errors: the mean decides
        return [_largest(ends, objective.tolerance)]
    first = [pool[int(index)] for index in np.argsort(-worth, kind="stable")[:2]]
    climbed = [judge.climb(partition, limits) for partition in first]
    return [first[int(np.argmax(climbed))]]


def _largest(ends: list[Partition], tolerance: float) -> Partition:
    """The end that is worth most; fewer groups win among equals."""
    best = max(partition.worth for partition in ends) - tolerance
    return min((partition for partition in ends if partition.worth >= best), key=lambda one: len(one.groups))


def _starts(given: Sequence[Grouping | ArrayLike], order: IntArray, limits: Limits, seed: int) -> list[BoolArray]:
    """The partitions to start from, (K, T) each, tasks in the given order."""
    n, generator = len(order), np.random.default_rng(seed)
    found = [as_labels(one.labels if isinstance(one, Grouping) else one, n)[order] for one in given]
    if limits.least == 1 or not found or n <= SMALL:  # to split all tasks into a given number of groups is dear
        found.append(np.zeros(n, dtype=np.int64))
    if n <= PAIRS_UP_TO:
        found.append(np.arange(n, dtype=np.int64))
    count = min(max(USUAL, limits.least), limits.most, n)
    found += [random_labels(n, count, generator) for _ in range(RANDOM if 2 < n <= SMALL else 0)]
    different = {as_labels(labels, n).tobytes(): as_labels(labels, n) for labels in found}
    return [labels == np.arange(int(labels.max()) + 1)[:, None] for labels in different.values()]


def _order(model: Any) -> IntArray:
    """An order of the tasks that does not depend on how they came: by what all others gain without each."""
    n = len(model.tasks)
    totals = GainObjective(model, np.arange(n)).totals(~np.eye(n, dtype=bool))
    return np.argsort(totals, kind="stable").astype(np.int64)


def _check(n: int, k: int | None, max_groups: int | None, caution: float, seed: int) -> Limits:
    """Settings that are out of range or do not fit each other; the limits that they mean."""
    check_seed(seed)
    for name, value in (("k", k), ("max_groups", max_groups)):
        if value is not None:
            check_count(name, value, n)
    if k is not None and max_groups is not None and k > max_groups:
        raise SettingError(
            f"Parameter `k` should be at most `max_groups`. Found k={k}, max_groups={max_groups}. Give one of them."
        )
    if isinstance(caution, bool) or not isinstance(caution, int | float) or not 0 <= caution < float("inf"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(f"Parameter `caution` should be a finite number from 0. Found {caution!r}.")
    return Limits(k, k) if k is not None else Limits(1, max_groups or n)
