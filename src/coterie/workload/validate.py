"""Everything that can be known to be wrong before any training."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from coterie._surface import warn
from coterie.errors import DataWarning, WorkloadError
from coterie.workload.arrays import check_finite
from coterie.workload.checks import check_groups
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.sparse import SparseLabels, SparseParts
from coterie.workload.split import PARTS, check_split
from coterie.workload.task import Task
from coterie.workload.validate_model import check_model
from coterie.workload.workload import Workload

#: a class with fewer training rows than this is called rare
RARE = 10


def check_data(workload: Workload) -> None:
    """Raise WorkloadError when tasks, inputs, labels or split cannot be used; warn (DataWarning) of what is unusual.

    Cost: a few passes over the labels and one over the inputs.
    """
    check_tasks(workload.tasks, workload.known_groups)
    labels, rows = _check_shapes(workload)
    if not isinstance(workload.inputs, LazyInputs):  # looked at when they were read
        check_finite(workload.inputs)
    check_split(workload.split, rows)
    _check_infinite(workload, labels)
    _check_observed(workload, labels)
    parts = SparseParts(labels, workload.split) if isinstance(labels, SparseLabels) else None
    for index, task in enumerate(workload.tasks):
        if parts is not None:
            column, train = parts.labels.known(index)[1], parts.among("train", index)
        else:
            column, train = labels[:, index], _train(labels[:, index], workload)
            column = column[~torch.isnan(column)]
        if task.loss.per_class:
            _check_classes(task, column, train)
        elif task.loss.discrete:
            _check_binary(task, column, train)
        elif task.loss.labels_vary:
            _check_constant(task, train)
        else:
            _check_ones(task, column)
    _warn_rare(workload, parts)
    _warn_constant_inputs(workload)


def check_tasks(tasks: tuple[Task, ...], known_groups: tuple[tuple[str, ...], ...] | None) -> None:
    """Raise WorkloadError for fewer than two tasks, bad names, and groups that overlap or have unknown names."""
    if len(tasks) < 2:
        raise WorkloadError(
            f"Parameter `tasks`: grouping needs at least 2 tasks. Found {len(tasks)}. A column of class numbers can "
            "be made several tasks, one a class, by comparing it with each class."
        )
    repeated = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if repeated:
        raise WorkloadError(
            f"Parameter `tasks`: task names should be unique. Found more than once: {repeated[:5]}. Rename them, for "
            "example by adding the source to the name."
        )
    for task in tasks:
        if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in task.name):
            raise WorkloadError(
                f"Parameter `tasks`: the name {task.name!r} has a control character (a line break, a tab, ...), which "
                "breaks tables and files. Remove it, for example with ' '.join(name.split())."
            )
    check_groups(known_groups, tuple(task.name for task in tasks))


def _check_shapes(workload: Workload) -> tuple[Any, int]:
    labels: Any = workload.labels
    dense = isinstance(labels, Tensor) and labels.dim() == 2 and labels.is_floating_point()
    if not dense and not isinstance(labels, SparseLabels):
        found = (
            f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        )
        raise WorkloadError(
            f"Parameter `labels` should be a (rows, tasks) float tensor, NaN where missing. Found {found}."
        )
    rows, width = labels.shape
    if width != workload.n_tasks:
        raise WorkloadError(
            f"Parameter `labels` should have one column for each of {workload.n_tasks} tasks. Found {width}."
        )
    if rows == 0:
        raise WorkloadError("Parameter `labels` has no rows. The likely cause is a filter that dropped everything.")
    inputs = workload.inputs
    if isinstance(inputs, LazyInputs):
        if len(inputs) != rows:
            raise WorkloadError(f"Parameter `inputs` should have {rows} rows, as the labels have. Found {len(inputs)}.")
        return labels, rows
    parts = inputs if isinstance(inputs, dict) else {"inputs": inputs}
    for name, part in parts.items():
        if part.dim() == 0 or part.shape[0] != rows:
            raise WorkloadError(
                f"Parameter `inputs`: {name!r} should have {rows} rows, as the labels have. Found shape "
                f"{tuple(part.shape)}."
            )
    return labels, rows


def _check_infinite(workload: Workload, labels: Any) -> None:
    sparse = isinstance(labels, SparseLabels)
    infinite = torch.isinf(labels.values if sparse else labels)
    if bool(infinite.any()):
        first = infinite.nonzero()[0].tolist()
        row, index = (int(labels.row_of[first[0]]), int(labels.columns[first[0]])) if sparse else first
        raise WorkloadError(
            f"Parameter `y`: {int(infinite.sum())} labels are infinite (or too large for float32); the first is in "
            f"row {row} of task {workload.task_names[index]!r}. Missing labels are marked with NaN. The likely cause "
            "is a division by zero or a logarithm of zero."
        )


def _check_observed(workload: Workload, labels: Any) -> None:
    sparse = isinstance(labels, SparseLabels)
    observed = workload.observed if sparse else ~torch.isnan(labels)
    everywhere = labels.tasks_with(torch.arange(len(labels))) if sparse else observed.any(0)
    for part in PARTS:
        rows = workload.split.part(part)
        known = labels.tasks_with(rows) if sparse else observed[rows].any(0)
        if bool(known.all()):
            continue
        empty = [name for name, there in zip(workload.task_names, known.tolist(), strict=True) if not there]
        first = workload.task_names.index(empty[0])
        count = int(observed[:, first].sum())
        cause = (
            f"Task {empty[0]!r} has no label at all: drop it."
            if not bool(everywhere[first])
            else f"Task {empty[0]!r} has {count} labels, all in other parts: take another `seed`, give `split` as a "
            "mapping of row numbers that spreads its labels over the parts, or drop the task."
        )
        raise WorkloadError(
            f"Parameter `y`: {len(empty)} tasks have no label in the {part} part "
            f"({', '.join(map(repr, empty[:5]))}{', ...' if len(empty) > 5 else ''}). {cause}"
        )


def _check_binary(task: Task, known: Tensor, train: Tensor) -> None:
    wrong = known[(known != 0) & (known != 1)]
    if len(wrong):
        found = sorted(set(wrong.tolist()))[:4]
        raise WorkloadError(
            f"Parameter `y`: labels of the binary task {task.name!r} should be 0, 1 or NaN. Found also {found}. "
            "Likely causes are labels of -1 and 1 (use (y + 1) / 2), -1 as a mark for missing labels (use NaN), more "
            "than two classes (kind='multiclass') or numbers (kind='regression')."
        )
    if len(train.unique()) < 2:
        raise WorkloadError(
            f"Parameter `y`: all {len(train)} training labels of the binary task {task.name!r} are {train[0]:g}: "
            "there is nothing to learn. Drop the task, take another `seed`, or give `split` so that both classes are "
            "in the training part."
        )


def _check_classes(task: Task, known: Tensor, train: Tensor) -> None:
    classes = task.classes or 0
    wrong = known[(known != known.round()) | (known < 0) | (known >= classes)]
    if len(wrong):
        raise WorkloadError(
            f"Parameter `y`: labels of the multi-class task {task.name!r} should be whole numbers from 0 to "
            f"{classes - 1}. Found also {sorted(set(wrong.tolist()))[:4]}. Likely causes are classes numbered from 1, "
            "-1 as a mark for missing labels (use NaN), or `classes` too small."
        )
    if len(train.unique()) < 2:
        raise WorkloadError(
            f"Parameter `y`: all {len(train)} training labels of the multi-class task {task.name!r} are class "
            f"{train[0]:g}: there is nothing to learn. Drop the task, or give `split` so that several classes are in "
            "the training part."
        )


def _check_constant(task: Task, train: Tensor) -> None:
    if float(train.max()) == float(train.min()):
        value = float(train[0]) * task.scale + task.center
        raise WorkloadError(
            f"Parameter `y`: all {len(train)} training labels of task {task.name!r} are {value:g}: there is nothing "
            "to learn, and the targets cannot be brought to standard deviation 1. Drop the task or give it more "
            "labels."
        )


def _check_ones(task: Task, known: Tensor) -> None:
    raw = known * task.scale + task.center
    other = raw[raw != 1]
    if len(other):
        raise WorkloadError(
            f"Parameter `y`: the labels of task {task.name!r} should all be 1, since a task of the kind {task.kind!r} "
            f"has the right answer among its inputs. Found {float(other[0]):g}. Workloads of such tasks are made by "
            "coterie.workload.causal.from_causal; kind='binary' is for labels of 0 and 1."
        )


def _train(column: Tensor, workload: Workload) -> Tensor:
    values = column[workload.split.train]
    return values[~torch.isnan(values)]


def _warn_rare(workload: Workload, sparse: SparseParts | None) -> None:
    """One warning for all tasks with a class of few training rows, or absent from the validation or test part."""
    notes: list[str] = []
    for index, task in enumerate(workload.tasks):
        if not task.loss.discrete:
            continue
        classes = task.classes or 2
        counts: dict[str, list[int]] = {}
        for part in PARTS:
            if sparse is not None:
                known = sparse.among(part, index).long().cpu()
            else:
                values = workload.labels[workload.split.part(part), index]
                known = values[~torch.isnan(values)].long().cpu()
            counts[part] = torch.bincount(known, minlength=classes).tolist()
        said = _rare_in(counts)
        if said:
            notes.append(f"{task.name!r} has {' and '.join(said)}")
    if notes:
        shown = "; ".join(notes[:5]) + (f"; and {len(notes) - 5} more tasks" if len(notes) > 5 else "")
        warn(
            f"Rare classes: {shown}. Losses and gains of such tasks are noisy; read their intervals, give more rows, "
            "or drop them.",
            DataWarning,
            about=workload,
        )


def _rare_in(counts: dict[str, list[int]]) -> list[str]:
    """What to say of a task with these numbers of rows a part and class; empty when nothing is unusual."""
    said: list[str] = []
    rare = min(range(len(counts["train"])), key=counts["train"].__getitem__)
    if counts["train"][rare] < RARE:
        said.append(f"{counts['train'][rare]} training rows of class {rare}")
    for part in PARTS[1:]:
        present = [number for number, count in enumerate(counts[part]) if count]
        absent = [number for number, count in enumerate(counts[part]) if not count]
        if not absent:
            continue
        if len(present) == 1:
            said.append(f"one class only in the {part} part")
        else:
            shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
            said.append(f"no row of class {shown} in the {part} part")
    return said


def _warn_constant_inputs(workload: Workload) -> None:
    """Some constant columns are ordinary (pixels at the border); when most are, the wrong table was given."""
    inputs = workload.inputs
    if isinstance(inputs, dict | LazyInputs) or inputs.dim() != 2 or not inputs.is_floating_point():
        return
    train = inputs[workload.split.train]
    constant = int((train.amax(0) == train.amin(0)).sum()) if train.shape[1] else 0
    if 2 * constant > train.shape[1]:
        warn(
            f"Parameter `x`: {constant} of {train.shape[1]} input columns have one value only in the training part. "
            "They are kept, but the model can learn nothing from them. The likely cause is a filter or a join that "
            "went wrong.",
            DataWarning,
            about=workload,
        )


def validate(workload: Workload) -> None:
    """Check the data and the model of a workload; the main job does so before it trains anything.

    The data were checked once already by :func:`from_arrays` and its siblings, without the model.

    Raises:
        WorkloadError: tasks, inputs, labels, split or the shape of the outputs cannot be used.
        ModelError: the model cannot be built or run; its subclass NonDeterministicModelError when evaluation is random.

    Warns:
        DataWarning: for rare classes, mostly constant inputs, a model that ignores its seed.

    Cost: a few passes over the labels, one over the inputs, three models built, four forward passes of at most 8 rows.

    Example:
        >>> import numpy as np
        >>> from coterie.workload import from_arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> validate(from_arrays(x, x[:, :3]))
    """
    check_data(workload)
    check_model(workload)
