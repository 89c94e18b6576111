"""Whether a workload's models can be trained as a population: by one real try."""

from __future__ import annotations

from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coterie._random import random_numbers, seed_numbers
from coterie.errors import CoterieError, ModelError
from coterie.training.job import Job
from coterie.training.stack import Architecture, Values
from coterie.workload.kept import check_kept, numbers_of
from coterie.workload.workload import Batch, Workload

_CACHE: WeakKeyDictionary[Workload, tuple[bool, str]] = WeakKeyDictionary()
_ROWS = 6


def is_stackable(workload: Workload) -> tuple[bool, str]:
    """Whether population training gives what the plain loop gives, and why not.

    Found by trying it on a few rows: a model with dropout or other randomness in training, with statistics that change
    in training (BatchNorm), with rows that influence each other, or with an operation that vmap cannot stack is not
    stackable. Remembered for each workload.

    Returns:
        (True, "") or (False, the reason).
    """
    if workload not in _CACHE:
        device = workload.labels.device
        with random_numbers(device):
            reason = _reason(workload)
        _CACHE[workload] = (not reason, reason)
    return _CACHE[workload]


def _reason(workload: Workload) -> str:
    train = workload.split.train
    batch = workload.batch(train[torch.arange(_ROWS, device=train.device) % len(train)])
    model = workload.build_model(0).to(workload.labels.device).train()
    return _reason_of_modules(model) or _reason_of_passes(workload, model, batch) or _reason_of_vmap(workload, batch)


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
                if not _member_agrees(workload, seed, batch, outputs[seed], evaluated[seed], values):
                    return "vmap over stacked parameters gives other outputs or gradients than one model alone"
    except CoterieError:
        raise
    except Exception as error:
        return f"vmap over stacked parameters fails with {_first_line(error)}"
    return ""


def _member_agrees(
    workload: Workload, seed: int, batch: Batch, outputs: Tensor, evaluated: Tensor, values: Values
) -> bool:
    model = workload.build_model(seed).to(workload.labels.device)
    with torch.no_grad():
        alone_evaluated = workload.outputs(model.eval(), batch)
    alone = workload.outputs(model.train(), batch)
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    weights = torch.linspace(0.5, 1.5, alone.numel(), device=alone.device, dtype=alone.dtype).view_as(alone)
    stacked = [values.trained[name] for name in named]
    expected = _gradients((alone * weights).sum(), list(named.values()))
    found = _gradients((outputs * weights).sum(), stacked)
    if not (_close(outputs, alone) and _close(evaluated, alone_evaluated)):
        return False
    # one scale for all: gradients that are 0 but for rounding (the bias of an attention's keys) have none of their own
    scale = max((float(b.abs().max()) for b in expected if b is not None), default=0.0)
    pairs = zip(found, expected, strict=True)
    return all((a is None) == (b is None) and (a is None or b is None or _close(a[seed], b, scale)) for a, b in pairs)


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
