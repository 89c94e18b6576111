"""From an estimate to the few groupings that are worth a real training."""

from __future__ import annotations

import numpy as np

from coterie._progress import Progress
from coterie.affinity import Affinity, Estimate
from coterie.grouping import Grouping, group
from coterie.grouping.cover import select_groups
from coterie.grouping.search.groups import search_groups

#: numbers of groups that are tried beside the one that the estimate prefers
USUAL = (2, 3, 5)
#: with a budget, overlapping groups are a candidate, too, up to so many tasks; beyond, their search takes minutes
OVERLAP_UP_TO = 50
#: mean number of random subsets behind each pair of a higher-order affinity
COVERAGE = 20
MOST_SUBSETS = 5000
LEAST = 3


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


def candidate_groupings(
    estimate: Estimate,
    affinity: Affinity,
    groups: int | None,
    budget: int | None,
    seed: int,
    progress: Progress,
) -> tuple[Grouping, dict[str, Grouping]]:
    """Groupings with the largest predicted total gain, searched from the SDP's on the affinity and from plain starts.

    With a budget of models, the best selection of groups that may share tasks is a candidate, too.

    Returns:
        The grouping that the estimate prefers (the given number of groups, or the best of several), and the candidates
        by name. All tasks in one group and every task alone are not among them: the comparison adds those itself.
    """
    n = len(affinity.tasks)
    counts = group_counts(n, groups, budget)
    found: list[Grouping] = []
    for done, k in enumerate(counts):
        progress("grouping", done, len(counts))
        found.append(search_groups(estimate.model, k, starts=[group(affinity, k, seed=seed)], seed=seed))
    progress("grouping", len(counts), len(counts))
    if not found:
        found = [search_groups(estimate.model, 1, seed=seed)]
    best = max(found, key=lambda grouping: grouping.objective or 0.0)
    real = [grouping for grouping in found if 1 < len(grouping.groups) < n]
    named = {f"grouped ({len(grouping.groups)})": grouping for grouping in real}
    if budget is not None and has_overlapping(n, groups, budget):
        shared = select_groups(estimate.model, budget, seed=seed, progress=progress)
        if shared.overlaps:
            named[f"overlapping ({len(shared.groups)})"] = shared
    return best, named
