"""Linearise one base model: features, statistics, and what the values need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coterie._units import SHARDS, NoStore, Payload, drop_shards, folder_of
from coterie.affinity.blocks import compressed, pack_blocks, under, unpack_blocks
from coterie.affinity.context import Prepared
from coterie.affinity.costs import timed
from coterie.affinity.digest import digest
from coterie.affinity.linear import LinearBase
from coterie.affinity.secants import secant_blocks, secant_flops
from coterie.affinity.statistics import Statistics, TaskBlock, compute_statistics
from coterie.errors import ResourceError
from coterie.features import FeatureOptions, RandomDirections
from coterie.features.directions import Directions
from coterie.features.part import PartFeatures
from coterie.features.shards import compute_shards
from coterie.training.job import Fit
from coterie.training.units import UnitCost
from coterie.workload import Workload

if TYPE_CHECKING:
    from coterie.affinity.grad_tae import GradTAE

#: features beyond this many bytes are computed again after a kill instead of being kept
KEEP_BYTES = 2**29
#: what an intercept is multiplied by: so much that a ridge does not feel it
CONSTANT = 1024.0
#: directions of heads that are not linear
HEAD_DIRECTIONS = 32


def linearize(
    prepared: Prepared,
    number: int,
    state: Mapping[str, Tensor],
    directions: Directions,
    settings: GradTAE,
    notes: list[str],
) -> LinearBase:
    """Features of the training and validation part around one base, reduced to what the regression needs.

    Cost: about 2 d forward passes over both parts in forward mode; see the note that the planner leaves.
    """
    workload = prepared.workload
    folder = folder_of(prepared.context.store, SHARDS)
    options = FeatureOptions(heads=settings.heads, head_directions=HEAD_DIRECTIONS, dtype=settings.dtype)
    tell = lambda _, a, b: prepared.context.progress(f"features of base {number + 1}", a, b)  # noqa: E731
    context = replace(prepared.context, progress=tell)

    def compute() -> Payload:
        parts: dict[str, PartFeatures] = {}
        for part in ("train", "validation"):
            parts[part] = compute_shards(
                workload, state, directions, options, context, structure=prepared.structure, part=part, folder=folder
            )
        check_heads(workload, [parts["train"].head_width(t) for t in range(workload.n_tasks)], prepared.context.memory)
        blocks = {part: task_blocks(workload, features) for part, features in parts.items()}
        if settings.intercept:
            blocks = {part: tuple(with_constant(block) for block in each) for part, each in blocks.items()}
        statistics = compute_statistics(blocks["train"], offset=settings.offset)
        arrays = {f"statistics/{name}": value for name, value in statistics.to_tensors().items()}
        keep = ("train", "validation") if number == 0 or settings.fit == "converged" else ("validation",)
        for part in keep:
            arrays.update({f"{part}/{name}": value for name, value in pack_blocks(blocks[part]).items()})
        plan = parts["train"].plan
        note = f"features: {plan.mode} mode, d = {directions.count}. {plan.reason}"
        return Payload(dict(arrays), {"note": note, "mode": plan.mode})

    size = int(workload.observed.sum()) * (_bytes(settings) * directions.count + 4 * 64)
    store = prepared.context.store if size <= KEEP_BYTES else NoStore()
    along = None if isinstance(directions, RandomDirections) else digest(directions.chunk(0, directions.count))
    key = {"base": number, "settings": _key(settings), "state": digest(state), "directions": along}
    payload = timed(store, prepared.costs, "gradient features", "features", key, compute)
    drop_shards(folder)
    if number == 0:
        notes.append(str(payload.meta["note"]))
    own = settings.heads == "exact" and not all(head.linear for head in prepared.structure.heads)
    extra = HEAD_DIRECTIONS if own else 0
    flops = feature_flops(workload, directions, prepared.costs.unit, str(payload.meta["mode"]), extra)
    prepared.costs.add("gradient features", flops)
    return _assemble(workload, payload, stretch(directions))


def by_secants(
    prepared: Prepared,
    number: int,
    base: Fit,
    ends: Sequence[Mapping[str, Tensor]],
    settings: GradTAE,
    notes: list[str],
) -> LinearBase:
    """The same with secants to the ends of the forks in place of gradients, see :mod:`coterie.affinity.secants`."""
    workload = prepared.workload

    def compute() -> Payload:
        tell = lambda stage, a, b: prepared.context.progress(f"{stage} (base {number + 1})", a, b)  # noqa: E731
        blocks = {
            part: compressed(secant_blocks(workload, base.state, ends, prepared.structure, part, tell), settings.dtype)
            for part in ("train", "validation")
        }
        check_heads(workload, [block.head.shape[1] for block in blocks["train"]], prepared.context.memory)
        sums = compute_statistics(blocks["train"], offset=settings.offset)
        arrays = {f"statistics/{name}": value for name, value in sums.to_tensors().items()}
        for part in ("train", "validation") if settings.fit == "converged" else ("validation",):
            arrays.update({f"{part}/{name}": value for name, value in pack_blocks(blocks[part]).items()})
        return Payload(dict(arrays))

    size = int(workload.observed.sum()) * (_bytes(settings) * len(ends) + 4 * 64)
    store = prepared.context.store if size <= KEEP_BYTES else NoStore()
    key = {
        "base": number,
        "settings": _key(settings),
        "state": digest(base.state),
        "ends": [digest(e) for e in ends],
    }
    payload = timed(store, prepared.costs, "secant features", "secants", key, compute)
    prepared.costs.add("secant features", secant_flops(workload, len(ends), prepared.costs.unit))
    if number == 0:
        notes.append(f"features: margins at the ends of {len(ends)} short single-task trainings, forward passes only")
    return _assemble(workload, payload, 1.0)


def _bytes(settings: GradTAE) -> int:
    return 4 if settings.dtype == "float32" else 2


def _key(settings: GradTAE) -> dict[str, Any]:
    """Settings as part of the key of a unit; what later versions added is left out, so that older units are found."""
    added = {"dtype": "float32", "c": settings.c, "intercept": False}  # c acts on the regression only
    return {name: value for name, value in settings.to_dict().items() if added.get(name) != value}


def _assemble(workload: Workload, payload: Payload, stretch: float) -> LinearBase:
    tensors = {name: torch.as_tensor(value).to(workload.labels.device) for name, value in payload.arrays.items()}
    losses = [task.loss for task in workload.tasks]
    return LinearBase(
        Statistics.from_tensors(under(tensors, "statistics/")),
        unpack_blocks(losses, under(tensors, "train/")),
        unpack_blocks(losses, under(tensors, "validation/")),
        stretch,
    )


def check_heads(workload: Workload, widths: Sequence[int], memory: int) -> None:
    """Refuse head blocks that do not fit: (q x q) sums and (labels x q) gradients of each task."""
    labels = [int(workload.observed[:, task].sum()) for task in range(workload.n_tasks)]
    need = sum(16 * q * q + 4 * n * q for q, n in zip(widths, labels, strict=True))
    if need > max(memory, 2**28):
        worst = max(range(workload.n_tasks), key=lambda task: widths[task])
        raise ResourceError(
            f"The heads need {need / 2**30:.1f} GiB, more than `memory` allows ({memory / 2**30:.1f} GiB). Task "
            f"{workload.task_names[worst]!r} has {widths[worst]} head features (classes x last width). Give "
            "more `memory`, or estimate with directions='random', heads='projected'."
        )


def feature_flops(workload: Workload, directions: Directions, unit: UnitCost, mode: str, extra: int = 0) -> float:
    """FLOPs of the features of both parts; `extra` directions are those of heads that are not linear."""
    rows = torch.cat([workload.split.train, workload.split.validation])
    if mode == "forward":
        return len(rows) * (unit.forward + (directions.count + extra) * (unit.jvp - unit.forward))
    labels = int(workload.observed[rows].sum())
    return labels * (unit.training + 2 * directions.size * directions.count)


def stretch(directions: Directions) -> float:
    """Norm of ``P u`` for ``|u| = 1``: 1 for orthonormal directions, about sqrt(p / d) for signs / sqrt(d)."""
    if isinstance(directions, RandomDirections):
        return (directions.size / directions.count) ** 0.5
    return 1.0


def with_constant(block: TaskBlock) -> TaskBlock:
    """The block with a last column that is the same everywhere, whose coefficient is an intercept over CONSTANT."""
    column = block.g.new_full((block.rows, 1), CONSTANT)
    scale = None if block.scale is None else torch.cat([block.scale, block.scale.new_ones(1)])
    return replace(block, g=torch.cat([block.g, column], 1), scale=scale)


def task_blocks(workload: Workload, features: PartFeatures) -> tuple[TaskBlock, ...]:
    """One block a task from the features of a part."""
    blocks = []
    for index, task in enumerate(workload.tasks):
        own, trunk, device = features.pairs_of(index), features.stored(index), features.offset.device
        scale = None if trunk.scale is None else trunk.scale.to(device)
        rest = (features.head(index), features.offset[own], features.targets[own])
        blocks.append(TaskBlock(trunk.stored.to(device), *rest, task.loss, scale))
    return tuple(blocks)
