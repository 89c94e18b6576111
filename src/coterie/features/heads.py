"""Exact gradients of task heads: the representation that a linear layer reads, stored once a row."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coterie._show import short_repr
from coterie.errors import SettingError
from coterie.features.directions import Directions
from coterie.features.storage import Pairs
from coterie.workload.structure import HeadSpec, Structure
from coterie.workload.workload import Workload

#: displacement of part of a parameter: its rows (None: the whole tensor) and the numbers
HeadMove = dict[str, tuple[tuple[int, ...] | None, Tensor]]


@short_repr
@dataclass(frozen=True, eq=False)
class HeadFeatures:
    """Gradients of margins with respect to each task's own head.

    Attributes:
        representations: (R, H) inputs of the heads' linear layers, each stored once.
        source: which representation each task reads; -1 when its head is not linear.
        slopes: (R, sum of task widths) derivative of each task's margin with respect to its outputs.
        bias: whether each task's linear layer has a bias.
        columns: which outputs each task reads.
        projected: (N, q) gradients of the heads that are not linear, along random directions of their own.
        directions: those directions.
    """

    representations: tuple[Tensor, ...]
    source: tuple[int, ...]
    slopes: Tensor
    bias: tuple[bool, ...]
    columns: tuple[slice, ...]
    projected: Tensor | None = field(default=None)
    directions: Directions | None = field(default=None)

    def width(self, task: int) -> int:
        """Number of head features q of a task."""
        if self.source[task] >= 0:
            columns = self.columns[task]
            return (self.representations[self.source[task]].shape[1] + self.bias[task]) * (columns.stop - columns.start)
        return self.projected.shape[1] if self.projected is not None and self.directions is not None else 0

    def of(self, task: int, local: Tensor, pairs: slice) -> Tensor:
        """(n, q) head features of a task's pairs: slope times (representation, 1), class by class."""
        if self.source[task] < 0:
            if self.projected is None:
                return self.slopes.new_zeros(len(local), 0)
            return self.projected[pairs]
        inputs = self.representations[self.source[task]][local]
        if self.bias[task]:
            inputs = torch.cat([inputs, inputs.new_ones(len(local), 1)], 1)
        slopes = self.slopes[local][:, self.columns[task]]
        return (slopes[:, :, None] * inputs[:, None, :]).flatten(1)


def head_displacement(structure: Structure, task: int, w: Tensor, directions: Directions | None = None) -> HeadMove:
    """What head coefficients mean for the model's parameters.

    Args:
        structure: trunk and heads.
        task: number of the task.
        w: (q,) coefficients of the columns of the task's head features.
        directions: those of the heads that are not linear.

    Returns:
        name -> (rows or None, numbers to add to these rows or to the whole tensor).

    Raises:
        SettingError: `w` has the wrong length, or `directions` is missing.
    """
    head = structure.heads[task]
    if not w.numel():
        return {}
    if not head.linear:
        return _projected_move(head, task, w, directions)
    per_row = w.numel() // len(head.rows)
    if per_row * len(head.rows) != w.numel():
        raise SettingError(f"Parameter `w` should have a multiple of {len(head.rows)} numbers. Found {w.numel()}.")
    values = w.reshape(len(head.rows), per_row)
    parts = [values[:, : per_row - 1], values[:, -1]] if len(head.parameters) == 2 else [values]
    move: HeadMove = {}
    for (name, rows), part in zip(head.parameters, parts, strict=True):
        if rows is None:  # the whole tensor: put the task's outputs in the tensor's own order
            part = part[torch.argsort(torch.tensor(head.rows, device=part.device))]
            move[name] = (None, part)
        else:
            move[name] = (head.rows, part)
    return move


def _projected_move(head: HeadSpec, task: int, w: Tensor, directions: Directions | None) -> HeadMove:
    if directions is None or w.shape != (directions.count,):
        found = "none" if directions is None else str(directions.count)
        raise SettingError(
            f"The head of task number {task} is not linear: `head_displacement` needs `directions` (those of the "
            f"features) and one coefficient for each. Found {found} directions and {tuple(w.shape)} coefficients."
        )
    whole = directions.displacement(w)
    return {name: (rows, whole[name] if rows is None else whole[name][list(rows)]) for name, rows in head.parameters}


class HeadCapture:
    """Collects margins, and what the gradients of linear heads consist of, while rows pass through the model.

    Args:
        workload: tasks and data.
        model: the module.
        structure: trunk and heads; with None no head is linear, and the head features are empty.
        pairs: the labelled pairs.
        dtype: of the numbers.
    """

    def __init__(
        self, workload: Workload, model: nn.Module, structure: Structure | None, pairs: Pairs, dtype: torch.dtype
    ) -> None:
        self._workload, self._model, self._pairs, self._dtype = workload, model, pairs, dtype
        self._heads = structure.heads if structure else (HeadSpec(()),) * workload.n_tasks
        self._linear = [head.module if head.linear else None for head in self._heads]
        self._alias: dict[str, str] = {}
        self._inputs: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def run(self, chunk: int = 256) -> None:
        """Pass all labelled rows through the model."""
        for local in torch.arange(len(self._pairs.rows), device=self._pairs.rows.device).split(chunk):
            with torch.no_grad(), self.listening():
                outputs = self._workload.outputs(self._model, self._workload.batch(self._pairs.rows[local]))
            self.take(local, outputs)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Hooks that keep what the linear heads read."""

        def recorder(name: str) -> Callable[..., None]:
            def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                del module, output
                self._inputs[name] = args[0].detach()

            return record

        names = dict.fromkeys(name for name in self._linear if name is not None)
        hooks = [self._model.get_submodule(name).register_forward_hook(recorder(name)) for name in names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def take(self, local: Tensor, outputs: Tensor) -> None:
        """Keep what belongs to the rows at positions `local` among the labelled rows, which gave `outputs`."""
        workload, targets = self._workload, self._workload.targets[self._pairs.rows[local]].to(self._dtype)
        with torch.enable_grad():
            leaf = outputs.detach().to(self._dtype).requires_grad_()
            values = workload.margins(leaf, targets)
            # a margin reads its own task's outputs only, so one gradient of the sum has the slopes of all
            self._put(" slopes", local, torch.autograd.grad(values.sum(), leaf)[0])
        self._put(" margins", local, values.detach())
        self._alias = self._alias or _distinct(self._inputs)
        for name in dict.fromkeys(self._alias.values()):
            self._put(name, local, self._inputs[name])
        self._inputs.clear()

    def result(self) -> tuple[Tensor, HeadFeatures]:
        """Margins (R, T) and the features of the heads, once all rows have passed."""
        stored = list(dict.fromkeys(self._alias.values()))
        features = HeadFeatures(
            representations=tuple(self._rows[name] for name in stored),
            source=tuple(-1 if name is None else stored.index(self._alias[name]) for name in self._linear),
            slopes=self._rows[" slopes"],
            bias=tuple(len(head.parameters) == 2 for head in self._heads),
            columns=self._workload.columns,
        )
        return self._rows[" margins"], features

    def _put(self, name: str, local: Tensor, values: Tensor) -> None:
        if name not in self._rows:
            self._rows[name] = values.new_empty((len(self._pairs.rows), *values.shape[1:]), dtype=self._dtype)
        self._rows[name][local] = values.to(self._dtype)


def capture(
    workload: Workload,
    model: nn.Module,
    structure: Structure | None,
    pairs: Pairs,
    dtype: torch.dtype,
    chunk: int = 256,
) -> tuple[Tensor, HeadFeatures]:
    """Run the model on all labelled rows; keep the margins (R, T) and what the gradients of linear heads consist of.

    With `structure` None no head is linear, and the head features are empty.
    """
    heads = HeadCapture(workload, model, structure, pairs, dtype)
    heads.run(chunk)
    return heads.result()


def _distinct(inputs: dict[str, Tensor]) -> dict[str, str]:
    """name -> first name whose module read the very same tensor."""
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    return {name: first.setdefault((x.data_ptr(), tuple(x.shape), x.stride()), name) for name, x in inputs.items()}
