"""Whether, and how, many models of a workload are trained at once: found by trying it on a few rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coterie._random import random_numbers, seed_numbers
from coterie.errors import CoterieError, ModelError
from coterie.training.evaluate import Footprint, load_state, measure_footprint
from coterie.training.job import Job, derive
from coterie.training.optimizer import reason_of_recipe
from coterie.training.shared_base import SharedBase, rows_are_texts
from coterie.training.stack import Architecture, Values
from coterie.workload.initial import check_kept, numbers_of
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.workload import Batch, Workload


@dataclass(frozen=True)
class Way:
    """How many models of a workload are trained at once.

    Attributes:
        reason: why they are not; empty where they are.
        shared: in one pass of the frozen transformer that they share; else as stacked tensors.
        cut: whether what lies below the lowest adapter is taken once and kept.
    """

    reason: str = ""
    shared: bool = False
    cut: bool = False


_CACHE: WeakKeyDictionary[Workload, Way] = WeakKeyDictionary()
_FOOTPRINTS: WeakKeyDictionary[Workload, dict[int, Footprint]] = WeakKeyDictionary()
_ROWS = 6


def is_stackable(workload: Workload) -> tuple[bool, str]:
    """Whether population training gives what the plain loop gives, and why not.

    A recipe may need the plain loop (:func:`coterie.training.optimizer.reason_of_recipe`). The rest is found by trying
    it on a few rows: a model with dropout or other randomness in training, with statistics that change
    in training (BatchNorm), with rows that influence each other, or with an operation that vmap cannot stack is not
    stackable. Adapters on a frozen transformer go through it together, without vmap. Remembered for each workload.

    Returns:
        (True, "") or (False, the reason).
    """
    way = way_of(workload)
    return not way.reason, way.reason


def way_of(workload: Workload) -> Way:
    """How it is done; see :func:`is_stackable`."""
    if workload not in _CACHE:
        with random_numbers(workload.labels.device):
            _CACHE[workload] = _way(workload)
    return _CACHE[workload]


def architecture_of(workload: Workload, memory: int) -> Architecture:
    """What runs all members of a population at once, within a number of bytes."""
    if rows_are_texts(workload) and way_of(workload).shared:
        return SharedBase(workload, cut=way_of(workload).cut, memory=memory)
    return Architecture(workload)


def population_footprint(workload: Workload, memory: int = 2**30) -> Footprint:
    """What a member of a population takes, where all may take so many bytes.

    Raises:
        ResourceError: when what all members share does not fit.
    """
    if not rows_are_texts(workload) or not way_of(workload).shared:
        return measure_footprint(workload)
    known = _FOOTPRINTS.setdefault(workload, {})
    if memory not in known:
        known[memory] = SharedBase(workload, cut=way_of(workload).cut, memory=memory).footprint()
    return known[memory]


def _way(workload: Workload) -> Way:
    train = workload.split.train
    batch = workload.batch(train[torch.arange(_ROWS, device=train.device) % len(train)])
    model = workload.build_model(0).to(workload.labels.device).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(workload.inputs, LazyInputs) and workload.inputs.random:
        return Way("rows are augmented anew at each step of each training")
    reason = reason_of_recipe(workload.recipe, trained) or _reason_of_modules(model)
    reason = reason or _reason_of_passes(workload, model, batch)
    if reason:
        return Way(reason)
    if not rows_are_texts(workload):
        return Way(_reason_of_vmap(workload, batch))
    for cut in (True, False):
        reason = _reason_of_shared_base(workload, cut)
        if not reason:
            return Way(shared=True, cut=cut)
    return Way(reason)


def _reason_of_modules(model: nn.Module) -> str:
    for name, module in model.named_modules():
        label = f"{type(module).__name__} ({name or 'the model itself'})"
        if isinstance(module, nn.modules.batchnorm._NormBase) and (module.track_running_stats or _mixes_rows(module)):
            return f"{label} keeps or uses statistics of the batch in training"
        rate = getattr(module, "p", getattr(module, "dropout", 0.0))
        random = isinstance(module, nn.modules.dropout._DropoutNd | nn.RNNBase | nn.MultiheadAttention)
        if random and isinstance(rate, float) and rate > 0:
            return f"{label} is random in training"
    return ""


def _mixes_rows(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _reason_of_passes(workload: Workload, model: nn.Module, batch: Batch) -> str:
    """Randomness, changing buffers and rows that influence each other, in modules that no list knows."""
    before, numbers = {name: value.clone() for name, value in model.named_buffers()}, numbers_of(model)
    results: list[Tensor] = []
    try:
        with torch.no_grad():
            for seed in (0, 1):
                seed_numbers(seed, workload.labels.device)
                results.append(workload.outputs(model, batch))
            half = workload.outputs(model, _head(batch, _ROWS // 2))
    except CoterieError:
        raise
    except Exception as error:
        return f"a pass over {_ROWS} rows fails with {_first_line(error)}"
    for name, value in model.named_buffers():
        if not torch.equal(value, before[name]):
            return f"the buffer {name!r} changes in training"
    for name, value in numbers_of(model).items():
        if value != numbers.get(name, value) and value == value:  # NaN is never itself
            return f"the attribute {name!r} changes in training"
    try:
        check_kept(workload, model, "after passes in training mode")
    except ModelError:
        return "what a pass in training mode changes is no part of the state_dict"
    if not torch.equal(results[0], results[1]):
        return "two training passes over the same rows differ (dropout or other randomness)"
    if not _close(half, results[0][: _ROWS // 2]):
        return "the outputs of a row depend on the other rows of the batch"
    return ""


def _reason_of_vmap(workload: Workload, batch: Batch) -> str:
    try:
        architecture = Architecture(workload)
        values = architecture.stack([Job((0,), 0), Job((0,), 1)])
        for shared in (True, False):
            stacked = batch if shared else _twice(batch)
            architecture.train(False)
            with torch.no_grad():
                evaluated = architecture.outputs(values, stacked, shared=shared)
            architecture.train(True)
            outputs = architecture.outputs(values, stacked, shared=shared)
            for seed in (0, 1):
                alone = workload.build_model(seed).to(workload.labels.device)
                if not _member_agrees(workload, alone, seed, batch, (outputs[seed], evaluated[seed]), values):
                    return "vmap over stacked parameters gives other outputs or gradients than one model alone"
    except CoterieError:
        raise
    except Exception as error:
        return f"vmap over stacked parameters fails with {_first_line(error)}"
    return ""


def _reason_of_shared_base(workload: Workload, cut: bool) -> str:
    """Two models at some point away from their start, where adapters have effects, with rows of their own."""
    train, generator = workload.split.train, torch.Generator().manual_seed(derive(0, 4))
    some = torch.linspace(0, len(train) - 1, 2 * _ROWS).long()
    rows = train[some.to(train.device)].view(2, _ROWS)
    try:
        architecture = SharedBase(workload, cut=cut)
        values = architecture.stack([Job((0,), 0), Job((0,), 1)])
        with torch.no_grad():
            for value in values.trained.values():
                value.add_(0.05 * torch.randn(value.shape, generator=generator).to(value))
        wanted = torch.ones(2, _ROWS, 1, dtype=torch.bool, device=rows.device)
        with torch.no_grad():
            evaluated = architecture.of_rows(values, rows, wanted)
        outputs = architecture.of_rows(values, rows, wanted)
        for member in (0, 1):
            alone, batch = workload.build_model(member).to(workload.labels.device), workload.batch(rows[member])
            load_state(alone, architecture.state(values.member(member)))
            if not _member_agrees(workload, alone, member, batch, (outputs[member], evaluated[member]), values):
                return "one pass of the transformer for all models gives other outputs or gradients than a model alone"
    except CoterieError:
        raise
    except Exception as error:
        return f"one pass of the transformer for all models fails with {_first_line(error)}"
    return ""


def _member_agrees(
    workload: Workload, alone: nn.Module, member: int, batch: Batch, found: tuple[Tensor, Tensor], values: Values
) -> bool:
    """Whether a model alone has the outputs, in training and evaluation, and gradients that the member has."""
    outputs, evaluated = found
    with torch.no_grad():
        plain_evaluated = workload.outputs(alone.eval(), batch)
    plain = workload.outputs(alone.train(), batch)
    named = {name: value for name, value in alone.named_parameters() if value.requires_grad}
    weights = torch.linspace(0.5, 1.5, plain.numel(), device=plain.device, dtype=plain.dtype).view_as(plain)
    stacked = [values.trained[name] for name in named]
    expected = _gradients((plain * weights).sum(), list(named.values()))
    given = _gradients((outputs * weights).sum(), stacked)
    if not (_close(outputs, plain) and _close(evaluated, plain_evaluated)):
        return False
    # one scale for all: gradients that are 0 but for rounding (the bias of an attention's keys) have none of their own
    scale = max((float(b.abs().max()) for b in expected if b is not None), default=0.0)
    pairs = zip(given, expected, strict=True)
    return all((a is None) == (b is None) and (a is None or b is None or _close(a[member], b, scale)) for a, b in pairs)


def _gradients(value: Tensor, parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not parameters:
        return ()
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return cast("tuple[Tensor | None, ...]", found)


def _close(a: Tensor, b: Tensor, scale: float | None = None) -> bool:
    a, b = a.detach(), b.detach()
    scale = float(b.abs().max()) if scale is None else scale
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * scale + 1e-7))


def _head(batch: Batch, rows: int) -> Batch:
    return {name: value[:rows] for name, value in batch.items()} if isinstance(batch, dict) else batch[:rows]


def _twice(batch: Batch) -> Batch:
    if isinstance(batch, dict):
        return {name: torch.stack([value, value]) for name, value in batch.items()}
    return torch.stack([batch, batch])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line[:160]}"
