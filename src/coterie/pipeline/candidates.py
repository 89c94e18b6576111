"""From an estimate to the few groupings that are worth a real training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._progress import Progress
from coterie.affinity import Affinity, Estimate, GainModel
from coterie.grouping import Grouping, group

#: numbers of groups that are tried beside the one that the estimate prefers
USUAL = (2, 3, 5)
#: mean number of random subsets behind each pair of a higher-order affinity
COVERAGE = 20
MOST_SUBSETS = 5000
LEAST = 3


@dataclass(frozen=True, eq=False)
class _ByAffinity:
    """A gain model whose clustering matrix is a given affinity instead of plain pairs."""

    model: GainModel
    affinity: Affinity

    @property
    def tasks(self) -> Sequence[str]:
        return self.model.tasks

    def predict(self, subsets: Any, /) -> NDArray[np.float64]:
        return self.model.predict(subsets)

    def pairwise(self) -> Affinity:
        return self.affinity


def typical_size(n_tasks: int, groups: int | None = None) -> int:
    """Size of the random subsets of a higher-order affinity: that of a typical group, but 10 tasks (5 %) at most."""
    return int(np.clip(round(n_tasks / (groups or 3)), 2, min(max(10, n_tasks // 20), n_tasks)))


def subset_count(n_tasks: int, size: int) -> int:
    """Random subsets such that each pair is in about 20 of them, or in 3 where that would be very many."""
    once = n_tasks * (n_tasks - 1) / (size * (size - 1))
    return int(max(min(MOST_SUBSETS, np.ceil(COVERAGE * once)), np.ceil(LEAST * once)))


def group_counts(n_tasks: int, groups: int | None, budget: int | None) -> list[int]:
    """Numbers of groups that are tried."""
    most = min(n_tasks - 1, budget or n_tasks - 1)
    return [groups] if groups is not None else sorted({k for k in (*USUAL, round(n_tasks / 3)) if 2 <= k <= most})


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
    """Groupings by SDP on the affinity, improved on the predicted total gain.

    Returns:
        The grouping that the estimate prefers (the given number of groups, or the best of several), and the candidates
        by name. All tasks in one group and every task alone are not among them: the comparison adds those itself.
    """
    n = len(affinity.tasks)
    counts = group_counts(n, groups, budget)
    source = _ByAffinity(estimate.model, affinity)
    found: list[Grouping] = []
    for done, k in enumerate(counts):
        progress("grouping", done, len(counts))
        found.append(group(source, k, seed=seed))
    progress("grouping", len(counts), len(counts))
    if not found:
        found = [group(source, 1, seed=seed)]
    best = max(found, key=lambda grouping: grouping.objective or 0.0)
    real = [grouping for grouping in found if 1 < len(grouping.groups) < n]
    return best, {f"grouped ({len(grouping.groups)})": grouping for grouping in real}
