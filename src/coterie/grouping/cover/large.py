"""Good groups for many tasks: local search from several starts, then iterated."""

from __future__ import annotations

import time

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.cover.local import LocalSearch
from coterie.grouping.cover.problem import CoverProblem
from coterie.grouping.cover.state import Cover
from coterie.grouping.density import membership
from coterie.grouping.improve import random_labels
from coterie.grouping.matrix import BoolArray, IntArray, symmetrise

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
