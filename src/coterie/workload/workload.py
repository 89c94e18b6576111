"""What the user brings: tasks, data, a model and a recipe."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import WorkloadError
from coterie.workload.checks import as_device
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.losses import MarginLoss
from coterie.workload.recipe import Recipe
from coterie.workload.shown import describe
from coterie.workload.sparse import SparseLabels, SparseView
from coterie.workload.task import Task
from coterie.workload.weights import label_weights


def copied(value: Any) -> Any:
    """Tensors, and dicts, lists and tuples of them at any depth, copied; everything else as it is.

    A model that writes into its input (``x += shift``, ``x.relu_()``, ``batch.pop(...)``) would change it for all that
    are asked after it.

    Example:
        >>> import torch
        >>> x = torch.zeros(2)
        >>> copied({"x": [x]})["x"][0].add_(1), x
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if type(value) in (list, tuple):
        return type(value)(copied(part) for part in value)
    return value


#: what models of transformers call the scores among their outputs
_SCORES = "logits"
_PICK = "Give `forward=lambda model, batch: ...` to pick the right part."


def by_name(model: nn.Module, batch: Mapping[str, Tensor]) -> bool:
    """Whether a mapping of inputs is passed by the names of its parts, not as one argument.

    By name where `forward` takes these names; as a whole where it does not and has a single positional parameter
    without a default.

    Example:
        >>> by_name(nn.Linear(2, 1), {"input": torch.zeros(1, 2)}), by_name(nn.Linear(2, 1), {"u": torch.zeros(1, 2)})
        (True, False)
    """
    inner = getattr(model, "_orig_mod", model)  # torch.compile hides the parameters of what it wraps
    inner = inner.module if isinstance(inner, nn.DataParallel) else inner
    try:
        signature = inspect.signature(inner.forward)
    except (TypeError, ValueError):  # builtins without a signature
        return True
    try:
        signature.bind(**batch)
    except TypeError:
        places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        required = [p for p in signature.parameters.values() if p.kind in places and p.default is p.empty]
        return len(required) != 1
    return True


def join_outputs(raw: Any, tasks: Sequence[Task]) -> Tensor:
    """One (rows, sum of widths) tensor from whatever a model returns.

    Args:
        raw: a tensor; a list or tuple with one tensor a task, in order; a mapping, named tuple or dataclass with one
            tensor a task, by name. Where names are no tasks, the part ``logits`` is taken, as models of transformers
            call it, or the only part that is not None.
        tasks: of the workload.

    Raises:
        WorkloadError: when a task is missing, or a part does not have the width of its task.

    Example:
        >>> tasks = [Task("sick"), Task("stage", "multiclass", classes=3)]
        >>> tuple(join_outputs({"stage": torch.zeros(5, 3), "sick": torch.zeros(5)}, tasks).shape)
        (5, 4)
    """
    if isinstance(raw, Tensor):
        return _whole(raw, tasks)
    named = _named(raw)
    if named is not None:
        return _from_names(named, tasks, type(raw).__name__)
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return _from_places(list(cast("Sequence[Any]", raw)), tasks)
    raise WorkloadError(
        "The model should return a tensor, a sequence, a mapping, a named tuple or a dataclass of tensors. Found "
        f"{type(raw).__name__}. {_PICK}"
    )


def _named(raw: Any) -> dict[Any, Any] | None:
    """Parts by name; None for what has no names."""
    if isinstance(raw, Mapping):
        return dict(cast("Mapping[Any, Any]", raw))
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return dict(zip(cast("Any", raw)._fields, cast("tuple[Any, ...]", raw), strict=True))
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        return {field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}
    return None


def _from_names(named: dict[Any, Any], tasks: Sequence[Task], kind: str) -> Tensor:
    missing = [task.name for task in tasks if named.get(task.name) is None]
    if not missing:
        return _joined([named[task.name] for task in tasks], tasks)
    there = [name for name, part in named.items() if part is not None]
    if len(missing) == len(tasks) and (_SCORES in there or len(there) == 1):
        return join_outputs(named[_SCORES if _SCORES in there else there[0]], tasks)
    raise WorkloadError(
        f"The model should return a part for each task by its name. Found {kind} with the names {there[:8]}; without "
        f"the tasks {missing[:5]}. Name the parts as the tasks are named. {_PICK}"
    )


def _from_places(parts: list[Any], tasks: Sequence[Task]) -> Tensor:
    there = [part for part in parts if part is not None]
    if len(there) == 1:  # (scores,) or (scores, None)
        return join_outputs(there[0], tasks)
    if len(there) < len(parts) or len(parts) != len(tasks):
        raise WorkloadError(
            f"The model should return one part for each of the {len(tasks)} tasks. Found {len(parts)} parts"
            f"{f', {len(parts) - len(there)} of them None' if len(there) < len(parts) else ''}. {_PICK}"
        )
    return _joined(parts, tasks)


def _whole(raw: Tensor, tasks: Sequence[Task]) -> Tensor:
    width = sum(task.width for task in tasks)
    raw = raw[:, None] if raw.dim() == 1 else raw
    if raw.dim() != 2 or raw.shape[1] != width:
        turned = raw.dim() == 2 and raw.shape[0] == width
        raise WorkloadError(
            f"The model should return (rows, {width}) outputs for {len(tasks)} tasks. Found shape {tuple(raw.shape)}. "
            f"Multi-class tasks read one output a class.{' The likely cause is a transpose.' if turned else ''}"
        )
    return _dense(raw, "of the model")


def _joined(parts: list[Any], tasks: Sequence[Task]) -> Tensor:
    """Parts side by side, each with as many columns as its task reads."""
    columns: list[Tensor] = []
    for part, task in zip(parts, tasks, strict=True):
        if not isinstance(part, Tensor):
            raise WorkloadError(
                f"The model should return tensors. Found {type(part).__name__} for task {task.name!r}. The likely "
                "cause is .numpy(), .item() or a list inside forward."
            )
        own = part[:, None] if part.dim() == 1 and task.width == 1 else part
        if own.dim() != 2 or own.shape[1] != task.width:
            raise WorkloadError(
                f"The model should return (rows, {task.width}) for the {task.kind} task {task.name!r}. Found shape "
                f"{tuple(part.shape)}. {_width_cause(task, part)}"
            )
        columns.append(_dense(own, f"for task {task.name!r}"))
    if any(part.shape[0] != columns[0].shape[0] for part in columns):  # a trace may not know the numbers
        rows = {task.name: len(part) for part, task in zip(columns, tasks, strict=True)}
        raise WorkloadError(
            f"The model should return as many rows for each task. Found {dict(list(rows.items())[:5])}."
        )
    return torch.cat(columns, -1)


def _dense(part: Tensor, which: str) -> Tensor:
    if part.layout != torch.strided or part.is_quantized:
        what = "quantised" if part.is_quantized else str(part.layout).removeprefix("torch.")
        raise WorkloadError(
            f"The outputs {which} should be an ordinary tensor. Found a {what} one. Return part.to_dense() or "
            "part.dequantize()."
        )
    return part


def _width_cause(task: Task, part: Tensor) -> str:
    if part.dim() != 2:
        return "Rows are the first dimension and outputs the second; take off others with flatten(1) or squeeze(-1)."
    if task.loss.discrete and task.width == 1:
        return (
            "A binary task reads one number, the logit of label 1; of two logits return z[:, 1] - z[:, 0], or give "
            "kind='multiclass' with classes=2. Another likely cause is outputs in another order than the tasks."
        )
    return "Multi-class tasks read one output a class. A likely cause is outputs in another order than the tasks."


Batch = Any  # a Tensor, or a mapping of names to Tensors with the same first dimension
BuildModel = Callable[[int], nn.Module]
Forward = Callable[[nn.Module, Batch], Any]


@short_repr
@dataclass(frozen=True)
class Split:
    """Row numbers (int64 tensors) of the three parts of the data."""

    train: Tensor
    validation: Tensor
    test: Tensor

    def part(self, name: str) -> Tensor:
        """Rows of ``"train"``, ``"validation"`` or ``"test"``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True)
class OnDevice:
    """Builds on the CPU, then moves: the parameters of a seed are the same on every device."""

    build: BuildModel
    device: torch.device

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed."""
        return self.build(seed).to(self.device)


@known_arguments
@dataclass(frozen=True, eq=False)
class Workload:
    """Tasks, data, a model and a recipe. Build one with :func:`coterie.workload.from_arrays` and its siblings.

    Attributes:
        name: for tables and reports.
        tasks: the tasks, in the order of the label columns.
        inputs: (rows, ...) tensor, or a dict of such tensors; or rows that are read when a batch needs them.
        labels: (rows, tasks) float tensor, NaN where a label is missing; class numbers for multi-class tasks,
            ``(raw - center) / scale`` for regression tasks. Or :class:`SparseLabels`, which stand for such a tensor.
        split: row numbers of the training, validation and test parts.
        build_model: seed -> a freshly initialised module; the same seed gives the same parameters.
        recipe: how every model is trained.
        forward: ``forward(model, batch)`` -> outputs, where calling the model is not enough.
        reference: how a program finds the workload again ("yeast", "file.py:workload"); None when made in memory.
        model_spec: JSON-ready description of a built-in model; None for a user's own module.
        input_center, input_scale: what was subtracted from and divided out of raw tensor inputs, in float64; None when
            nothing was.
        known_groups: groups that are known from outside, to compare with (task names).
        input_names: names of the input columns, where the inputs were a data frame with text columns.
        weights: (rows, 1) or (rows, tasks) weights of the labels in the training loss; None where all count alike.
    """

    name: str
    tasks: tuple[Task, ...]
    inputs: Tensor | dict[str, Tensor] | LazyInputs
    labels: Tensor
    split: Split
    build_model: BuildModel
    recipe: Recipe = field(default_factory=Recipe)
    forward: Forward | None = None
    reference: str | None = None
    model_spec: dict[str, Any] | None = None
    input_center: Tensor | None = None
    input_scale: Tensor | None = None
    known_groups: tuple[tuple[str, ...], ...] | None = None
    input_names: tuple[str, ...] | None = None
    weights: Tensor | None = None

    def __repr__(self) -> str:
        return describe(self)

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(task.name for task in self.tasks)

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """Which columns of the model's output each task reads."""
        stops = torch.tensor([task.width for task in self.tasks]).cumsum(0).tolist()
        return tuple(slice(stop - task.width, stop) for stop, task in zip(stops, self.tasks, strict=True))

    @cached_property
    def observed(self) -> Tensor:
        """Where labels are known, as a (rows, tasks) bool tensor."""
        if isinstance(self.labels, SparseLabels):  # answers as a tensor does
            return cast("Tensor", SparseView(self.labels, 0.0, mask=True))
        return ~torch.isnan(self.labels)

    @cached_property
    def targets(self) -> Tensor:
        """Labels with 0 where they are missing."""
        if isinstance(self.labels, SparseLabels):
            return cast("Tensor", SparseView(self.labels, 0.0))
        return torch.nan_to_num(self.labels)

    @cached_property
    def label_weights(self) -> Tensor | None:
        """(rows, tasks) weights of the labels in the training loss, those of classes included; None without any."""
        return label_weights(self.tasks, self.targets, self.observed, self.split.train, self.recipe, self.weights)

    @cached_property
    def _kinds(self) -> list[tuple[MarginLoss, list[int]]]:
        kinds: dict[str, list[int]] = {}
        for index, task in enumerate(self.tasks):
            kinds.setdefault(task.kind, []).append(index)
        return [(self.tasks[index[0]].loss, index) for index in kinds.values()]

    @property
    def device(self) -> torch.device:
        """Where inputs and labels are."""
        return self.labels.device

    def to(self, device: torch.device | str) -> Workload:
        """The same workload with data, row numbers and models on another device; `self` stays as it is.

        Models are built on the CPU and moved, so a seed means the same parameters everywhere.

        Raises:
            SettingError: when there is no such device here.
        """
        device = as_device(device)

        def move(value: Tensor | None) -> Tensor | None:
            if value is not None and device.type == "mps" and value.dtype == torch.float64:
                return value  # that device has no float64; nothing there reads these numbers
            return None if value is None else value.to(device)

        build = self.build_model.build if isinstance(self.build_model, OnDevice) else self.build_model
        inputs = self.inputs
        return replace(
            self,
            inputs={name: value.to(device) for name, value in inputs.items()}
            if isinstance(inputs, dict)
            else (inputs if isinstance(inputs, LazyInputs) else inputs.to(device)),
            labels=self.labels.to(device),
            split=Split(*(self.split.part(part).to(device) for part in ("train", "validation", "test"))),
            build_model=OnDevice(build, device),
            input_center=move(self.input_center),
            input_scale=move(self.input_scale),
            weights=move(self.weights),
        )

    def batch(self, rows: Tensor) -> Batch:
        """Inputs of the given rows."""
        if isinstance(self.inputs, dict):
            return {name: value[rows] for name, value in self.inputs.items()}
        return self.inputs.take(rows) if isinstance(self.inputs, LazyInputs) else self.inputs[rows]

    def rows_of(self, subset: Sequence[int], part: str) -> Tensor:
        """Rows of a part of the data with at least one label of the subset's tasks."""
        rows = self.split.part(part)
        if isinstance(self.labels, SparseLabels):
            return self.labels.rows_with(subset, rows)
        return rows[self.observed[rows][:, list(subset)].any(1)]

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Raw outputs (rows, sum of task widths) of a model, from whatever form it returns them in.

        The model gets a copy of the batch, so that what it writes there stays its own.
        """
        batch = copied(batch)
        if self.forward is not None:
            raw = self.forward(model, batch)
        elif isinstance(batch, Mapping) and by_name(model, batch):
            raw = model(**batch)
        else:
            raw = model(batch)
        return join_outputs(raw, self.tasks)

    def margins(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Margins (..., tasks) of raw outputs (..., sum of widths); `targets` (..., tasks) without NaN."""
        if all(type(task.loss).margin is MarginLoss.margin for task in self.tasks):  # the outputs themselves
            return outputs
        parts = [
            task.loss.margin(outputs[..., columns], targets[..., index])
            for index, (task, columns) in enumerate(zip(self.tasks, self.columns, strict=True))
        ]
        return torch.stack(parts, -1)

    def losses(self, margins: Tensor, targets: Tensor) -> Tensor:
        """Loss (..., tasks) of each example and task; positions with missing labels must be masked by the caller."""
        return self._by_kind("value", margins, targets)

    def first(self, margins: Tensor, targets: Tensor) -> Tensor:
        """First derivative of :meth:`losses` with respect to the margins."""
        return self._by_kind("first", margins, targets)

    def second(self, margins: Tensor, targets: Tensor) -> Tensor:
        """Second derivative of :meth:`losses` with respect to the margins."""
        return self._by_kind("second", margins, targets)

    def _by_kind(self, method: str, margins: Tensor, targets: Tensor) -> Tensor:
        if len(self._kinds) == 1:
            return getattr(self._kinds[0][0], method)(margins, targets)
        parts: dict[int, Tensor] = {}
        for loss, index in self._kinds:
            value = getattr(loss, method)(margins[..., index], targets[..., index])
            parts.update({task: value[..., position] for position, task in enumerate(index)})
        return torch.stack([parts[task] for task in range(self.n_tasks)], -1)
