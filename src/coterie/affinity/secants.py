"""Features from finite differences: how far each task's own short training moves the margins of every task.

A Jacobian-vector product along a task vector asks for the slope at the base. The margins at the end of that training
are cheaper (one forward pass a task, for any network, differentiable or not) and hold the curvature on the way, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coterie._progress import Progress
from coterie.affinity.statistics import TaskBlock
from coterie.features.heads import HeadFeatures, capture
from coterie.features.pairs import Pairs, labelled_pairs
from coterie.training.evaluate import load_state
from coterie.training.units import UnitCost
from coterie.workload import Workload
from coterie.workload.structure import Structure

_CHUNK = 4096


def secant_blocks(
    workload: Workload,
    state: Mapping[str, Tensor],
    ends: Sequence[Mapping[str, Tensor]],
    structure: Structure,
    part: str,
    progress: Progress,
) -> tuple[TaskBlock, ...]:
    """One block a task: column j of ``g`` is the change of the margin from the base to the end of fork j.

    Column t of task t holds the move of its own head, too. Gradients of linear heads are exact, as in
    :func:`coterie.features.compute_features`; other heads move along their own fork only.

    Args:
        workload: tasks and data.
        state: parameters of the base.
        ends: parameters at the end of the forks.
        structure: trunk and heads.
        part: of the data.
        progress: called as ``progress(stage, forks done, forks)``.

    Cost: ``1 + len(ends)`` forward passes over the labelled rows of the part.
    """
    pairs = labelled_pairs(workload, part)
    model = workload.build_model(0).to(workload.labels.device).eval()
    load_state(model, dict(state))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    margins, head = capture(workload, model, structure, pairs, dtype)
    g = torch.empty(pairs.count, len(ends), dtype=dtype, device=margins.device)
    start = margins[pairs.local, pairs.task]
    for number, end in enumerate(ends):
        load_state(model, dict(end))
        g[:, number] = _margins(workload, model, pairs) - start
        progress(f"features, {part}", number + 1, len(ends))
    return _blocks(workload, pairs, g, start, head)


@torch.no_grad()
def _margins(workload: Workload, model: torch.nn.Module, pairs: Pairs) -> Tensor:
    """(N,) margins of the labelled pairs."""
    parts = [
        workload.margins(workload.outputs(model, workload.batch(rows)), workload.targets[rows])
        for rows in pairs.rows.split(_CHUNK)
    ]
    return torch.cat(parts)[pairs.local, pairs.task]


def _blocks(workload: Workload, pairs: Pairs, g: Tensor, start: Tensor, head: HeadFeatures) -> tuple[TaskBlock, ...]:
    targets = workload.targets[pairs.rows][pairs.local, pairs.task].to(g.dtype)
    blocks: list[TaskBlock] = []
    for task, kind in enumerate(workload.tasks):
        own = slice(int(pairs.starts[task]), int(pairs.starts[task + 1]))
        local = pairs.local[own]
        blocks.append(TaskBlock(g[own], head.of(task, local, own), start[own], targets[own], kind.loss))
    return tuple(blocks)


def secant_flops(workload: Workload, count: int, unit: UnitCost) -> float:
    """FLOPs of the features of the training and the validation part."""
    rows = torch.cat([workload.split.train, workload.split.validation])
    return int(workload.observed[rows].any(1).sum()) * (1 + count) * unit.forward
