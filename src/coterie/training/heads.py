"""Parameters that only tasks outside the subset use stay where they started.

They get no gradient, but weight decay would still pull at them, and it would do so differently for heads that are
modules (no gradient at all) and for rows of one fused head (a gradient of 0). As they cannot influence the losses of
the subset, it is enough to put their start values back into the state that is kept: training costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from coterie.training.job import State
from coterie.training.stream import derive
from coterie.workload.workload import Workload

_PROBE_ROWS = 32
_CACHE: WeakKeyDictionary[Workload, Reach] = WeakKeyDictionary()


class Reach:
    """Which slices of which parameters influence which task.

    Found once a workload from the gradients of each task's outputs at randomly moved parameters (one backward pass a
    task); moved, so that heads which start at 0 are seen.

    Args:
        slices: parameter name -> for each of its dimensions a (tasks, size) array: whether the slice reaches the task.
    """

    def __init__(self, slices: dict[str, list[np.ndarray]]) -> None:
        self._slices = slices

    def unused(self, subset: Sequence[int]) -> dict[str, tuple[int, np.ndarray]]:
        """Parameter name -> (dimension, positions) that reach tasks outside the subset and none inside."""
        found: dict[str, tuple[int, np.ndarray]] = {}
        inside = np.zeros(len(next(iter(self._slices.values()))[0]), bool)
        inside[list(subset)] = True
        for name, dimensions in self._slices.items():
            for dimension, reached in enumerate(dimensions):
                if not reached[inside].any() and reached.any():
                    found[name] = (dimension, np.arange(reached.shape[1]))
                    break
                positions = np.flatnonzero(~reached[inside].any(0) & reached[~inside].any(0))
                if len(positions):
                    found[name] = (dimension, positions)
                    break
        return found


def put_back(workload: Workload, subset: Sequence[int], state: State, start: State) -> None:
    """Set the parameters in `state` that serve only tasks outside the subset to their values in `start`, in place."""
    if workload.recipe.weight_decay == 0 or len(subset) == workload.n_tasks:
        return  # without decay a gradient of 0 moves nothing
    for name, (dimension, positions) in find_reach(workload).unused(subset).items():
        if name in state:
            index = torch.from_numpy(positions).to(state[name].device)
            state[name].index_copy_(dimension, index, start[name].index_select(dimension, index))


def find_reach(workload: Workload) -> Reach:
    """The workload's :class:`Reach`, remembered."""
    if workload not in _CACHE:
        _CACHE[workload] = _measure(workload)
    return _CACHE[workload]


def _measure(workload: Workload) -> Reach:
    train = workload.split.train
    rows = train[torch.linspace(0, len(train) - 1, min(_PROBE_ROWS, len(train))).long().to(train.device)]
    generator = torch.Generator().manual_seed(derive(0, 1))
    devices = [workload.labels.device] if workload.labels.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model = workload.build_model(0).to(workload.labels.device).train()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for parameter in named.values():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(noise * (0.1 * float(parameter.square().mean().sqrt()) + 0.01))
        outputs = workload.outputs(model, workload.batch(rows))
        weights = torch.randn(outputs.shape, generator=generator).to(outputs)
    slices: dict[str, list[np.ndarray]] = {
        name: [np.zeros((workload.n_tasks, size), bool) for size in p.shape] for name, p in named.items() if p.dim()
    }
    for task, columns in enumerate(workload.columns):
        value = (outputs[:, columns] * weights[:, columns]).sum()
        if not value.requires_grad:
            continue
        gradients = cast(
            "tuple[Tensor | None, ...]",
            torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True),
        )
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None and name in slices:
                _note(slices[name], task, gradient)
    return Reach(slices)


def _note(dimensions: list[np.ndarray], task: int, gradient: Tensor) -> None:
    nonzero = gradient != 0
    for dimension, reached in enumerate(dimensions):
        others = [other for other in range(gradient.dim()) if other != dimension]
        reached[task] = (nonzero.any(others) if others else nonzero).cpu().numpy()
