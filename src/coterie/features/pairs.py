"""The (example, task) pairs of a part of the data that have a label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.errors import WorkloadError
from coterie.workload.workload import Workload


@dataclass(frozen=True, eq=False)
class Pairs:
    """Labelled (example, task) pairs, sorted by task, then by row.

    Attributes:
        rows: (R,) row numbers of the workload with at least one label in the part.
        local: (N,) position in `rows` of each pair.
        task: (N,) task of each pair.
        starts: (T + 1,) where each task's pairs start.
        position: (R, T) number of the pair, -1 where there is no label.
    """

    rows: Tensor
    local: Tensor
    task: Tensor
    starts: Tensor
    position: Tensor

    @property
    def count(self) -> int:
        """Number of pairs N."""
        return self.local.shape[0]

    @property
    def dense(self) -> bool:
        """Whether every task has a label on every row."""
        return self.count == self.position.numel()


def labelled_pairs(workload: Workload, part: str, rows: Tensor | None = None) -> Pairs:
    """The pairs of a part, or of given rows.

    Raises:
        WorkloadError: when no row has a label.
    """
    chosen = workload.split.part(part) if rows is None else rows
    chosen = chosen.to(workload.labels.device)
    chosen = chosen[workload.observed[chosen].any(1)]
    if not len(chosen):
        raise WorkloadError(f"The {part} part has no row with a label, so there is nothing to take gradients of.")
    seen = workload.observed[chosen]
    task, local = seen.T.nonzero(as_tuple=True)
    starts = torch.zeros(workload.n_tasks + 1, dtype=torch.int64, device=seen.device)
    starts[1:] = seen.sum(0).cumsum(0)
    position = torch.full(seen.shape, -1, dtype=torch.int64, device=seen.device)
    position[local, task] = torch.arange(len(local), device=seen.device)
    return Pairs(chosen, local, task, starts, position)
