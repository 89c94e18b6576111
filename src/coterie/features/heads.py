"""Exact gradients of task heads: the representation that a linear layer reads, stored once a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coterie.errors import SettingError
from coterie.features.directions import Directions
from coterie.features.pairs import Pairs
from coterie.workload.structure import HeadSpec, Structure
from coterie.workload.workload import Workload

#: displacement of part of a parameter: its rows (None: the whole tensor) and the numbers
HeadMove = dict[str, tuple[tuple[int, ...] | None, Tensor]]


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
    heads = structure.heads if structure else (HeadSpec(()),) * workload.n_tasks
    linear = [head.module if head.linear else None for head in heads]
    modules = tuple(dict.fromkeys(name for name in linear if name is not None))
    margins, slopes, seen = [], [], []
    for rows in pairs.rows.split(chunk):
        with torch.no_grad():
            outputs, inputs = _pass(workload, model, rows, modules)
        seen.append(inputs)
        with torch.enable_grad():
            leaf = outputs.detach().to(dtype).requires_grad_()
            values = workload.margins(leaf, workload.targets[rows].to(dtype))
            # a margin reads its own task's outputs only, so one gradient of the sum has the slopes of all
            slopes.append(torch.autograd.grad(values.sum(), leaf)[0])
        margins.append(values.detach())
    alias = _distinct(seen[0])
    stored = list(dict.fromkeys(alias.values()))
    features = HeadFeatures(
        representations=tuple(torch.cat([inputs[name] for inputs in seen]).to(dtype) for name in stored),
        source=tuple(-1 if name is None else stored.index(alias[name]) for name in linear),
        slopes=torch.cat(slopes),
        bias=tuple(len(head.parameters) == 2 for head in heads),
        columns=workload.columns,
    )
    return torch.cat(margins), features


def _pass(
    workload: Workload, model: nn.Module, rows: Tensor, modules: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    inputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            del module, output
            inputs[name] = args[0]

        return record

    hooks = [model.get_submodule(name).register_forward_hook(recorder(name)) for name in modules]
    try:
        return workload.outputs(model, workload.batch(rows)), inputs
    finally:
        for hook in hooks:
            hook.remove()


def _distinct(inputs: dict[str, Tensor]) -> dict[str, str]:
    """name -> first name whose module read the very same tensor."""
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    return {name: first.setdefault((x.data_ptr(), tuple(x.shape), x.stride()), name) for name, x in inputs.items()}
