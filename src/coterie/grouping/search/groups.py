"""Groupings that are best by the estimate itself: search over partitions for the largest predicted gain."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie._progress import Progress, silent
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.grouping.grouping import Grouping
from coterie.grouping.matrix import BoolArray, GainModelLike, IntArray, check_count, check_seed
from coterie.grouping.objective import GainObjective, as_labels, random_labels
from coterie.grouping.search.confidence import Cautious, confidence
from coterie.grouping.search.moves import Limits, Partition, never
from coterie.grouping.search.reshape import Reshaper, ascend
from coterie.grouping.search.steps import Steps, climb_by_steps

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
        :func:`coterie.grouping.search.confidence.confidence`.

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
