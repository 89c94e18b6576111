"""Whether a model is what its ``state_dict`` says: all that is kept of it, and all that is served."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from coterie._random import random_numbers
from coterie.errors import ModelError
from coterie.workload.workload import Batch, Workload

#: rows that both models are asked for
_ROWS = 8
_MODULE = frozenset(vars(nn.Module()))
_WAY_OUT = (
    "Only the state_dict is kept, so what was trained would be lost: keep such numbers as parameters or with "
    "register_buffer(name, tensor), which makes them persistent unless told otherwise; make what depends on the seed a "
    "buffer as well; return tensors from get_extra_state."
)


@torch.no_grad()
def check_kept(workload: Workload, model: nn.Module, what: str) -> None:
    """Put the tensors of a model's ``state_dict`` into a fresh one and compare the outputs of both in evaluation mode.

    Args:
        workload: builds the fresh model, from seed 0, as serving does.
        model: the model; left in its mode.
        what: what was done to it, for the message.

    Raises:
        ModelError: when the outputs for a few training rows differ; names what differs beside the state.

    Cost: one building and two forward passes over eight rows.
    """
    fresh = workload.build_model(0).to(workload.labels.device)
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}, strict=False)
    batch = workload.batch(workload.split.train[:_ROWS])
    modes = [(module, module.training) for module in model.modules()]
    try:
        found, expected = (_outputs(workload, each.eval(), batch) for each in (fresh, model))
    finally:
        for module, mode in modes:
            module.training = mode
    size = float(expected.abs().max())
    if torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * size + 1e-6, equal_nan=True):
        return
    names = _differences(model, fresh)
    raise ModelError(
        f"The model ({type(model).__name__}) keeps something outside of its state_dict: {what}, it returns "
        f"other outputs (by up to {float((found - expected).abs().max()):.2g}) than a fresh model with the same "
        f"state_dict. {_named(names)}{_WAY_OUT}"
    )


def _outputs(workload: Workload, model: nn.Module, batch: Batch) -> Tensor:
    """With the same random numbers for each model: one that draws some in evaluation mode differs from itself."""
    with random_numbers(workload.labels.device, seed=0):
        return workload.outputs(model, batch)


def _named(names: list[str]) -> str:
    if not names:
        return ""
    return f"What differs is {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}. "


def _differences(model: nn.Module, fresh: nn.Module) -> list[str]:
    """Attributes, buffers that are not persistent, and extra states in which two models differ."""
    kept, names = model.state_dict(), list[str]()
    modules = dict(fresh.named_modules())
    for path, module in model.named_modules():
        other, prefix = modules.get(path), f"{path}." if path else ""
        if other is None:
            continue
        for sort, own, theirs in (
            ("buffer", module._buffers, other._buffers),  # pyright: ignore[reportPrivateUsage]
            ("attribute", vars(module), vars(other)),
        ):
            for name, value in own.items():
                inside = name in _MODULE if sort == "attribute" else f"{prefix}{name}" in kept
                if not inside and not _same(value, theirs.get(name)):
                    names.append(f"the {sort} `{prefix}{name}`")
    return names + [f"the extra state `{name}`" for name, value in kept.items() if not isinstance(value, Tensor)]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and bool(torch.equal(first, second.to(first)))
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return bool(np.array_equal(cast("Any", first), cast("Any", second)))
    if isinstance(first, nn.Module) or callable(first):
        return True  # looked at by itself, or code
    try:
        return bool(first == second)
    except Exception:  # objects that cannot be compared say nothing
        return True


def numbers_of(model: nn.Module) -> dict[str, Any]:
    """Plain numbers among the attributes of a model's modules, by path: counters, schedules."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in _MODULE and isinstance(value, int | float)
    }
