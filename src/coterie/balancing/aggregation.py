"""Balancers that combine the gradients of the tasks: an adapter to TorchJD."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from coterie._surface import known_arguments, refuse_unknown
from coterie.balancing.balancer import Balancer, Losses, Parameters
from coterie.errors import MissingDependencyError, SettingError, require

_PLAIN = (bool, int, float, tuple, Tensor, np.ndarray, type(None))


@known_arguments
class Aggregation(Balancer):
    """Combine the tasks' gradients with an aggregator of TorchJD: MGDA, PCGrad, CAGrad, UPGrad, ...

    The Jacobian of the losses with respect to the shared parameters is computed with TorchJD, flattened to (tasks,
    parameters) and handed to the aggregator; what comes back is the gradient. Parameters that are not shared get the
    gradient of the sum of the losses, which for a head is that of its own task. Rows of tasks that are missing in the
    batch are left out.

    Args:
        tasks: number of tasks.
        aggregator: a ``torchjd.aggregation.Aggregator``.
        chunk: tasks that are differentiated at once; None means all, 1 avoids ``torch.vmap``, which not every model
            supports.

    Cost: one backward pass a task (with the losses as scalars with graphs of their own, one through each of these
        graphs), and memory for (tasks x shared parameters) numbers.

    Source: Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization" (TorchJD); each aggregator has its own.

    Raises:
        SettingError: when a task is missing although the aggregator remembers something about each task.

    Example:
        >>> from torchjd.aggregation import MGDA
        >>> x = torch.tensor([3.0, -1.0], requires_grad=True)
        >>> mgda, optimizer = Aggregation(2, MGDA()), torch.optim.SGD([x], lr=0.1)
        >>> losses = mgda.step(lambda: torch.stack([(x**2).sum(), ((x - 1) ** 2).sum()]), optimizer)
        >>> x.grad
        tensor([ 4., -4.])
    """

    def __init__(self, tasks: int, aggregator: nn.Module, chunk: int | None = None) -> None:
        super().__init__(tasks)
        self._autojac = require("torchjd.autojac", extra="balancing", purpose="Combining the gradients of tasks")
        self.aggregator, self.chunk = aggregator, chunk

    @property
    def stateful(self) -> bool:
        """Whether the aggregator remembers something from step to step."""
        return any(hasattr(module, "reset") for module in self.aggregator.modules())

    @property
    def passes(self) -> tuple[float, float]:
        """See :attr:`Balancer.passes`: one backward pass a task."""
        return 1.0, float(self.tasks)

    def backward(
        self, losses: Losses, parameters: Parameters = (), *,
        shared: Parameters | None = None, scaler: GradScaler | None = None,
    ) -> None:  # fmt: skip
        """Add the aggregated gradient to ``.grad``; see :meth:`Balancer.backward`."""
        apart = () if isinstance(losses, Tensor) else tuple(losses)
        losses = losses if isinstance(losses, Tensor) else torch.stack(apart)
        self.check(losses)
        parameters = [p for p in parameters if p.requires_grad]
        common = parameters if shared is None else [p for p in shared if p.requires_grad]
        if not common:
            raise SettingError(
                "Methods that combine gradients need the parameters that are trained: give `parameters` or `shared` "
                "to backward(). Found none that requires a gradient."
            )
        ids = {id(p) for p in common}
        own = [p for p in parameters if id(p) not in ids]
        present = self._present(losses)
        scale = 1.0 if scaler is None else float(scaler.scale(torch.ones((), device=losses.device)))
        if apart:
            matrix = _rows(
                [loss for loss, there in zip(apart, present.tolist(), strict=True) if there], common, own, scale
            )
        else:
            observed = (losses.float() if losses.dtype in (torch.float16, torch.bfloat16) else losses)[present] * scale
            jacobians = self._autojac.jac(observed, common, retain_graph=bool(own), parallel_chunk_size=self.chunk)
            matrix = torch.cat([rows.flatten(1) for rows in jacobians], 1)
            del jacobians  # as large as the matrix
            if own:
                _add(own, torch.autograd.grad(observed.sum(), own, allow_unused=True))
        if scale != 1.0:
            matrix /= scale
        combined = (self._combine(matrix) * scale).split([p.numel() for p in common])
        _add(common, [part.view_as(p) for p, part in zip(common, combined, strict=True)])
        self.steps += 1

    def _present(self, losses: Tensor) -> Tensor:
        present = ~losses.detach().isnan()
        if not bool(present.any()):
            return ~present  # the NaN reaches the gradient, as it should
        if not bool(present.all()) and self.stateful:
            raise SettingError(
                f"{type(self.aggregator).__name__} remembers something about each task, so all tasks have to be in "
                f"every batch. Found {int(present.sum())} of {self.tasks}. Use another method, or larger batches."
            )
        return present

    def _combine(self, matrix: Tensor) -> Tensor:
        """The aggregator's answer; the plain sum when a gradient is not finite, so that scalers see it and skip."""
        if not bool(matrix.isfinite().all()):
            return matrix.sum(0)
        try:
            return self.aggregator(matrix).to(matrix.dtype)
        except ValueError as error:
            raise SettingError(
                f"{type(self.aggregator).__name__} cannot combine the gradients of {len(matrix)} tasks: {error} Use "
                "another method, other options, or batches with more of the tasks."
            ) from error

    def get_extra_state(self) -> Any:
        """Steps, and what the aggregator remembers."""
        found: dict[str, dict[str, Any]] = {}
        for name, module in self.aggregator.named_modules():
            if hasattr(module, "reset"):
                found[name] = {key: _saved(value) for key, value in _memory(module).items()}
        return {"steps": self.steps, "memory": found}

    def set_extra_state(self, state: Any) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.steps = int(state["steps"])
        for name, values in state["memory"].items():
            module = self.aggregator.get_submodule(name)
            for key, value in values.items():
                _restore(module, key, value)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The state; all of it is extra state, as most of an aggregator's memory is no buffer until its first step."""
        found = super().state_dict(*args, **kwargs)
        return {key: value for key, value in found.items() if not key.startswith("aggregator.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over a state from :meth:`state_dict`."""
        del strict
        return super().load_state_dict(state_dict, False, assign)


def named_aggregation(name: str, tasks: int, options: Mapping[str, Any]) -> Aggregation:
    """The adapter for one of TorchJD's aggregators; see :func:`coterie.balancing.get_balancer`."""
    module = require("torchjd.aggregation", extra="balancing", purpose=f"The method {name}")
    kind = getattr(module, name)
    known = set(inspect.signature(kind).parameters)
    options = dict(options)
    chunk = options.pop("chunk", None)
    refuse_unknown(name, options, sorted({*known, "chunk"}))
    if "n_tasks" in known:
        options["n_tasks"] = tasks
    if "projector" in known and "projector" not in options:
        from coterie.balancing.projector import make_projector

        options["projector"] = make_projector()
    try:
        return Aggregation(tasks, kind(**options), chunk)
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} needs more packages: {error} They are not part of the extra `balancing`, as their licences may "
            "ask for more than that of Coterie. FairGrad with alpha=1 solves the same equation as NashMTL without them."
        ) from error


def _rows(losses: Sequence[Tensor], common: list[Tensor], own: list[Tensor], scale: float) -> Tensor:
    """(tasks, parameters) gradients of losses with graphs of their own; those of `own` are added to ``.grad``."""
    rows: list[Tensor] = []
    for loss in losses:
        loss = loss.float() if loss.dtype in (torch.float16, torch.bfloat16) else loss
        found = torch.autograd.grad(loss * scale, [*common, *own], allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found[: len(common)]]))
        _add(own, found[len(common) :])
    return torch.stack(rows)


def _add(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    for p, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            p.grad = gradient.to(p.dtype).clone() if p.grad is None else p.grad + gradient.to(p.dtype)


def _memory(module: nn.Module) -> dict[str, Any]:
    """What an aggregator keeps between steps, be it a buffer or an attribute."""
    usual = set(vars(nn.Module()))
    attributes = {key: value for key, value in vars(module).items() if key not in usual and isinstance(value, _PLAIN)}
    return attributes | dict(module._buffers)


def _saved(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.detach().clone() if isinstance(value, Tensor) else value


def _restore(module: nn.Module, key: str, value: Any) -> None:
    if isinstance(vars(module).get(key), np.ndarray):
        value = value.numpy().copy()
    setattr(module, key, value.clone() if isinstance(value, Tensor) else value)
