"""Labels of which most are missing: only those that are known are kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._read import read_array
from coterie._surface import known_arguments
from coterie.errors import WorkloadError


@known_arguments
class SparseLabels:
    """Known labels as (row, task, value); all others are missing. Give it as `y` to :func:`coterie.from_arrays`.

    Inside it stands for a (rows, tasks) tensor: rows that are asked for come as a dense tensor with NaN.

    Args:
        starts: (rows + 1,) where the labels of each row begin.
        columns: (labels,) int32 task numbers, ascending within a row.
        values: (labels,) what they are, in float64 as they are given and in float32 inside of a workload.
        n_tasks: number of tasks.
        names: of the tasks, where they came with names.
    """

    def __init__(
        self, starts: Tensor, columns: Tensor, values: Tensor, n_tasks: int, names: tuple[str, ...] | None = None
    ) -> None:
        self.starts, self.columns, self.values, self.n_tasks, self.names = starts, columns, values, n_tasks, names

    @staticmethod
    @known_arguments
    def of(rows: Any, tasks: Any, values: Any, shape: tuple[int, int] | None = None) -> SparseLabels:
        """Labels from three equally long lists.

        Args:
            rows: (labels,) row numbers of the inputs.
            tasks: (labels,) numbers, or names, of the tasks. Names are numbered in the order of the alphabet.
            values: (labels,) the labels. NaN is left out.
            shape: (rows, tasks); None takes what the largest numbers say.

        Raises:
            WorkloadError: when they differ in length, are out of range, or a label occurs twice.

        Cost: sorting; about 40 bytes a label while it lasts, 16 afterwards.

        Example:
            >>> labels = SparseLabels.of([0, 2, 2], ["rain", "frost", "rain"], [1, 0, 0], shape=(3, 2))
            >>> labels.names, labels[torch.arange(3)]
            (('frost', 'rain'), tensor([[nan, 1.],
                    [nan, nan],
                    [0., 0.]], dtype=torch.float64))
        """
        row, names = _numbers(rows, "rows"), None
        task, value = tasks, read_array(values, "values").astype(np.float64, copy=False)
        if np.asarray(tasks).dtype.kind in "OUST":
            found, task = np.unique(np.asarray(tasks).astype(str), return_inverse=True)
            names = tuple(found.tolist())
        task = _numbers(task, "tasks")
        if not row.shape == task.shape == value.shape or row.ndim != 1:
            raise WorkloadError(
                "Parameters `rows`, `tasks` and `values` of sparse labels should be one-dimensional and equally long. "
                f"Found shapes {row.shape}, {task.shape} and {value.shape}."
            )
        known = ~np.isnan(value)
        if not known.all():
            row, task, value = row[known], task[known], value[known]
        size = shape or (int(row.max(initial=-1)) + 1, max(int(task.max(initial=-1)) + 1, len(names or ())))
        _check_range(row, size[0], "rows")
        _check_range(task, size[1], "tasks")
        return SparseLabels._sorted(row, task, value, size, names)

    @staticmethod
    def _sorted(
        row: NDArray[Any], task: NDArray[Any], value: NDArray[Any], size: tuple[int, int], names: tuple[str, ...] | None
    ) -> SparseLabels:
        key = row.astype(np.int64) * size[1] + task
        if len(key) > 1 and not bool((key[1:] > key[:-1]).all()):
            order = np.argsort(key, kind="stable")
            key, task, value = key[order], task[order], value[order]
        twice = np.flatnonzero(key[1:] == key[:-1])
        if len(twice):
            at = divmod(int(key[twice[0]]), size[1])
            raise WorkloadError(
                f"Sparse labels: {len(twice)} labels occur more than once; the first is that of row {at[0]} and task "
                f"{at[1]}. Keep one of them, or their mean."
            )
        starts = np.searchsorted(key, np.arange(size[0] + 1, dtype=np.int64) * size[1])
        columns = torch.from_numpy(task.astype(np.int32))
        return SparseLabels(torch.from_numpy(starts), columns, torch.from_numpy(value.copy()), size[1], names)

    @property
    def shape(self) -> torch.Size:
        """(rows, tasks)."""
        return torch.Size((len(self.starts) - 1, self.n_tasks))

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.values.device

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """Labels that there would be without missing ones."""
        return self.shape[0] * self.n_tasks

    def to(self, device: Any) -> SparseLabels:
        """The same on another device."""
        starts, columns, values = (part.to(device) for part in (self.starts, self.columns, self.values))
        return SparseLabels(starts, columns, values, self.n_tasks, self.names)

    def in_units(self, center: NDArray[np.float64], scale: NDArray[np.float64]) -> SparseLabels:
        """``(value - center) / scale`` of each task, in float32."""
        task = self.columns.long().numpy()
        values = torch.from_numpy(((self.values.numpy() - center[task]) / scale[task]).astype(np.float32))
        return SparseLabels(self.starts, self.columns, values, self.n_tasks, self.names)

    def picked(self, order: Sequence[int]) -> SparseLabels:
        """Labels of the tasks of these numbers, in this order."""
        place = torch.full((self.n_tasks,), -1, dtype=torch.int64)
        place[list(order)] = torch.arange(len(order))
        task, row = place[self.columns.long()], self.row_of
        keep = task >= 0
        size = (self.shape[0], len(order))
        return SparseLabels._sorted(row[keep].numpy(), task[keep].numpy(), self.values[keep].numpy(), size, None)

    @property
    def row_of(self) -> Tensor:
        """(labels,) row number of each label."""
        return torch.repeat_interleave(torch.arange(self.shape[0], device=self.device), self.starts.diff())

    @cached_property
    def _by_task(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where each task begins, and row numbers and values of the labels sorted by task."""
        order = torch.argsort(self.columns, stable=True)
        starts = torch.zeros(self.n_tasks + 1, dtype=torch.int64, device=self.device)
        starts[1:] = torch.bincount(self.columns, minlength=self.n_tasks).cumsum(0)
        return starts, self.row_of.int()[order], self.values[order]

    def known(self, task: int) -> tuple[Tensor, Tensor]:
        """Row numbers and labels of a task, rows ascending."""
        starts, rows, values = self._by_task
        own = slice(int(starts[task]), int(starts[task + 1]))
        return rows[own].long(), values[own]

    def known_among(self, task: int, place: Tensor) -> Tensor:
        """Labels of a task in some rows; `place` (rows,) says at which place a row is wanted, -1 for not at all."""
        rows, values = self.known(task)
        at = place[rows]
        return values[at >= 0][torch.argsort(at[at >= 0])]

    def rows_with(self, subset: Sequence[int], rows: Tensor) -> Tensor:
        """Those of the rows that have a label of a task of the subset."""
        if len(subset) == self.n_tasks:
            return rows[self.starts.diff()[rows] > 0]
        there = torch.zeros(self.shape[0], dtype=torch.bool, device=self.device)
        for task in subset:
            there[self.known(task)[0]] = True
        return rows[there[rows]]

    def tasks_with(self, rows: Tensor) -> Tensor:
        """(tasks,) bool: which have a label in the rows."""
        chosen = torch.zeros(self.shape[0], dtype=torch.bool, device=self.device)
        chosen[rows] = True
        found = torch.zeros(self.n_tasks, dtype=torch.bool, device=self.device)
        found[self.columns[chosen[self.row_of]].long()] = True
        return found

    def pairs(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the labels of some rows: their place among the rows, their task and their value, row by row."""
        length = self.starts[rows + 1] - self.starts[rows]
        place = torch.repeat_interleave(torch.arange(len(rows), device=self.device), length)
        ends = length.cumsum(0)
        at = torch.arange(int(ends[-1]) if len(rows) else 0, device=self.device)
        at += torch.repeat_interleave(self.starts[rows] - ends + length, length)
        return place, self.columns[at].long(), self.values[at]

    def alike(self, rows: Tensor) -> list[int]:
        """Places of the rows, sorted by the last task's label, then the last but one's; missing ones come first."""
        keys: list[list[tuple[int, float]]] = [[] for _ in range(len(rows))]
        for place, task, value in zip(*(part.tolist() for part in self.pairs(rows)), strict=True):
            keys[place].insert(0, (task, value))
        return sorted(range(len(keys)), key=keys.__getitem__)

    def dense(self, rows: Tensor, missing: float, *, mask: bool = False) -> Tensor:
        """(..., tasks) labels of row numbers of any shape; with `mask` whether they are known."""
        place, task, values = self.pairs(rows.reshape(-1))
        kind = torch.bool if mask else self.values.dtype
        made = torch.full((rows.numel(), self.n_tasks), False if mask else missing, dtype=kind, device=self.device)
        made.view(-1)[place * self.n_tasks + task] = torch.ones_like(task, dtype=torch.bool) if mask else values
        return made.view(*rows.shape, self.n_tasks)

    def __getitem__(self, key: Any) -> Tensor:
        return SparseView(self, float("nan"))[key]


class SparseView:
    """Labels of a workload, or where they are known, as if they were a (rows, tasks) tensor.

    Args:
        labels: the known ones.
        missing: what stands for the others.
        mask: whether it says where labels are known.
    """

    def __init__(self, labels: SparseLabels, missing: float, *, mask: bool = False) -> None:
        self.labels, self.missing, self.mask = labels, missing, mask

    @property
    def shape(self) -> torch.Size:
        """(rows, tasks)."""
        return self.labels.shape

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.labels.device

    def __getitem__(self, key: Any) -> Tensor:
        rows, task = key if isinstance(key, tuple) else (key, None)
        if isinstance(rows, slice):
            rows = torch.arange(self.shape[0], device=self.device)[rows]
        if task is None:
            return self.labels.dense(torch.as_tensor(rows), self.missing, mask=self.mask)
        if isinstance(task, int):
            own, values = self.labels.known(task)
            column = torch.full((self.shape[0],), self.missing, dtype=values.dtype, device=self.device)
            column = column.bool() & False if self.mask else column
            column[own] = torch.ones_like(values, dtype=torch.bool) if self.mask else values
            return column[rows]
        dense = self.labels.dense(rows, self.missing, mask=self.mask)
        return dense[:, task] if isinstance(task, slice) else dense[torch.arange(len(rows), device=self.device), task]

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """As of a tensor, along its rows."""
        if dim != 0:
            raise NotImplementedError("Labels are looked up row by row.")
        return self[rows]

    def sum(self) -> Tensor:
        """How many labels are known."""
        return torch.tensor(len(self.labels.columns))


class SparseParts:
    """Sparse labels by the parts of a split.

    Args:
        labels: of all rows.
        split: has ``part(name)``, the rows of a part.
    """

    def __init__(self, labels: SparseLabels, split: Any) -> None:
        self.labels, self.split = labels, split
        self._places: dict[str, Tensor] = {}

    def among(self, part: str, task: int) -> Tensor:
        """Labels of a task in the rows of a part, in their order."""
        if part not in self._places:
            self._places[part] = places(self.split.part(part), len(self.labels))
        return self.labels.known_among(task, self._places[part])


def places(rows: Tensor, count: int) -> Tensor:
    """(count,) at which place of `rows` each row stands; -1 where it does not."""
    found = torch.full((count,), -1, dtype=torch.int64, device=rows.device)
    found[rows] = torch.arange(len(rows), device=rows.device)
    return found


def _numbers(values: Any, name: str) -> NDArray[Any]:
    found = read_array(values, name)
    if found.dtype.kind not in "iu":
        raise WorkloadError(f"Parameter `{name}` of sparse labels should hold whole numbers. Found {found.dtype}.")
    return found


def _check_range(found: NDArray[Any], count: int, name: str) -> None:
    if len(found) and (int(found.min()) < 0 or int(found.max()) >= count):
        raise WorkloadError(
            f"Parameter `{name}` of sparse labels should be numbers from 0 to {count - 1}. Found {int(found.min())} to "
            f"{int(found.max())}. The likely cause is numbers that count from 1, or rows of a larger table."
        )
