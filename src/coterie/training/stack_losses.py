"""Losses of many members at once: of a batch in training, of a part of the data at a check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from coterie.training.stack import Architecture, Values
from coterie.workload.workload import Workload


def masked_losses(
    architecture: Architecture, values: Values, rows: Tensor, *, padded: bool, subsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Losses (members, rows, tasks) with 0 where masked, and the mask (broadcastable to it).

    Args:
        architecture: runs the members.
        values: the members.
        rows: (rows,) for all members, or (members, rows).
        padded: whether `rows` has entries of -1, which stand for no row.
        subsets: (members, tasks) bool: other tasks are masked; None means all tasks.
    """
    workload = architecture.workload
    real = rows >= 0 if padded else None
    rows = rows.clamp(min=0) if padded else rows
    targets = _take(workload.targets, rows)
    mask = _take(workload.observed, rows)
    if real is not None:
        mask = mask & real[..., None]
    if subsets is not None:
        mask = mask & subsets[:, None, :]
    outputs = architecture.outputs(values, workload.batch(rows), shared=rows.dim() == 1)
    losses = workload.losses(workload.margins(outputs, targets), targets)
    return torch.where(mask, losses, torch.zeros((), dtype=losses.dtype, device=losses.device)), mask


def _take(values: Tensor, rows: Tensor) -> Tensor:
    return values.index_select(0, rows.reshape(-1)).view(*rows.shape, values.shape[1])


class PartLosses:
    """Mean loss of each task on a part of the data, for any of the members.

    All members share one list of rows unless each needs few of them (one data set a task, many missing labels).

    Args:
        workload: tasks and data.
        part: "validation" or "test".
        subsets: the members' subsets.
        cells: how many (member, row) pairs are evaluated at once.
    """

    def __init__(self, workload: Workload, part: str, subsets: Sequence[tuple[int, ...]], cells: int) -> None:
        self._subsets = subsets
        self._cells = cells
        union = sorted({task for subset in subsets for task in subset})
        self._rows = workload.rows_of(union, part)
        found = {subset: workload.rows_of(subset, part) for subset in set(subsets)}
        longest = max(len(rows) for rows in found.values())
        if longest < 0.6 * len(self._rows):
            own = [found[subset] for subset in subsets]
            self._rows = torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=-1)

    def __call__(self, architecture: Architecture, values: Values, members: np.ndarray) -> np.ndarray:
        """(members, tasks) mean losses; `values` holds the members of these numbers. NaN outside the subset."""
        chunk = max(1, self._cells // max(1, min(self._rows.shape[-1], 512)))
        if len(members) <= chunk:
            return self._chunk(architecture, values, members)
        parts: list[np.ndarray] = []
        for start in range(0, len(members), chunk):
            index = torch.arange(start, min(start + chunk, len(members)), device=self._rows.device)
            parts.append(self._chunk(architecture, values.select(index), members[start : start + chunk]))
        return np.concatenate(parts)

    def _chunk(self, architecture: Architecture, values: Values, members: np.ndarray) -> np.ndarray:
        n_tasks = architecture.workload.n_tasks
        total, count = np.zeros((len(members), n_tasks)), np.zeros((len(members), n_tasks))
        rows = self._rows if self._rows.dim() == 1 else self._rows[torch.from_numpy(members).to(self._rows.device)]
        architecture.train(False)
        with torch.no_grad():
            for block in rows.split(max(1, self._cells // len(members)), dim=-1):
                losses, mask = masked_losses(architecture, values, block, padded=rows.dim() == 2)
                total += losses.sum(1).cpu().double().numpy()
                count += mask.sum(-2).cpu().double().numpy()
        mean = np.full_like(total, np.nan)
        for position, member in enumerate(members):
            tasks = [task for task in self._subsets[member] if count[position, task]]
            mean[position, tasks] = total[position, tasks] / count[position, tasks]
        return mean
