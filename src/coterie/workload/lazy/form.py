"""Where inputs and labels are in an item of a data set, or in a batch of a loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from coterie._read import is_missing
from coterie.errors import WorkloadError
from coterie.workload.lazy.inputs import Inputs, named_parts

#: what the labels of an item are called by data sets that give mappings, the first one that is there
LABEL_NAMES = ("labels", "label", "targets", "target", "y")
_WAY = (
    "Items are pairs (inputs, labels), or mappings whose parts are named by `inputs=` and `labels=`; labels may also "
    "be given apart, as labels=<table of all rows>"
)


@dataclass(frozen=True)
class ItemForm:
    """How items are taken apart.

    Attributes:
        where: how messages call the data.
        inputs: names of the parts of a mapping that the model gets; one name gives a tensor, several a dict; None
            takes all that are no labels.
        labels: name of the part with the labels, or names of parts that are labels of one task each.
        tasks: names of the tasks, where they are known.
        labelled: whether items have labels at all.
    """

    where: str
    inputs: str | tuple[str, ...] | None
    labels: str | tuple[str, ...] | None
    tasks: tuple[str, ...]
    labelled: bool

    def split(self, item: Any) -> tuple[Any, Any]:
        """Inputs and labels of an item or a batch; None for labels that are given apart.

        Raises:
            WorkloadError: when one of them is not there.
        """
        if isinstance(item, Mapping):
            return self._from_names(cast("Mapping[str, Any]", item))
        if isinstance(item, tuple | list) and len(cast("Sequence[Any]", item)) == 2:
            inputs, labels = cast("Sequence[Any]", item)
            return self._picked(inputs), labels if self.labelled else None
        if not self.labelled:
            return item, None
        found = type(item).__name__
        if isinstance(item, tuple | list):
            found += f" of {len(cast('Sequence[Any]', item))} parts"
        raise WorkloadError(
            f"{self.where} should give inputs and labels. Found {found}. The likely cause is a data set or a collate "
            f"that drops the labels. {_WAY}."
        )

    def _picked(self, inputs: Any) -> Any:
        if self.inputs is None or not isinstance(inputs, Mapping):
            return inputs
        return self._from_names(cast("Mapping[str, Any]", inputs), labelled=False)[0]

    def _from_names(self, item: Mapping[str, Any], *, labelled: bool = True) -> tuple[Any, Any]:
        names, labels = self._labels(item) if self.labelled and labelled else ((), None)
        wanted = (self.inputs,) if isinstance(self.inputs, str) else self.inputs
        ignored = {*names, *(LABEL_NAMES if labels is None and not self.labelled else ())}
        wanted = tuple(name for name in item if name not in ignored) if wanted is None else wanted
        missing = [name for name in wanted if name not in item]
        if missing or not wanted:
            raise WorkloadError(
                f"{self.where}: items should have the inputs {missing or 'of a model'}. Found the parts "
                f"{list(item)[:8]}. Name those that the model gets: inputs=['input_ids', 'attention_mask']."
            )
        parts = {name: item[name] for name in wanted}
        single = isinstance(self.inputs, str) or (self.inputs is None and len(parts) == 1)
        return (next(iter(parts.values())) if single else parts), labels

    def _labels(self, item: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
        """Names of the parts that are labels, and the labels."""
        if isinstance(self.labels, tuple):
            return self.labels, {name: item[name] for name in self.labels if name in item}
        if self.labels is not None:
            if self.labels not in item:
                raise self._no_labels(item)
            return (self.labels,), item[self.labels]
        own = tuple(name for name in self.tasks if name in item)
        if own:
            return own, {name: item[name] for name in own}
        name = next((name for name in LABEL_NAMES if name in item), None)
        if name is None:
            raise self._no_labels(item)
        return (name,), item[name]

    def _no_labels(self, item: Mapping[str, Any]) -> WorkloadError:
        return WorkloadError(
            f"{self.where}: no labels in an item with the parts {list(item)[:8]}. Looked for "
            f"{self.labels or [*self.tasks[:5], *LABEL_NAMES]}. The likely cause is a collate or a column filter "
            f"that drops the labels. {_WAY}."
        )

    def stacked(self, values: Sequence[Any]) -> Inputs:
        """Inputs of several items as one batch.

        Raises:
            WorkloadError: when they are no numbers, or differ in size.
        """
        if isinstance(values[0], Mapping):
            named = cast("Sequence[Mapping[str, Any]]", values)
            return {name: self._stack([value[name] for value in named], name) for name in named[0]}
        return self._stack(values, "")

    def _stack(self, values: Sequence[Any], name: str) -> Tensor:
        tensors = [self._tensor(value, name) for value in values]
        sizes = {tuple(tensor.shape) for tensor in tensors}
        if len(sizes) > 1:
            raise WorkloadError(
                f"{self.where}: inputs {name!r} should have one size. Found {sorted(sizes)[:4]}. Crop or resize "
                "images, pad texts to one length, or give `collate=`, which makes a batch of items of different sizes."
            )
        return torch.stack(tensors)

    def _tensor(self, value: Any, name: str) -> Tensor:
        if not isinstance(value, Tensor):
            try:
                array = np.asarray(value)
            except ValueError:
                array = np.array(None, dtype=object)
            if array.dtype.kind not in "fiub":
                raise WorkloadError(
                    f"{self.where}: inputs {name!r} should be tensors or arrays of numbers. Found "
                    f"{type(value).__name__}{_way_out(value)}"
                )
            value = torch.from_numpy(np.array(array))
        return value.detach().float() if value.is_floating_point() else value.detach()

    def checked(self, inputs: Any, rows: int) -> Inputs:
        """Inputs that a collate made of so many items."""
        parts = cast("Mapping[str, Any]", inputs) if isinstance(inputs, Mapping) else {"": inputs}
        for name, part in parts.items():
            if not isinstance(part, Tensor) or part.dim() == 0 or len(part) != rows:
                found = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
                raise WorkloadError(
                    f"{self.where}: its collate should make a tensor with one row an item, {rows}, of the inputs "
                    f"{name!r}. Found {found}."
                )
        kept = {str(name): self._tensor(part, name) for name, part in parts.items()}
        return kept if isinstance(inputs, Mapping) else kept[""]

    def check_finite(self, inputs: Inputs, first: int) -> None:
        """Raise WorkloadError for inputs that are NaN or infinite; `first` is the number of their first row."""
        for name, part in named_parts(inputs).items():
            if part.is_floating_point() and not bool(part.isfinite().all()):
                row = first + int((~part.isfinite()).flatten(1).any(1).nonzero()[0])
                raise WorkloadError(
                    f"{self.where}: the inputs {name!r} of row {row} are NaN or infinite. Missing values are allowed "
                    "in labels only. Fill or drop them in the data set."
                )


def _way_out(value: Any) -> str:
    if isinstance(value, str | bytes):
        return ". Texts and names of files are read in the data set: tokenise them, or open and decode the file."
    if hasattr(value, "convert") and hasattr(value, "size"):
        return ". Turn images into tensors in the data set's transform: torch.from_numpy(numpy.array(image))."
    return ". Pick the parts that the model gets with `inputs=`."


class LabelReader:
    """Collects labels as (row, task, value) triples, so that what is missing takes no memory.

    Args:
        where: how messages call the data.
        names: of the tasks; None takes those of the data.
    """

    def __init__(self, where: str, names: Sequence[str] | None) -> None:
        self.where, self.fixed = where, names is not None
        self.names = list(names or [])
        self._place = {name: number for number, name in enumerate(self.names)}
        self._rows: list[np.ndarray] = []
        self._tasks: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(self, first: int, labels: Sequence[Any], own: str | None) -> None:
        """Labels of items from row `first` on; `own` names the only task of the data set."""
        if any(isinstance(value, Mapping) for value in labels):
            for offset, value in enumerate(labels):
                self._add_named(first + offset, value)
            return
        rows = [self._numbers(value) for value in labels]
        sizes = sorted({row.shape for row in rows})
        if len(sizes) > 1:
            raise WorkloadError(
                f"{self.where}: the labels of each row should have one shape. Found {sizes[:4]}. Labels of some tasks "
                "only are given as mappings of task names to labels, or NaN where missing."
            )
        self.add_table(first, np.stack(rows), own)

    def add_batch(self, first: int, labels: Any, rows: int, own: str | None) -> None:
        """Labels that a collate made of so many items."""
        if isinstance(labels, Mapping):
            named = cast("Mapping[str, Any]", labels)
            for name, column in named.items():
                self.add_table(first, self._numbers(column).reshape(rows, -1), str(name))
            return
        table = self._numbers(labels)
        if table.ndim == 0 or len(table) != rows:
            raise WorkloadError(
                f"{self.where}: its collate should make labels with one row an item, {rows}. Found shape {table.shape}."
            )
        self.add_table(first, table, own)

    def add_table(self, first: int, table: np.ndarray, own: str | None) -> None:
        """Labels (rows,) or (rows, tasks) as numbers, NaN where missing."""
        table = table[:, None] if table.ndim == 1 else table
        width = 1 if own is not None else len(self.names)
        if table.ndim != 2 or (width and table.shape[1] != width):
            raise WorkloadError(
                f"{self.where}: the labels of a row should be {width or 'one'} number{'s' if width > 1 else ''}, one a "
                f"task{'' if own is None else f' ({own!r} alone)'}. Found shape {table.shape[1:]}. The likely cause is "
                "one-hot labels, another number of tasks, or data sets of one task each that are not given as a "
                "mapping of task names to data sets."
            )
        places = [self._task(own)] if own is not None else self._columns(table.shape[1])
        row, column = np.nonzero(~np.isnan(table))
        self._keep(row + first, np.asarray(places)[column], table[row, column])

    def triples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(labels,) row numbers, task numbers and values, as they were read."""
        none = np.zeros(0)
        rows, tasks = np.concatenate([none, *self._rows]), np.concatenate([none, *self._tasks])
        return rows.astype(np.int64), tasks.astype(np.int32), np.concatenate([none, *self._values])

    def _keep(self, rows: np.ndarray, tasks: np.ndarray, values: np.ndarray) -> None:
        self._rows.append(rows.astype(np.int64))
        self._tasks.append(tasks.astype(np.int32))
        self._values.append(values.astype(np.float64))

    def _columns(self, width: int) -> list[int]:
        if not self.names:
            for number in range(width):
                self._task(f"task {number}", add=True)
        return list(range(width))

    def _task(self, name: str, *, add: bool = False) -> int:
        if name not in self._place:
            if self.fixed and not add:
                raise WorkloadError(
                    f"{self.where}: a label belongs to the task {name!r}, which is not among `tasks`: "
                    f"{self.names[:5]}. Add it there, or take the label out of the items."
                )
            self._place[name] = len(self.names)
            self.names.append(name)
        return self._place[name]

    def _add_named(self, row: int, labels: Any) -> None:
        if is_missing(labels):
            return
        if not isinstance(labels, Mapping):
            raise WorkloadError(
                f"{self.where}: the labels of row {row} are a {type(labels).__name__}, those of other rows mappings of "
                "task names to labels. Give all in one form."
            )
        for name, value in cast("Mapping[str, Any]", labels).items():
            number = self._numbers(value)
            if number.size != 1:
                raise WorkloadError(
                    f"{self.where}: the label of task {str(name)!r} in row {row} should be one number. Found shape "
                    f"{number.shape}. The likely cause is a one-hot label: give the number of the class."
                )
            if not np.isnan(number).any():
                self._keep(np.array([row]), np.array([self._task(str(name))]), number.reshape(1))
            else:
                self._task(str(name))

    def _numbers(self, value: Any) -> np.ndarray:
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if value is None:
            value = np.nan
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "fiubO":
                raise TypeError(str(array.dtype))
            return array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise WorkloadError(
                f"{self.where}: labels should be numbers, NaN or None where missing. Found {str(value)[:60]!r}. "
                "Classes are numbered from 0."
            ) from error
