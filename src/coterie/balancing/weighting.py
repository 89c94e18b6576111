"""Balancers that give each task a weight and differentiate the weighted sum of the losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from coterie.balancing.balancer import Balancer, Losses, Parameters
from coterie.balancing.shares import complete, everyone


class Weighting(Balancer):
    """A balancer that weights losses: one backward pass, whatever the number of tasks.

    Weights of the tasks in a batch add up to one (but for uncertainty weighting), so that a learning rate that suits
    equal weights suits all. Where a paper lets them add up to the number of tasks, they are divided by it.

    With `members`, losses are (members, tasks) and every member has its own weights; no member depends on another.
    """

    def __init__(self, tasks: int, members: int | None = None) -> None:
        super().__init__(tasks, members)
        self.last = torch.full(self.shape, 1.0 / tasks)

    @property
    def weights(self) -> Tensor:
        """(tasks,) factors of the losses at the last step, 0 for tasks that were missing; equal before the first."""
        return self.last

    def total(self, losses: Tensor) -> Tensor:
        """The weighted sum of the losses, to be differentiated: a scalar, or (members,).

        With a graph it is a training step, from which some methods learn. Without one (under ``torch.no_grad()``, as
        when validation losses are computed), nothing is learnt.

        Args:
            losses: (tasks,); NaN where the task has no label in the batch. Half precision is raised to float32.

        Raises:
            SettingError: when the losses have another shape, or the method cannot use them.
        """
        self.check(losses)
        if losses.dtype in (torch.float16, torch.bfloat16):
            losses = losses.float()
        values = losses.detach()
        with torch.no_grad():
            self._follow(values)
            whole = (bool(self._whole) and self._whole[0] is losses) or complete(values)
            present = everyone(self.shape) if whole else ~values.isnan()
            values = values if whole else torch.where(present, values, 1.0)
            learns = losses.requires_grad
            if learns:
                self.begin(values, present)
            weights = self.weigh(values, present)
        if not whole:  # without any task, weights and total are NaN
            counts = present | ~present.any(-1, keepdim=True)
            weights, losses = torch.where(counts, weights, 0.0), torch.where(counts, losses, 0.0)
        total = self.objective((weights * losses).sum(-1), present)
        if learns:
            vars(self).update(last=weights, steps=self.steps + 1)  # neither parameter nor buffer: no need to ask
            with torch.no_grad():
                self.finish(values, present)
        return total

    def backward(
        self, losses: Losses, parameters: Parameters = (), *,
        shared: Parameters | None = None, scaler: GradScaler | None = None,
    ) -> None:  # fmt: skip
        """Differentiate the weighted sum of the losses; see :meth:`Balancer.backward`."""
        del parameters, shared
        total = self.total(losses if isinstance(losses, Tensor) else torch.stack(list(losses)))
        total = total.sum() if total.ndim else total
        (total if scaler is None else scaler.scale(total)).backward()

    def begin(self, values: Tensor, present: Tensor) -> None:
        """Learn from the losses of a new batch, before they are weighted.

        Args:
            values: (tasks,) losses without a graph, 1 where missing.
            present: (tasks,) which tasks are in the batch.
        """

    def finish(self, values: Tensor, present: Tensor) -> None:
        """Learn from the losses of a batch after they were weighted; see :meth:`begin`."""

    @abstractmethod
    def weigh(self, values: Tensor, present: Tensor) -> Tensor:
        """(tasks,) weights for these losses; see :meth:`begin`. Values of missing tasks do not matter."""

    def objective(self, weighted: Tensor, present: Tensor) -> Tensor:
        """What is differentiated, given the weighted sum of the losses; terms without parameters may be added."""
        del present
        return weighted

    def select(self, index: Tensor) -> None:
        """Keep only some of the members, in this order."""
        self.last = self.last[index.to(self.last.device)]
        for module in self.modules():
            for name, value in module.named_buffers(recurse=False):
                setattr(module, name, value[index.to(value.device)])
        self.members = len(index)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over a state, with its precision."""
        double = any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in state_dict.values())
        self.to(torch.float64 if double else torch.float32)
        self.last = self.last.to(torch.float64 if double else torch.float32)
        return super().load_state_dict(state_dict, strict, assign)

    def _follow(self, values: Tensor) -> None:
        """Move the state to the device of the losses, and give it at least their precision."""
        if self.last.device != values.device or self.last.dtype != values.dtype:
            self.last = self.last.to(values)
            self.to(device=values.device, dtype=values.dtype)
