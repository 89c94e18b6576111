"""Reverse mode: the gradient of each labelled margin, projected chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from coterie._progress import Progress
from coterie.features.directions import Directions
from coterie.features.plan import FeaturePlan
from coterie.features.program import MarginProgram, example
from coterie.features.storage import FeatureWriter, Pairs
from coterie.workload.workload import Batch

#: pairs of directions and where their features go
Jobs = Sequence[tuple[Directions, FeatureWriter]]


def gradients(program: MarginProgram, rows: Tensor, tasks: Tensor, *, batched: bool) -> dict[str, Tensor]:
    """Gradient (n, *shape) of the margins of n (row, task) pairs with respect to each parameter.

    With `batched` all at once under vmap, else one after the other by ordinary differentiation.
    """
    if not batched:
        return _one_by_one(program, rows, tasks)
    batch, targets = program.data(rows)
    count = program.workload.n_tasks

    def margin(parameters: dict[str, Tensor], one: Batch, target: Tensor, chosen: Tensor) -> Tensor:
        margins = program.margins(parameters, example(one), target[None])[0]
        # a mask, since vmap has no indexing by a batched number; `where` keeps other tasks' infinities out
        return torch.where(torch.arange(count, device=margins.device) == chosen, margins, 0.0).sum()

    # parameters that are not projected (the heads) would otherwise keep a graph behind the gradients
    with torch.no_grad():
        if not program.recurrent:
            return vmap(grad(margin), (None, 0, 0, 0))(program.parameters, batch, targets, tasks)
        # recurrent cells add to their parameters' products in place, which vmap refuses unless these are batched too
        expanded = {name: value.expand(len(rows), *value.shape) for name, value in program.parameters.items()}
        return vmap(grad(margin))(expanded, batch, targets, tasks)


def _one_by_one(program: MarginProgram, rows: Tensor, tasks: Tensor) -> dict[str, Tensor]:
    parameters = {name: value.detach().requires_grad_() for name, value in program.parameters.items()}
    collected = {name: value.new_zeros((len(rows), *value.shape)) for name, value in parameters.items()}
    for row in rows.unique():
        with torch.enable_grad():
            margins = program.margins(parameters, *program.data(row[None]))[0]
        for index in (rows == row).nonzero().flatten().tolist():
            values = torch.autograd.grad(
                margins[tasks[index]], list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for name, value in zip(parameters, values, strict=True):
                if value is not None:  # pyright: ignore[reportUnnecessaryComparison] - allow_unused gives None
                    collected[name][index] = value
    return collected


def compute(program: MarginProgram, jobs: Jobs, pairs: Pairs, plan: FeaturePlan, progress: Progress) -> None:
    """Write the features of all pairs to the writers.

    Pairs are the outer loop, so that each gradient is taken once; directions are regenerated for every chunk of pairs.
    """
    # sorted by row, so that the labels of one row share its forward pass where gradients are taken one by one
    order = torch.argsort(pairs.local, stable=True)
    for start in range(0, pairs.count, plan.rows_per_chunk):
        index = order[start : start + plan.rows_per_chunk]
        found = gradients(program, pairs.rows[pairs.local[index]], pairs.task[index], batched=plan.batched)
        for directions, writer in jobs:
            for first in range(0, directions.count, plan.directions_per_chunk):
                last = min(first + plan.directions_per_chunk, directions.count)
                writer.put(index, _project(found, directions.chunk(first, last)), first)
        progress("features", min(start + plan.rows_per_chunk, pairs.count), pairs.count)


def _project(found: dict[str, Tensor], chunk: dict[str, Tensor]) -> Tensor:
    """(n, directions): scalar products, summed over the parameters."""
    first = next(iter(chunk))
    total = found[first].new_zeros(len(found[first]), len(chunk[first]))
    for name, value in chunk.items():
        gradient = found[name].reshape(len(total), -1)
        total.addmm_(gradient, value.reshape(len(value), -1).to(gradient.device, gradient.dtype).T)
    return total
