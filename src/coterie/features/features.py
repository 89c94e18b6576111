"""Projected gradients of the margins: the entry that plans, chooses, falls back and computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from coterie._check import choice, whole_number
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._files import user_path
from coterie._progress import Progress
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.features import forward, reverse
from coterie.features.directions import Directions, RandomDirections
from coterie.features.heads import HeadCapture
from coterie.features.hooked import Hooks
from coterie.features.layers import HooksUnsupportedError
from coterie.features.part import PartFeatures
from coterie.features.plan import MODES, FeaturePlan, demand, differentiable, make_plan
from coterie.features.probe import choose_backend, warn_fallback
from coterie.features.program import MarginProgram
from coterie.features.storage import STORED, FeatureWriter, Pairs, labelled_pairs, stored_type
from coterie.workload.structure import Structure, find_structure
from coterie.workload.workload import Workload

HEADS = ("exact", "projected", "none")
PARTS = ("train", "validation", "test")
#: what the plan says of the way that the model supports
WAYS = {
    ("forward", "stacked"): "The directions of a chunk go through the model together.",
    ("forward", "one by one"): "Directions go through the model one by one.",
    ("reverse", "hooks"): "Hooks on the layers give the gradients of a chunk in one backward pass.",
    ("reverse", "stacked"): "The gradients of a chunk are taken together (vmap).",
    ("reverse", "one by one"): "Gradients are taken one by one.",
}


@known_arguments
@dataclass(frozen=True)
class FeatureOptions:
    """How features are computed and stored.

    Args:
        heads: ``"exact"`` keeps each task's head gradient apart: exactly for linear heads, along `head_directions`
            random directions for others; ``"projected"`` treats heads like any parameter (as published); ``"none"``
            leaves them out.
        mode: ``"auto"`` (the cheaper), ``"forward"`` or ``"reverse"``.
        head_directions: directions for heads that are not linear.
        spill: a new file (or a folder) for features that do not fit the memory: a mapped safetensors file.
        dtype: how features are stored: ``"float32"`` (double for double models), ``"float16"`` (half the bytes, each
            number to 0.05 %, columns scaled so that nothing overflows) or ``"bfloat16"`` (half the bytes, to 0.4 %).
            They are computed and read in full precision whatever it is.

    Raises:
        SettingError: for a value that there is not.
    """

    heads: str = "exact"
    mode: str = "auto"
    head_directions: int = 32
    spill: Path | str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        choice(self.heads, "heads", HEADS)
        choice(self.mode, "mode", MODES)
        choice(self.dtype, "dtype", tuple(STORED))
        whole_number(self.head_directions, "head_directions", low=1)


#: the cheaper mode, exact heads, in full precision and in memory
DEFAULT_OPTIONS = FeatureOptions()


@keywords_into(options=FeatureOptions, context=Context)
@known_arguments
def compute_features(
    workload: Workload,
    model: nn.Module,
    directions: Directions,
    options: FeatureOptions = DEFAULT_OPTIONS,
    context: Context = DEFAULT_CONTEXT,
    *,
    structure: Structure | None = None,
    part: str = "train",
) -> PartFeatures:
    """Projected gradients ``P^T grad h`` of the margins of all labelled (example, task) pairs of a part.

    Forward mode takes one directional derivative a direction, which has the value for every task of every example;
    reverse mode takes the gradient of every label and projects it. Both give the same numbers up to rounding. The model
    is put in evaluation mode meanwhile and is left as it was found, but for buffers that its own forward pass changes
    even then.

    Reverse mode works by hooks on the layers where it can (see :mod:`coterie.features.hooked`): every parameter belongs
    to a layer that takes one tensor and returns one, and three rows give the same gradients together as alone, as does
    one pair of every chunk. Else the gradients of a chunk are taken under vmap, or one by one; the plan says which.

    Args:
        workload: tasks and data.
        model: the module to differentiate.
        directions: the columns of P, over trunk parameters (heads "exact" and "none") or any (heads "projected").
        options: heads, mode and storage.
        context: memory, which features and working memory share, and progress, told of the stage "features"; nothing
            else of it is used.
        structure: trunk and heads; found when None.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        SettingError: an unknown part, or directions that do not fit the model.
        WorkloadError: no labelled row; no shared parameter.
        ModelError: the model cannot be differentiated, or gives gradients that are not finite.
        ResourceError: it does not fit the memory.

    Warns:
        ModelModeWarning: BatchNorm or active dropout was put in evaluation mode.
        FallbackWarning: a module does not support the fast path.

    Cost:
        Forward mode about 2 d forward passes over the rows; reverse mode about 3 passes a label and the projection.
        Never holds a (parameters x d) or (labels x parameters) matrix; by hooks, no more than one parameter's gradients
        and directions at a time.

    Source:
        Grad-TAE (arXiv 2409.06091), features of the linearised model; forward mode is this library's own.

    Example:
        >>> import torch
        >>> from coterie.workload import Split, Task
        >>> n = torch.arange(6)
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> tasks, x, y = (Task("a"), Task("b")), torch.randn(6, 3), torch.ones(6, 2)
        >>> work = Workload("w", tasks, x, y, Split(n, n, n), lambda seed: net)
        >>> directions = RandomDirections.of(net, count=5, seed=0, names=("0.weight", "0.bias"))
        >>> features = compute_features(work, net, directions)
        >>> features.task(1).g.shape, features.task(1).head.shape
        (torch.Size([6, 5]), torch.Size([6, 5]))
    """
    choice(part, "part", PARTS)
    pairs = labelled_pairs(workload, part)
    if options.heads == "projected":
        structure = None
    elif structure is None:
        structure = find_structure(workload, model)
    _check_directions(model, directions, structure)
    own = own_directions(model, directions, structure, options)
    every = [directions] if own is None else [directions, own]
    with differentiable(model):
        runs = [_MovedPart(MarginProgram(workload, model, each.names), each) for each in every]
        program = MarginProgram(workload, model, [name for each in every for name in each.names])
        stored, report = stored_type(options.dtype, program.dtype), context.progress
        ask = _Request(program, runs, pairs, options, context.memory)
        hooks = Hooks(program)
        plan = _plan(ask, hooks)
        capture = HeadCapture(workload, model, structure if options.heads == "exact" else None, pairs, program.dtype)
        file = _spill_file(options.spill, part) if plan.spill and options.spill is not None else None
        writers = [FeatureWriter(pairs, directions.count, program.dtype, file, stored)]
        if own is not None:
            writers.append(FeatureWriter(pairs, own.count, program.dtype))
        try:
            _compute(program, runs, writers, pairs, plan, report, capture, hooks)
        except HooksUnsupportedError:  # in a later batch, what the trial could not see: all again in another way
            plan = replace(_plan(ask, None), spill=plan.spill)
            _compute(program, runs, writers, pairs, plan, report, capture, hooks)
    margins, head = capture.result()
    if own is not None:
        head = replace(head, projected=writers[1].features, directions=own)
    return PartFeatures(
        part=part,
        tasks=workload.task_names,
        starts=pairs.starts,
        rows=pairs.rows[pairs.local],
        local=pairs.local,
        offset=margins[pairs.local, pairs.task],
        targets=workload.targets[pairs.rows][pairs.local, pairs.task].to(program.dtype),
        matrix=writers[0].finish(),
        heads=options.heads,
        head_features=head,
        structure=structure,
        plan=plan,
    )


@dataclass(frozen=True)
class _MovedPart:
    """Directions, with a program over the parameters that they move."""

    program: MarginProgram
    directions: Directions


@dataclass(frozen=True, eq=False)
class _Request:
    """What is to be computed, and within which bounds."""

    program: MarginProgram
    runs: Sequence[_MovedPart]
    pairs: Pairs
    options: FeatureOptions
    memory: int


def _compute(
    program: MarginProgram,
    runs: Sequence[_MovedPart],
    writers: Sequence[FeatureWriter],
    pairs: Pairs,
    plan: FeaturePlan,
    progress: Progress,
    capture: HeadCapture,
    hooks: Hooks,
) -> None:
    jobs = [(run.directions, writer) for run, writer in zip(runs, writers, strict=True)]
    if plan.way == "hooks":  # its passes are ordinary ones, which serve the heads too
        hooks.compute(jobs, pairs, plan, progress, capture)
        return
    capture.run()
    if plan.mode == "reverse":
        reverse.compute(program, jobs, pairs, plan, progress)
        return
    for run, writer in zip(runs, writers, strict=True):
        forward.compute(run.program, run.directions, pairs, writer, plan, progress)


def _plan(ask: _Request, hooks: Hooks | None) -> FeaturePlan:
    """Plan, try the plan on two rows, and plan again when the model does not support it."""
    program, runs, mode = ask.program, ask.runs, ask.options.mode
    size = sum(run.directions.size for run in runs)
    count = sum(run.directions.count for run in runs)
    largest = max(value.numel() for value in program.parameters.values())
    item, first = program.dtype.itemsize, runs[0].directions.count
    each = first * stored_type(ask.options.dtype, program.dtype).itemsize + (count - first) * item
    need = demand(program.workload, program.model, ask.pairs, size, count, item, largest, each)
    room: dict[str, Any] = {"memory": ask.memory, "spill": ask.options.spill is not None}
    # hooks need the least memory: what does not fit with them is refused before anything is tried
    mode_first = make_plan(need, mode=mode, way="hooks", **room).mode
    jobs = [(run.program, run.directions) for run in runs]
    backend, problem = choose_backend(program, jobs, ask.pairs, mode_first, hooks=hooks)
    because = ""
    if problem is not None:
        warn_fallback(mode_first, backend, problem)
        if backend.mode != mode_first:
            because, mode = f"Forward mode is not supported by {problem}; so ", backend.mode
    plan = make_plan(need, mode=mode, because=because, way=backend.way, **room)
    return replace(plan, reason=f"{plan.reason} {WAYS[backend.mode, backend.way]}")


def own_directions(
    model: nn.Module, directions: Directions, structure: Structure | None, options: FeatureOptions
) -> RandomDirections | None:
    """Directions for the heads that are not linear, all tasks at once, since no two heads share a number."""
    heads = structure.heads if structure is not None and options.heads == "exact" else ()
    names = dict.fromkeys(name for head in heads if not head.linear for name, _ in head.parameters)
    seed = directions.seed if isinstance(directions, RandomDirections) else 0
    return RandomDirections.of(model, options.head_directions, seed, tuple(names)) if names else None


def _check_directions(model: nn.Module, directions: Directions, structure: Structure | None) -> None:
    """The directions move parameters of the model, of the right shape, and of the trunk where heads are kept apart."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name, shape in directions.shapes.items():
        if name in shapes and shapes[name] != tuple(shape):
            raise SettingError(
                f"Parameter `directions`: direction of `{name}` has shape {tuple(shape)} ({prod(shape)} numbers), but "
                f"the parameter has shape {shapes[name]}. Were they made for another model?"
            )
    outside = [] if structure is None else [name for name in directions.names if name not in structure.trunk]
    if outside and all(name in shapes for name in outside):
        raise SettingError(
            f"Parameter `directions` moves {outside[:4]}, which the tasks do not share. With heads='exact' or 'none' "
            "only trunk parameters are projected: make directions with names=structure.trunk, or use heads='projected'."
        )


def _spill_file(spill: Path | str, part: str) -> Path:
    path = user_path(spill)
    return path if path.suffix == ".safetensors" else path / f"features-{part}.safetensors"
