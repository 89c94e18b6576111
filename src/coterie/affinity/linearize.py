"""Linearise one base model: features, statistics, and what the values need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coterie._units import NoStore, Payload
from coterie.affinity.context import Context
from coterie.affinity.costs import timed
from coterie.affinity.linear import LinearBase
from coterie.affinity.statistics import Statistics, TaskBlock, compute_statistics
from coterie.features import Directions, PartFeatures, RandomDirections, compute_features
from coterie.training import UnitCost
from coterie.workload import Workload

if TYPE_CHECKING:
    from coterie.affinity.grad_tae import GradTAE

#: features beyond this many bytes are computed again after a kill instead of being kept
KEEP_BYTES = 2**29


def linearize(
    context: Context,
    number: int,
    state: Mapping[str, Tensor],
    directions: Directions,
    settings: GradTAE,
    notes: list[str],
) -> LinearBase:
    """Features of the training and validation part around one base, reduced to what the regression needs.

    Cost: about 2 d forward passes over both parts in forward mode; see the note that the planner leaves.
    """
    workload = context.workload
    parts: dict[str, PartFeatures] = {}

    def compute() -> Payload:
        model = workload.build_model(context.seed).to(workload.labels.device)
        model.load_state_dict(dict(state))
        for part in ("train", "validation"):
            parts[part] = compute_features(
                workload, model, directions, structure=context.structure, part=part, heads=settings.heads,
                memory=context.memory, progress=lambda _, a, b: context.progress(f"features of base {number + 1}", a,
                b),
            )  # fmt: skip
        blocks = {part: task_blocks(workload, features) for part, features in parts.items()}
        statistics = compute_statistics(blocks["train"], offset=settings.offset)
        arrays = {f"statistics/{name}": value for name, value in statistics.to_tensors().items()}
        keep = ("train", "validation") if number == 0 or settings.fit == "converged" else ("validation",)
        for part in keep:
            arrays.update({f"{part}/{name}": value for name, value in _pack(blocks[part]).items()})
        plan = parts["train"].plan
        note = f"features: {plan.mode} mode, d = {directions.count}. {plan.reason}"
        return Payload(dict(arrays), {"note": note, "mode": plan.mode})

    size = 4 * int(workload.observed.sum()) * (directions.count + 64)
    store = context.store if size <= KEEP_BYTES else NoStore()
    key = {"base": number, "directions": directions.count}
    payload = timed(store, context.costs, "gradient features", "features", key, compute)
    if number == 0:
        notes.append(str(payload.meta["note"]))
    context.costs.add(
        "gradient features", feature_flops(workload, directions, context.costs.unit, payload.meta["mode"])
    )
    tensors = {name: torch.as_tensor(value).to(workload.labels.device) for name, value in payload.arrays.items()}
    return LinearBase(
        Statistics.from_tensors(_under(tensors, "statistics/")),
        _unpack(workload, _under(tensors, "train/")),
        _unpack(workload, _under(tensors, "validation/")),
        stretch(directions),
    )


def feature_flops(workload: Workload, directions: Directions, unit: UnitCost, mode: str) -> float:
    """FLOPs of the features of the training and validation part."""
    rows = torch.cat([workload.split.train, workload.split.validation])
    if mode == "forward":
        return len(rows) * (unit.forward + directions.count * (unit.jvp - unit.forward))
    labels = int(workload.observed[rows].sum())
    return labels * (unit.training + 2 * directions.size * directions.count)


def stretch(directions: Directions) -> float:
    """Norm of ``P u`` for ``|u| = 1``: 1 for orthonormal directions, about sqrt(p / d) for signs / sqrt(d)."""
    if isinstance(directions, RandomDirections):
        return (directions.size / directions.count) ** 0.5
    return 1.0


def task_blocks(workload: Workload, features: PartFeatures) -> tuple[TaskBlock, ...]:
    """One block a task from the features of a part."""
    blocks = []
    for index, task in enumerate(workload.tasks):
        own = features.task(index)
        blocks.append(TaskBlock(own.g, own.head, own.offset, own.targets, task.loss))
    return tuple(blocks)


def _pack(blocks: Sequence[TaskBlock]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index, block in enumerate(blocks):
        for name in ("g", "head", "offset", "targets"):
            tensors[f"{index}/{name}"] = getattr(block, name)
    return tensors


def _unpack(workload: Workload, tensors: Mapping[str, Tensor]) -> tuple[TaskBlock, ...]:
    if not tensors:
        return ()
    return tuple(
        TaskBlock(
            *(tensors[f"{index}/{name}"] for name in ("g", "head", "offset", "targets")),
            loss=task.loss,
        )
        for index, task in enumerate(workload.tasks)
    )


def _under(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
