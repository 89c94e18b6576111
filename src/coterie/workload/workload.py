"""What the user brings: tasks, data, a model and a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.workload.checks import as_device
from coterie.workload.copies import copied
from coterie.workload.losses import MarginLoss
from coterie.workload.outputs import by_name, join_outputs
from coterie.workload.recipe import Recipe
from coterie.workload.shown import describe
from coterie.workload.task import Task

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
        inputs: (rows, ...) tensor, or a dict of such tensors.
        labels: (rows, tasks) float tensor, NaN where a label is missing; class numbers for multi-class tasks,
            ``(raw - center) / scale`` for regression tasks.
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
    """

    name: str
    tasks: tuple[Task, ...]
    inputs: Tensor | dict[str, Tensor]
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
        return ~torch.isnan(self.labels)

    @cached_property
    def targets(self) -> Tensor:
        """Labels with 0 where they are missing."""
        return torch.nan_to_num(self.labels)

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
            else inputs.to(device),
            labels=self.labels.to(device),
            split=Split(*(self.split.part(part).to(device) for part in ("train", "validation", "test"))),
            build_model=OnDevice(build, device),
            input_center=move(self.input_center),
            input_scale=move(self.input_scale),
        )

    def batch(self, rows: Tensor) -> Batch:
        """Inputs of the given rows."""
        if isinstance(self.inputs, dict):
            return {name: value[rows] for name, value in self.inputs.items()}
        return self.inputs[rows]

    def rows_of(self, subset: Sequence[int], part: str) -> Tensor:
        """Rows of a part of the data with at least one label of the subset's tasks."""
        rows = self.split.part(part)
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
