"""Parameters of other tasks stay where they started, as long as no gradient of a training reaches them.

Weight decay would still pull at them, and it would do so differently for heads that are modules (no gradient at all)
and for rows of one fused head (a gradient of 0). Only the decay is taken back, before anything is evaluated or kept,
and only where every gradient of this very training was exactly 0, so that nothing trained is ever undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from coterie._random import random_numbers
from coterie.training.job import derive
from coterie.workload.validate_model import dependents
from coterie.workload.workload import Batch, Workload

_PROBE_ROWS = 32
_CACHE: WeakKeyDictionary[Workload, list[Part]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Part:
    """Slices of a parameter that some tasks use and others do not.

    Attributes:
        name: of the parameter.
        dimension: along which it is cut.
        positions: of the slices.
        tasks: (tasks,) bool: which tasks use them.
    """

    name: str
    dimension: int
    positions: Tensor
    tasks: np.ndarray


class OtherHeads:
    """Watches the parameters of other tasks in a training, and takes back what decay alone did to them.

    Args:
        workload: of the training.
        subsets: of the members.
        parameters: what the optimiser trains, by name.
        optimizer: the optimiser; its steps are watched from now on.
        stacked: whether the parameters have a leading dimension of members; else there is one member.
    """

    def __init__(
        self,
        workload: Workload,
        subsets: Sequence[Sequence[int]],
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        stacked: bool,
    ) -> None:
        self._parameters = parameters
        self._start: dict[str, Tensor] = {}
        # entries that may be held: of other tasks, and without a gradient so far
        self._idle: dict[str, Tensor] = {}
        partial = any(len(subset) < workload.n_tasks for subset in subsets)
        named = "optimizer" not in workload.recipe.functions
        if (named and workload.recipe.weight_decay == 0) or not partial:
            return  # without decay a gradient of 0 moves nothing
        masks: dict[str, np.ndarray] = {}
        for member, subset in enumerate(subsets):
            for part in find_parts(workload):
                if not part.tasks[list(subset)].any():
                    shape = parameters[part.name].shape
                    mask = masks.setdefault(part.name, np.zeros(shape if stacked else (1, *shape), bool))
                    mask[member].swapaxes(0, part.dimension)[part.positions] = True
        for name, mask in masks.items():
            parameter = parameters[name]
            self._start[name] = parameter.detach().clone()
            self._idle[name] = torch.from_numpy(mask if stacked else mask[0]).to(parameter.device)
        optimizer.register_step_pre_hook(self._look)

    def _look(self, *step: Any) -> None:
        del step
        for name, idle in self._idle.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                idle.logical_and_(gradient == 0)

    @torch.no_grad()
    def put_back(self) -> None:
        """Set what has not had a gradient yet to where it started."""
        for name, idle in self._idle.items():
            parameter = self._parameters[name]
            parameter.copy_(torch.where(idle, self._start[name], parameter))

    def select(self, index: Tensor) -> None:
        """Go on with some of the members, after their parameters were selected."""
        self._idle = {name: idle[index] for name, idle in self._idle.items()}
        self._start = {name: start[index] for name, start in self._start.items()}


def find_parts(workload: Workload) -> list[Part]:
    """The parameters that only some tasks use, remembered for each workload.

    Found from the gradients of each task's outputs at randomly moved parameters (moved, so that heads which start at 0
    are seen), and widened to all tasks whose outputs are computed from a slice, whether or not the rows show it. Cost:
    for each task, about one backward and one forward pass over a few rows.
    """
    if workload not in _CACHE:
        _CACHE[workload] = _measure(workload)
    return _CACHE[workload]


def _measure(workload: Workload) -> list[Part]:
    train = workload.split.train
    batch = workload.batch(
        train[torch.linspace(0, len(train) - 1, min(_PROBE_ROWS, len(train))).long().to(train.device)]
    )
    generator = torch.Generator().manual_seed(derive(0, 1))
    with random_numbers(workload.labels.device):
        model = workload.build_model(0).to(workload.labels.device).train()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for parameter in named.values():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(noise * (0.1 * float(parameter.abs().square().mean().sqrt()) + 0.01))
        outputs = workload.outputs(model, batch)
        weights = torch.randn(outputs.shape, generator=generator).to(outputs)
        reached = _reached(workload, named, outputs, weights)
        parts = [part for name, dimensions in reached.items() for part in _parts(name, dimensions)]
        return _widened(workload, model.eval(), batch, parts)


def _reached(
    workload: Workload, named: dict[str, nn.Parameter], outputs: Tensor, weights: Tensor
) -> dict[str, list[np.ndarray]]:
    """Parameter name -> for each dimension a (tasks, size) array: whether the slice was seen to reach the task."""
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
    return slices


def _note(dimensions: list[np.ndarray], task: int, gradient: Tensor) -> None:
    nonzero = gradient != 0
    for dimension, reached in enumerate(dimensions):
        others = [other for other in range(gradient.dim()) if other != dimension]
        reached[task] = (nonzero.any(others) if others else nonzero).cpu().numpy()


def _parts(name: str, dimensions: list[np.ndarray]) -> list[Part]:
    """The whole parameter where not all tasks use it, else the slices along the first dimension that divides it."""
    whole = np.any(dimensions[0], axis=1)
    if not whole.all():
        return [Part(name, 0, torch.arange(dimensions[0].shape[1]), whole)]
    for dimension, reached in enumerate(dimensions):
        patterns, which = np.unique(reached.T, axis=0, return_inverse=True)
        divided = [number for number, tasks in enumerate(patterns) if tasks.any() and not tasks.all()]
        if divided:
            places = [torch.from_numpy(np.flatnonzero(which == number)) for number in divided]
            return [Part(name, dimension, p, patterns[n]) for n, p in zip(divided, places, strict=True)]
    return []


def _widened(workload: Workload, model: nn.Module, batch: Batch, parts: list[Part]) -> list[Part]:
    """The parts with all the tasks that are computed from them; those that serve all tasks are left out."""
    alike: dict[bytes, list[Part]] = {}
    for part in parts:
        alike.setdefault(part.tasks.tobytes(), []).append(part)
    found: list[Part] = []
    for group in alike.values():
        tasks = group[0].tasks
        if tasks.any() and not (_users(workload, model, batch, group) & ~tasks).any():
            found += group
            continue
        for part in group:
            tasks = part.tasks | _users(workload, model, batch, [part])
            found += [replace(part, tasks=tasks)] if tasks.any() and not tasks.all() else []
    return found


def _users(workload: Workload, model: nn.Module, batch: Batch, parts: Sequence[Part]) -> np.ndarray:
    return dependents(workload, model, batch, [(part.name, part.dimension, part.positions) for part in parts])
