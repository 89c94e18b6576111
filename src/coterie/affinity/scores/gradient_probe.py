"""One measurement of a probe: gradients of the tasks on a batch, their inner products, and a look ahead.

A measurement leaves the model, its buffers, the optimiser and the random numbers as they were. The model is in
evaluation mode while it lasts: dropout is off, and normalisation uses its running statistics and does not change them.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from coterie._random import random_numbers
from coterie._surface import warn
from coterie.errors import FallbackWarning, ResourceError
from coterie.training.evaluate import measure_footprint, row_losses
from coterie.training.optimizer import APART
from coterie.training.stack import Outputs, open_kernels
from coterie.workload import Workload

#: what is measured: the look ahead, first-order affinity, cosine without and with tensors of one dimension
MEASURED = ("tag", "etap", "cosine", "cosine_all")
#: of each, over measurements and (targets, sources): sum of ratios, their number, sums above and below the line
SUMS = tuple(f"{sort}{name}" for name in MEASURED for sort in ("", "n_", "above_", "below_"))
#: work done: measurements, rows, rows x sources, inner products, seconds of gradients, Gram matrices and looks ahead
WORK = ("measurements", "rows", "passes", "products", "gradient_seconds", "gram_seconds", "lookahead_seconds")

Array = NDArray[np.float64]


def ahead(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    rate: float | None = None,
) -> list[Tensor]:
    """Where one step for each of k gradients would take some parameters; nothing is changed.

    A twin of the optimiser, with k copies of its memory, takes the step: momentum, moments, weight decay and the rate
    of the moment are its own. All k at once where the optimiser treats every number alone, else one after the other.
    Hooks of the optimiser, such as clipping, are left out.

    Args:
        optimizer: the optimiser in the middle of a training.
        parameters: n tensors that it trains.
        gradients: n tensors (k, ...), one for each parameter.
        rate: None for the optimiser's step; a number for the plain step ``theta - rate * gradient``.

    Returns:
        n tensors (k, ...).

    Example:
        >>> p = torch.zeros(2)
        >>> ahead(torch.optim.SGD([p], lr=0.5), [p], [torch.ones(1, 2)])[0].tolist()
        [[-0.5, -0.5]]
    """
    if rate is not None:
        return [p.detach() - rate * g for p, g in zip(parameters, gradients, strict=True)]
    if type(optimizer) in APART:
        copies = [p.detach().expand_as(g).clone() for p, g in zip(parameters, gradients, strict=True)]
        _step_of_twin(optimizer, parameters, copies, gradients)
        return copies
    found: list[list[Tensor]] = []
    for source in range(len(gradients[0])):
        copies = [p.detach().clone() for p in parameters]
        _step_of_twin(optimizer, parameters, copies, [g[source] for g in gradients])
        found.append(copies)
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


def _step_of_twin(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], copies: list[Tensor], gradients: Sequence[Tensor]
) -> None:
    """Take a step with copies of the parameters and of the optimiser's memory."""
    twin: Any = object.__new__(type(optimizer))
    vars(twin).update(vars(optimizer))
    vars(twin).pop("step", None)  # schedulers put a function there that counts the steps of the original
    twin.state, twin.param_groups = defaultdict(dict), []
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(twin, name, OrderedDict())
    of = {id(parameter): copy for parameter, copy in zip(parameters, copies, strict=True)}
    for group in optimizer.param_groups:
        mine = [of[id(parameter)] for parameter in group["params"] if id(parameter) in of]
        twin.param_groups += [{**group, "params": mine}] if mine else []
    for parameter, copy, gradient in zip(parameters, copies, gradients, strict=True):
        copy.grad = gradient
        memory: dict[str, Any] = optimizer.state.get(parameter, {})
        if memory:
            twin.state[copy] = {name: _copied(name, value, parameter, copy) for name, value in memory.items()}
    twin.step()


def _copied(name: str, value: Any, parameter: Tensor, copy: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return deepcopy(value)
    # a number of steps has the shape of a parameter without dimensions
    numbers = name != "step" and value.shape == parameter.shape
    return value.expand_as(copy).clone() if numbers else value.clone()


class TaskGradients:
    """Gradients of several tasks of the same parameters, and sums of what is formed from them.

    Args:
        parameters: that tasks share.
        tasks: number of tasks.
        at_once: tasks whose gradients are pulled together, at most.

    Attributes:
        sums: see ``SUMS``.
    """

    def __init__(self, parameters: Sequence[Tensor], tasks: int, at_once: int) -> None:
        self._trunk: list[Tensor] = list(parameters)
        self._at_once = at_once
        self.sums: dict[str, Array] = {name: np.zeros((tasks, tasks)) for name in SUMS}

    @property
    def at_once(self) -> int:
        """Tasks that may be held at once."""
        return self._at_once

    @property
    def parameters(self) -> list[Tensor]:
        """What tasks share."""
        return self._trunk

    def gradients(self, means: Tensor) -> list[Tensor]:
        """One (tasks, ...) tensor for each shared parameter."""

        def pull(weights: Tensor, *, batched: bool) -> list[Tensor]:
            found = torch.autograd.grad(
                means, self._trunk, weights, retain_graph=True, allow_unused=True, is_grads_batched=batched
            )
            leading = weights.shape[:1] if batched else ()
            return [
                parameter.new_zeros((*leading, *parameter.shape)) if gradient is None else gradient
                for parameter, gradient in zip(self._trunk, cast("tuple[Tensor | None, ...]", found), strict=True)
            ]

        eye = torch.eye(len(means), dtype=means.dtype, device=means.device)
        return self._stacked(len(means), lambda i: pull(eye[i], batched=True), lambda i: pull(eye[i], batched=False))

    def _stacked(
        self, count: int, together: Callable[[slice], list[Tensor]], alone: Callable[[int], list[Tensor]]
    ) -> list[Tensor]:
        """Results for `count` tasks, as many at once as memory and the model allow."""
        while self._at_once > 1:
            try:
                chunks = [together(slice(i, i + self._at_once)) for i in range(0, count, self._at_once)]
            except RuntimeError as error:
                self._at_once = 1
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
                warn(
                    f"Tasks are measured one after the other, which is slower than all at once: {reason}",
                    FallbackWarning,
                )
            else:
                return chunks[0] if len(chunks) == 1 else [torch.cat(parts) for parts in zip(*chunks, strict=True)]
        return [torch.stack(parts) for parts in zip(*(alone(i) for i in range(count)), strict=True)]

    def products(self, tasks: list[int], gradients: list[Tensor], before: Array) -> Array:
        """Add inner products over all shared numbers, and over tensors of two dimensions or more; return the latter."""
        size = len(tasks)
        every, matrices = np.zeros((size, size)), np.zeros((size, size))
        for gradient in gradients:
            flat = (torch.view_as_real(gradient) if gradient.is_complex() else gradient).reshape(size, -1)
            product = (flat @ flat.T).double().cpu().numpy()
            every += product
            matrices += product if gradient.dim() > 2 else 0.0
        if all(gradient.dim() <= 2 for gradient in gradients):
            matrices = every
        scale = np.abs(before)[:, None]
        self.add("etap", tasks, every, scale)
        for name, gram in (("cosine_all", every), ("cosine", matrices)):
            length = np.sqrt(np.diagonal(gram))
            self.add(name, tasks, gram, np.outer(length, length))
        return matrices

    def add(self, name: str, tasks: list[int], above: Array, below: Array) -> None:
        """Add a ratio where its denominator is not 0."""
        below = np.broadcast_to(below, above.shape)
        known, where = below > 0, np.ix_(tasks, tasks)
        self.sums[name][where] += np.divide(above, below, out=np.zeros_like(above), where=known)
        self.sums[f"n_{name}"][where] += known
        self.sums[f"above_{name}"][where] += np.where(known, above, 0.0)
        self.sums[f"below_{name}"][where] += below


def check_memory(shared: Sequence[Tensor], tasks: int, memory: int) -> int:
    """Bytes of the gradients of all tasks.

    Raises:
        ResourceError: when they do not fit the memory.
    """
    need = tasks * sum(p.numel() * p.element_size() for p in shared)
    if need > memory:
        raise ResourceError(
            f"The gradients of {tasks} tasks need {need / 2**30:.1f} GiB, more than `memory` allows "
            f"({memory / 2**30:.1f} GiB): {sum(p.numel() for p in shared)} shared numbers. Give more `memory`, or "
            "fewer tasks."
        )
    return need


class GradientProbe(TaskGradients):
    """Measures, and adds up what was measured.

    Args:
        workload: tasks, data and recipe.
        model: the model in training.
        trunk: names of the shared parameters.
        rate: step of the look ahead, see :func:`ahead`.
        memory: bytes that a measurement may take.
        gram: whether inner products are wanted.
        lookahead: whether the look ahead is wanted.

    Raises:
        ResourceError: when the gradients of all tasks do not fit the memory.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        trunk: Sequence[str],
        *,
        rate: float | None = None,
        memory: int = 2**30,
        gram: bool = True,
        lookahead: bool = True,
    ) -> None:
        self._workload, self._model, self._rate = workload, model, rate
        self._gram, self._lookahead = gram, lookahead
        self._outputs = Outputs(workload, model)
        named = dict(model.named_parameters())
        self._names = [f"model.{name}" for name in trunk]
        shared: list[Tensor] = [named[name] for name in trunk]
        self._numbers = sum(p.numel() for p in shared)
        need = check_memory(shared, workload.n_tasks, memory)
        super().__init__(shared, workload.n_tasks, max(1, measure_footprint(workload).members(memory - need)))
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self.work: dict[str, float] = dict.fromkeys(WORK, 0.0)

    def measure(self, rows: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Measure on a batch; tasks without a label in it are left out."""
        device, training = rows.device, self._model.training
        self._model.eval()
        try:
            with (
                random_numbers(device),
                open_kernels(recurrent=self._recurrent),
            ):
                self._measure(rows, optimizer)
        finally:
            self._model.train(training)

    def _measure(self, rows: Tensor, optimizer: torch.optim.Optimizer) -> None:
        start = time.perf_counter()
        losses, observed = row_losses(self._workload, self._model, rows)
        counts = observed.sum(0)
        tasks = counts.nonzero().flatten().tolist()
        if not tasks:
            return
        means = losses.sum(0)[tasks] / counts[tasks]
        before = means.detach().double().cpu().numpy()
        gradients = self.gradients(means)
        ahead_of = time.perf_counter()
        if self._gram:
            self.products(tasks, gradients, before)
        between = time.perf_counter()
        if self._lookahead:
            self._look(rows, tasks, gradients, before, optimizer)
        self._note(
            measurements=1,
            rows=len(rows),
            passes=len(rows) * len(tasks),
            products=self._numbers * len(tasks) ** 2,
            gradient_seconds=ahead_of - start,
            gram_seconds=between - ahead_of,
            lookahead_seconds=time.perf_counter() - between,
        )

    def _note(self, **work: float) -> None:
        for name, value in work.items():
            self.work[name] += value

    def _look(
        self, rows: Tensor, tasks: list[int], gradients: list[Tensor], before: Array, optimizer: torch.optim.Optimizer
    ) -> None:
        """Losses of all targets after a step for each source."""
        batch = self._workload.batch(rows)
        targets, observed = self._workload.targets[rows], self._workload.observed[rows]

        def call(values: list[Tensor]) -> Tensor:
            return functional_call(self._outputs, dict(zip(self._names, values, strict=True)), (batch,))

        def losses(outputs: Tensor) -> Tensor:
            found = self._workload.losses(self._workload.margins(outputs, targets), targets)
            return torch.where(observed, found, torch.zeros_like(found)).sum(-2)

        def together(chosen: slice) -> list[Tensor]:
            run: Callable[..., Tensor] = vmap(call, randomness="same")
            return [losses(run(ahead(optimizer, self._trunk, [g[chosen] for g in gradients], self._rate)))]

        def alone(source: int) -> list[Tensor]:
            moved = ahead(optimizer, self._trunk, [g[source, None] for g in gradients], self._rate)
            return [losses(call([value[0] for value in moved]))]

        with torch.no_grad():
            (totals,) = self._stacked(len(tasks), together, alone)
            after = (totals / observed.sum(0)).double()[:, tasks].cpu().numpy()
        self.add("tag", tasks, before[:, None] - after.T, np.abs(before)[:, None])
