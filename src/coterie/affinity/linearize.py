"""Base models, branches from them, and the linear models around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from coterie._progress import Progress
from coterie._units import SHARDS, NoStore, Payload, drop_shards, folder_of
from coterie.affinity.blocks import (
    Statistics,
    TaskBlock,
    compressed,
    compute_statistics,
    pack_blocks,
    under,
    unpack_blocks,
)
from coterie.affinity.costs import Prepared, digest, timed, training_flops
from coterie.affinity.linear import LinearBase
from coterie.errors import ResourceError
from coterie.features import FeatureOptions, RandomDirections
from coterie.features.directions import Directions, StackedDirections
from coterie.features.heads import HeadFeatures, capture
from coterie.features.part import PartFeatures
from coterie.features.shards import compute_shards
from coterie.features.storage import Pairs, labelled_pairs
from coterie.training.evaluate import load_state
from coterie.training.job import Fit, Job, pack_fits, unpack_fits
from coterie.training.units import FitUnit, UnitCost, fit_units
from coterie.workload import Workload
from coterie.workload.structure import Structure

if TYPE_CHECKING:
    from coterie.affinity.grad_tae import GradTAE


# A Jacobian-vector product along a task vector asks for the slope at the base. The margins at the end of that
# training are cheaper (one forward pass a task, for any network, differentiable or not) and hold the curvature on the
# way, too.

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
    """The same with secants to the ends of the forks in place of gradients, see :mod:`coterie.affinity.linearize`."""
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


def task_gradients(workload: Workload, state: Mapping[str, Tensor], trunk: Sequence[str]) -> Tensor:
    """(tasks, trunk parameters) gradients of each task's mean training loss, float64.

    Cost: one forward pass and one backward pass a task over the training rows.
    """
    model = workload.build_model(0).to(workload.labels.device).eval()
    model.load_state_dict(dict(state))
    named = dict(model.named_parameters())
    parameters = [named[name] for name in trunk]
    total = torch.zeros(workload.n_tasks, sum(p.numel() for p in parameters), dtype=torch.float64)
    counts = workload.observed[workload.split.train].sum(0).clamp_min(1)
    for rows in workload.split.train.split(_CHUNK):
        targets, seen = workload.targets[rows], workload.observed[rows]
        margins = workload.margins(workload.outputs(model, workload.batch(rows)), targets)
        losses = torch.where(seen, workload.losses(margins, targets), 0.0).sum(0) / counts
        for task in range(workload.n_tasks):
            last = task == workload.n_tasks - 1
            grads = torch.autograd.grad(losses[task], parameters, retain_graph=not last, materialize_grads=True)
            total[task] += torch.cat([g.reshape(-1) for g in grads]).double().cpu()
    return total


@dataclass(frozen=True, eq=False)
class Bases:
    """Base models around which Grad-TAE linearises.

    Attributes:
        fits: one a base, at its checkpoint.
        full: an ordinary early-stopped training with the first base's seed: where that base would have gone.
        share: share of the drop of the validation loss that was to be left.
    """

    fits: tuple[Fit, ...]
    full: Fit
    share: float


def train(prepared: Prepared, jobs: Sequence[Job], *, stage: str, name: str) -> list[Fit]:
    """Train jobs as one unit of the store and book their cost on a stage."""
    return train_all(prepared, [jobs], stage=stage, name=name)[0]


def train_all(prepared: Prepared, several: Sequence[Sequence[Job]], *, stage: str, name: str) -> list[list[Fit]]:
    """Train lists of jobs, each as one unit of the store, and book their cost on a stage."""
    workload, costs = prepared.workload, prepared.costs
    payloads = fit_units(
        workload, name, [FitUnit(_base_key(jobs), jobs) for jobs in several], pack_fits,
        prepared.context, stage=stage,
    )  # fmt: skip
    found: list[list[Fit]] = []
    for jobs, payload in zip(several, payloads, strict=True):
        fits = unpack_fits(jobs, payload)
        flops = sum(training_flops(workload, done, costs.unit) for done in fits)
        costs.add(stage, flops, float(payload.meta["seconds"]))
        found.append(fits)
    return found


def _base_key(jobs: Sequence[Job]) -> dict[str, object]:
    facts = ("subset", "seed", "order_seed", "max_steps", "stop_below", "early_stopping", "checks")
    starts = {id(job.start): digest(job.start) for job in jobs}
    return {"jobs": [[*(getattr(job, fact) for fact in facts), starts[id(job.start)]] for job in jobs]}


def train_full(prepared: Prepared) -> Fit:
    """An ordinary training on all tasks, to its early stop: it says how far the loss falls, and when."""
    (full,) = train(
        prepared, [Job(subset=prepared.everything, seed=prepared.context.seed)], stage="base models", name="full-base"
    )
    return full


def checkpoint(full: Fit, share: float) -> int:
    """Step of the first check at which at most a share of the drop of the validation loss is left; all for share 0."""
    if share == 0:
        return full.steps
    losses = np.array([loss for _, loss in full.history])
    target = losses.min() + share * (losses[0] - losses.min())
    return next(step for step, loss in full.history if loss <= target)


def train_bases(prepared: Prepared, count: int, share: float) -> Bases:
    """Train `count` base models on all tasks.

    The first is trained to its early stop once, to learn how far the loss falls. The first validation check at which at
    most `share` of that drop is left is the checkpoint; the other bases are trained for as many steps, and look at no
    validation data. ``share=0`` keeps the early-stopped models, as published.
    """
    seeds = range(prepared.context.seed, prepared.context.seed + count)
    if share == 0:
        jobs = [Job(subset=prepared.everything, seed=seed) for seed in seeds]
        fits = train(prepared, jobs, stage="base models", name="bases")
        return Bases(tuple(fits), fits[0], share)
    full = train_full(prepared)
    steps = checkpoint(full, share)
    jobs = [
        Job(subset=prepared.everything, seed=seed, max_steps=steps, early_stopping=False, checks=False)
        for seed in seeds
    ]
    return Bases(tuple(train(prepared, jobs, stage="base models", name="bases")), full, share)


#: directions that add less than this share of the longest to the span are dropped
DEPENDENT = 1e-4


def fork_jobs(base: Fit, steps: int, tasks: Sequence[int]) -> list[Job]:
    """One training a task from the base's parameters, of so many steps, the last state kept."""
    return [
        Job(
            subset=(task,),
            seed=base.job.seed,
            start=base.state,
            max_steps=max(1, steps),
            early_stopping=False,
            checks=False,
        )
        for task in tasks
    ]


def displacements(start: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]], trunk: Sequence[str]) -> Tensor:
    """(ends, trunk parameters) displacements of the trunk, float64."""
    return torch.stack([torch.cat([(end[n] - start[n]).reshape(-1).double() for n in trunk]) for end in ends])


def orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows that span the given rows (n, p); rows that depend on the others are dropped.

    Each row counts with unit length. Works on the n x n Gram matrix, so that p may be large.
    """
    lengths = rows.norm(dim=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    if not len(rows):
        return rows
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    keep = values > DEPENDENT**2 * values.max()
    return (vectors[:, keep] / values[keep].sqrt()).T @ rows


def stack(rows: Tensor, like: Mapping[str, Tensor], trunk: Sequence[str]) -> StackedDirections:
    """Directions from (d, trunk parameters) rows."""
    sizes = [like[name].numel() for name in trunk]
    parts = rows.split(sizes, dim=1)
    return StackedDirections(
        {
            name: part.reshape(len(rows), *like[name].shape).to(like[name].dtype)
            for name, part in zip(trunk, parts, strict=True)
        }
    )
