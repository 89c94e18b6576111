"""Intervals of time steps as tasks: the few lines that a training script of a denoiser needs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.balancing import Balancer, Balancing, Weighting, task_means
from coterie.errors import SettingError
from coterie.grouping.intervals.programme import Intervals

#: optimiser steps between two solutions of NashMTL's problem, and the norm that it clips to
_NASH = {"update_weights_every": 25, "max_norm": 1.0}


@known_arguments
class IntervalTasks:
    """Trains a denoiser with every interval of time steps as a task of its own.

    Batches have the same number of examples from every interval, the loss of a task is the mean over its examples, and
    a balancer of :mod:`coterie.balancing` combines the losses or their gradients. In a script, four lines change::

        tasks = IntervalTasks(intervals, "uncertainty")         # before the loop
        t = tasks.sample(len(images), device=images.device)     # instead of torch.randint(0, T, ...)
        loss = tasks.loss(per_example, t)                       # (B,) losses, instead of their mean
        accelerator.backward(loss)                              # as before

    Methods that combine gradients, or look at a batch a second time, take :meth:`backward` or :meth:`step` instead of
    :meth:`loss`.

    Defaults are those of the authors' code. ``uncertainty`` starts at ``log k``: their loss divides the loss of a task
    by k but not its s, so that their s is smaller by ``log k`` than that of :class:`coterie.balancing.Uncertainty`, and
    the gradient of the model is k times as large. ``nash-mtl`` solves its problem every 25 steps and clips to norm 1.

    Limits: one process. With several, each has a balancer that sees its own part of the batch.

    Args:
        intervals: of the time steps, see :func:`coterie.diffusion.step_intervals`.
        balancing: a name of :data:`coterie.balancing.METHODS`, a :class:`coterie.balancing.Balancing`, or a balancer
            for k tasks.
        seed: of methods with random weights.
        window: steps of an epoch, for DWA.
        options: of the method, when it is given by name.

    Raises:
        SettingError: an unknown method or option, or a balancer for another number of tasks.
        MissingDependencyError: when the method needs a package that is not installed.

    Cost: as the balancer; drawing steps costs microseconds.

    Source: Go et al., "Addressing Negative Transfer in Diffusion Models", NeurIPS 2023, section 4, and their code.

    Example:
        >>> tasks = IntervalTasks(Intervals((0, 10), 100, cost=0.0))
        >>> t = tasks.sample(6, torch.Generator().manual_seed(0))
        >>> int((t < 10).sum())
        3
        >>> tasks.loss(torch.ones(6), t) > 0
        tensor(True)
    """

    def __init__(
        self,
        intervals: Intervals,
        balancing: str | Balancing | Balancer = "uncertainty",
        *,
        seed: int = 0,
        window: int = 100,
        **options: Any,
    ) -> None:
        self.intervals, self.k = intervals, intervals.k
        self.choice = None if isinstance(balancing, Balancer) else _choice(balancing, options, self.k)
        if self.choice is not None:
            self.balancer = self.choice.make(self.k, seeds=[seed], windows=[window])
        elif options:
            raise SettingError(
                f"Options {sorted(options)} belong to a method that is given by name. Found a balancer as `balancing`. "
                "Give them when the balancer is made."
            )
        else:
            assert isinstance(balancing, Balancer)  # noqa: S101
            self.balancer = balancing
        if self.balancer.shape != (self.k,):
            raise SettingError(
                f"Parameter `balancing` should be a balancer for the {self.k} intervals. Found one whose losses have "
                f"shape {self.balancer.shape}. Make it with get_balancer(name, {self.k})."
            )
        self._labels = torch.from_numpy(intervals.labels)
        self._starts = torch.tensor(intervals.starts)
        self._lengths = torch.tensor([last - first + 1 for first, last in intervals.spans])

    @property
    def name(self) -> str:
        """The method, with its options where they are known."""
        return type(self.balancer).__name__ if self.choice is None else str(self.choice)

    def renewed(self, *, seed: int = 0, window: int = 100) -> IntervalTasks:
        """The same tasks before their first step; a balancer that was given as an object is copied as it is."""
        if self.choice is None:
            return IntervalTasks(self.intervals, copy.deepcopy(self.balancer))
        return IntervalTasks(self.intervals, self.choice, seed=seed, window=window)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Time steps of a batch, the same number from every interval.

        Each interval gets ``count // k``; what is left goes to intervals drawn at random, at most one each. Inside an
        interval all steps are equally likely. Drawn on the CPU, so that devices agree.

        Args:
            count: size of the batch. Below k, some intervals are not in the batch and their loss is NaN.
            generator: on the CPU; None takes PyTorch's own random numbers.
            device: where the steps are wanted.

        Returns:
            (count,) steps in random order.

        Raises:
            SettingError: when the count is not a whole number of at least 1.
        """
        count = whole_number(count, "count", low=1)
        every = torch.arange(self.k).repeat(count // self.k)
        left = torch.randperm(self.k, generator=generator)[: count % self.k]
        drawn = torch.cat([every, left])[torch.randperm(count, generator=generator)]
        inside = torch.rand(count, generator=generator, dtype=torch.float64) * self._lengths[drawn]
        return (self._starts[drawn] + inside.long()).to(device)

    def means(self, per_example: Tensor, t: Tensor) -> Tensor:
        """(k,) mean loss of the examples of each interval, with their graph; NaN where the batch has none.

        Args:
            per_example: (B,) losses, see :func:`coterie.diffusion.denoising_losses`.
            t: (B,) their time steps.

        Raises:
            SettingError: other shapes, or steps outside 0..T-1.
        """
        if per_example.ndim != 1 or per_example.shape != t.shape:
            raise SettingError(
                "Parameters `per_example` and `t` should be one loss and one time step for each example of the batch. "
                f"Found shapes {tuple(per_example.shape)} and {tuple(t.shape)}. A loss that was averaged already is a "
                'likely cause: use reduction="none" and average over channels, rows and columns only.'
            )
        return task_means(per_example.unsqueeze(1).expand(-1, self.k), self._member(t))

    def _member(self, t: Tensor) -> Tensor:
        """(B, k) which interval each time step is in."""
        if t.device.type == "cpu" and bool(((t < 0) | (t >= self.intervals.n)).any()):
            raise SettingError(
                f"Parameter `t` should have time steps from 0 to {self.intervals.n - 1}. Found {int(t.min())} to "
                f"{int(t.max())}. Intervals that were made for another schedule are a likely cause."
            )
        if self._labels.device != t.device:
            self._labels = self._labels.to(t.device)
        return self._labels[t].unsqueeze(1) == torch.arange(self.k, device=t.device)

    def loss(self, per_example: Tensor, t: Tensor) -> Tensor:
        """The balanced loss of a batch, a scalar that the script differentiates as it always does.

        Raises:
            SettingError: when the method does not weight losses, or needs the losses of a batch twice.
        """
        balancer = self.balancer
        if not isinstance(balancer, Weighting):
            raise SettingError(
                f"The method {self.name!r} combines gradients, so there is no loss to differentiate. Use "
                "tasks.backward(per_example, t, parameters) in place of loss.backward(), or tasks.step."
            )
        if balancer.looks_again:
            raise SettingError(
                f"The method {self.name!r} needs the losses of a batch a second time, which a loss alone cannot give: "
                "it would never learn. Use tasks.step(losses_function, t, optimizer)."
            )
        return balancer.total(self.means(per_example, t))

    def backward(
        self, per_example: Tensor, t: Tensor, parameters: Iterable[Tensor], scaler: GradScaler | None = None
    ) -> Tensor:
        """Add the balanced gradient to ``.grad``, in place of ``loss.backward()``.

        With a `scaler` the gradient is scaled, as the scaler expects: call ``scaler.unscale_(optimizer)``, clip, then
        ``scaler.step``.

        Returns:
            (k,) losses, detached.

        Raises:
            SettingError: when the method needs the losses of a batch twice.
        """
        if self.balancer.looks_again:
            raise SettingError(
                f"The method {self.name!r} needs the losses of a batch a second time. Use tasks.step(losses_function, "
                "t, optimizer), which also calls backward()."
            )
        losses = self.means(per_example, t)
        self.balancer.backward(losses, parameters, scaler=scaler)
        return losses.detach()

    def step(
        self,
        losses_function: Callable[[], Tensor],
        t: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        max_norm: float | None = None,
    ) -> Tensor:
        """One training step with any method; see :meth:`coterie.balancing.Balancer.step`.

        Args:
            losses_function: gives the (B,) losses of the batch at the present parameters, always with the same images
                and noise; some methods call it a second time.
            t: (B,) the time steps of the batch.
            optimizer: steps the parameters.
            model: needed when it has BatchNorm.
            scaler: for float16.
            max_norm: clip the norm of the balanced gradient to this.

        Returns:
            (k,) losses before the step, detached.
        """
        return self.balancer.step(
            lambda: self.means(losses_function(), t), optimizer, model=model, scaler=scaler, max_norm=max_norm
        )

    def step_apart(
        self,
        losses_function: Callable[[Tensor], Tensor],
        t: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        max_norm: float | None = None,
    ) -> Tensor:
        """As :meth:`step`, with one forward pass for the examples of each interval: faster for gradient methods.

        Methods that combine gradients need one backward pass an interval. After a common forward pass each of them goes
        through the whole batch; after separate ones it goes through the interval's examples only. Layers that mix the
        examples of a batch (BatchNorm) see those of one interval at a time.

        Args:
            losses_function: gives the (b,) losses of the examples of the batch whose (b,) numbers it is called with.
            t: (B,) the time steps of the batch.
            optimizer: steps the parameters.
            model: needed when it has BatchNorm.
            scaler: for float16.
            max_norm: clip the norm of the balanced gradient to this.

        Returns:
            (k,) losses before the step, detached.
        """
        rows = [member.nonzero().flatten() for member in self._member(t).unbind(1)]

        def losses() -> list[Tensor]:
            missing = torch.full((), math.nan, device=t.device)
            return [losses_function(part).mean() if len(part) else missing for part in rows]

        return self.balancer.step(losses, optimizer, model=model, scaler=scaler, max_norm=max_norm)

    def state_dict(self) -> dict[str, Any]:
        """What the balancer has learnt, for a checkpoint."""
        return self.balancer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`."""
        self.balancer.load_state_dict(state)

    def __repr__(self) -> str:
        return f"IntervalTasks({self.k} intervals of {self.intervals.n} steps, {self.name})"


def _choice(balancing: str | Balancing, options: Mapping[str, Any], k: int) -> Balancing:
    """The method with the defaults of the source where nothing else was given."""
    if isinstance(balancing, Balancing):
        if options:
            raise SettingError(
                f"Options {sorted(options)} were given beside a Balancing, which has options of its own. Give them "
                "there, or give the method by name."
            )
        return balancing
    defaults: dict[str, dict[str, Any]] = {"uncertainty": {"start": math.log(k)}, "nash-mtl": _NASH}
    return Balancing(balancing, tuple({**defaults.get(balancing, {}), **options}.items()))
