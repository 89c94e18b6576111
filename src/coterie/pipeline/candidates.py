"""From an estimate to the few groupings that are worth a real training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from coterie._context import DEFAULT_CONTEXT, Context
from coterie._progress import Progress
from coterie._units import Payload, UnitStore
from coterie.affinity import Affinity, Estimate
from coterie.affinity.costs import timed
from coterie.grouping import Grouping, group
from coterie.grouping.cover.select import select_groups
from coterie.grouping.search.groups import search_groups

#: numbers of groups that are tried beside the one that the estimate prefers
USUAL = (2, 3, 5)
#: with a budget, overlapping groups are a candidate, too, up to so many tasks; beyond, their search takes minutes
OVERLAP_UP_TO = 50
#: mean number of random subsets behind each pair of a higher-order affinity
COVERAGE = 20
MOST_SUBSETS = 5000
LEAST = 3
#: stages of the costs
AFFINITY, SEARCH = "affinity matrix", "search for groups"


def typical_size(n_tasks: int, groups: int | None = None) -> int:
    """Size of the random subsets of a higher-order affinity: that of a typical group, but 10 tasks (5 %) at most."""
    return int(np.clip(round(n_tasks / (groups or 3)), 2, min(max(10, n_tasks // 20), n_tasks)))


def subset_count(n_tasks: int, size: int) -> int:
    """Random subsets such that each pair is in about 20 of them, or in 3 where that would be very many."""
    once = n_tasks * (n_tasks - 1) / (size * (size - 1))
    return int(max(min(MOST_SUBSETS, np.ceil(COVERAGE * once)), np.ceil(LEAST * once)))


def group_counts(n_tasks: int, groups: int | None, budget: int | None) -> list[int]:
    """Numbers of groups that are tried: the usual ones within the budget, and the budget itself."""
    most = min(n_tasks - 1, budget or n_tasks - 1)
    tried = {*USUAL, round(n_tasks / 3), budget or 0}
    return [groups] if groups is not None else sorted(k for k in tried if 2 <= k <= most)


def has_overlapping(n_tasks: int, groups: int | None, budget: int | None) -> bool:
    """Whether groups that share tasks are a candidate."""
    return groups is None and budget is not None and 2 <= budget < n_tasks <= OVERLAP_UP_TO


def estimated_affinity(estimate: Estimate, order: str, subsets: int | None, size: int, seed: int) -> Affinity:
    """The affinity matrix of an estimate; also sets what training its subsets would have cost."""
    n = len(estimate.model.tasks)
    if order == "pairwise":
        _refer(estimate, n * (n - 1) / 2)
        return estimate.model.pairwise()
    count = subsets or subset_count(n, size)
    _refer(estimate, count)
    return estimate.model.higher_order(count, size, seed=seed)


def _refer(estimate: Estimate, count: float) -> None:
    estimate.costs.subsets = count
    estimate.costs.refer(estimate.run_flops)


def kept_affinity(estimate: Estimate, size: int, seed: int, store: UnitStore) -> Affinity:
    """The higher-order affinity of an estimate as a unit of a run, see :func:`estimated_affinity`."""
    tasks = estimate.model.tasks
    count = subset_count(len(tasks), size)

    def compute() -> Payload:
        found = estimated_affinity(estimate, "higher", count, size, seed)
        arrays: dict[str, Any] = {"values": found.values} | ({} if found.counts is None else {"counts": found.counts})
        return Payload(arrays, {"kind": found.kind, "method": found.method})

    key = {"size": size, "subsets": count, "seed": seed}
    estimate.model.forget()
    kept = timed(store, estimate.costs, AFFINITY, "affinity", key, compute)
    _refer(estimate, count)
    arrays = {name: np.asarray(array) for name, array in kept.arrays.items()}
    return Affinity(arrays["values"], tasks, arrays.get("counts"), kept.meta["kind"], kept.meta["method"])


def short_formula(estimate: Estimate, size: int, seed: int) -> dict[str, Any]:
    """The short formula of an estimate as `formula`, JSON-ready; nothing where tasks are too many to describe.

    It is not kept, so that units of runs of earlier versions stay as they are.
    """
    from coterie.affinity.formula import MOST_TASKS, fit_formula

    model = estimate.model
    if not 3 <= len(model.tasks) <= MOST_TASKS:
        return {}
    model.forget()
    found = dict(vars(fit_formula(model, size, seed)))
    model.forget()  # what was asked for the formula changes no later prediction
    tasks = list(found.pop("tasks"))
    rounded = {name: np.round(np.asarray(value, dtype=np.float64), 6) for name, value in found.items()}
    # None in place of what is not known, as JSON has it
    plain = {name: np.where(np.isfinite(array), array, np.array(None)).tolist() for name, array in rounded.items()}
    return {"formula": {"tasks": tasks, **plain}}


def candidate_groupings(
    estimate: Estimate,
    affinity: Affinity,
    groups: int | None,
    budget: int | None,
    context: Context = DEFAULT_CONTEXT,
    time_limit: float | None = None,
) -> tuple[Grouping, dict[str, Grouping]]:
    """Groupings with the largest predicted total gain, searched from the SDP's on the affinity and from plain starts.

    With a budget of models, the best selection of groups that may share tasks is a candidate, too.

    Args:
        estimate: predicts gains, and keeps the books.
        affinity: of its tasks.
        groups: number of groups; None tries several.
        budget: largest number of models.
        context: seed of the search, progress, and the store, where every grouping is kept as soon as it is found.
        time_limit: seconds for all searches together, each of which has an equal share; what was found by then counts.

    Returns:
        The grouping that the estimate prefers (the given number of groups, or the best of several), and the candidates
        by name. All tasks in one group and every task alone are not among them: the comparison adds those itself.
    """
    n, model, seed = len(affinity.tasks), estimate.model, context.seed
    counts = group_counts(n, groups, budget)
    shared = budget if budget is not None and has_overlapping(n, groups, budget) else None
    limit = None if time_limit is None else time_limit / max(1, len(counts) + (shared is not None))
    key = {"seed": seed, "time_limit": time_limit, "affinity": sha256(affinity.values.tobytes()).hexdigest()}
    found: list[Grouping] = []
    for number, k in enumerate(reversed(counts or [1])):  # groups that were found are also merged into fewer
        tell = _part(context.progress, number, len(counts or [1]))

        def find(k: int = k, tell: Progress = tell) -> Grouping:
            starts = [group(affinity, k, seed=seed), *found[:1]] if counts else []
            return search_groups(model, k, starts=starts, seed=seed, time_limit=limit, progress=tell)

        # a larger budget adds searches of more groups, and so other starts
        begun = {**key, "groups": k, "after": [list(members) for one in found[:1] for members in one.groups]}
        found.insert(0, _kept(estimate, context.store, begun, find))
        tell(SEARCH, 1, 1)
    best = max(found, key=lambda grouping: grouping.objective or 0.0)
    real = [grouping for grouping in found if 1 < len(grouping.groups) < n]
    named = {f"grouped ({len(grouping.groups)})": grouping for grouping in real}
    if shared is not None:

        def select() -> Grouping:
            return select_groups(model, shared, time_limit=limit, context=context)

        overlapping = _kept(estimate, context.store, {**key, "budget": shared}, select)
        if overlapping.overlaps:
            named[f"overlapping ({len(overlapping.groups)})"] = overlapping
    return best, named


def _kept(estimate: Estimate, store: UnitStore, key: Mapping[str, Any], find: Callable[[], Grouping]) -> Grouping:
    """A grouping as a unit of a run."""
    # whether an earlier step was computed or read back must not show in this one, not even in a last digit
    estimate.model.forget()
    kept = timed(store, estimate.costs, SEARCH, "groups", key, lambda: Payload(meta={"grouping": find().to_dict()}))
    return Grouping.from_dict(kept.meta["grouping"])


def _part(progress: Progress, number: int, parts: int) -> Progress:
    """The progress of one of several searches as that of all of them, in percent of one."""

    def tell(_: str, done: int, total: int) -> None:
        progress(SEARCH, 100 * number + 100 * done // max(1, total), 100 * parts)

    return tell
