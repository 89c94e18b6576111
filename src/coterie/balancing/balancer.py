"""What every way of balancing tasks has in common: one training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from coterie._check import is_whole
from coterie.balancing.missing_losses import MissingLossCounter
from coterie.balancing.replay import Replay
from coterie.balancing.shares import complete
from coterie.errors import SettingError

Each = TypeVar("Each")
#: (tasks,) losses of a batch, or as many scalars with graphs of their own
Losses = Tensor | Sequence[Tensor]
#: what is trained, or the part of it that tasks share
Parameters = Iterable[Tensor]


def one_each(value: Each | Sequence[Each], name: str, members: int | None) -> list[Each]:
    """A setting for each member, from one for all of them or one for each.

    Args:
        value: of the setting.
        name: of the setting, for the message.
        members: number of stacked models; None for one model.

    Raises:
        SettingError: when there are not as many values as members.

    Example:
        >>> one_each(100, "window", 3)
        [100, 100, 100]
    """
    values = list(cast("Sequence[Each]", value) if isinstance(value, Sequence) else [value])
    if len(values) == 1:
        values *= members or 1
    if len(values) != (members or 1):
        raise SettingError(f"Parameter `{name}` should be one number, or one for each member. Found {len(values)}.")
    return values


class Balancer(nn.Module, ABC):
    """Decides at every training step how much each task counts.

    The simple way is :meth:`step`, which does everything between two batches. A loop that has to keep its own order
    (another trainer, accumulated gradients) calls the parts instead: :meth:`backward` in place of
    ``losses.mean().backward()``, then :meth:`before_step` before the gradients are clipped, and :meth:`after_step`
    after the optimiser. Both get a function that gives the losses of the same batch again, a :class:`Replay`.

    A loss of NaN says that the task has no label in this batch. It counts for nothing and its own state stays as it is.
    An infinite loss is not excused: it makes the gradient infinite or NaN, as without balancing; so do losses that
    are NaN for every task. :meth:`step` raises where losses are NaN because the parameters are, and warns when no task,
    or one task for very long, had a loss.

    The state (``state_dict``, ``load_state_dict``) follows the losses to their device at the first step.

    Limits: one process. With several, each would see other losses and come to other weights.

    Args:
        tasks: number of tasks.
        members: number of stacked models that are trained at once, each with its own weights; None for one model.

    Raises:
        SettingError: when a number is below one.
    """

    #: whether a step may need the losses of its batch a second time
    looks_again = False

    def __init__(self, tasks: int, members: int | None = None) -> None:
        super().__init__()
        for name, value in (("tasks", tasks), ("members", 1 if members is None else members)):
            if not is_whole(value) or value < 1:
                raise SettingError(f"Parameter `{name}` should be a whole number of at least 1. Found {value!r}.")
        self.tasks = tasks
        self.members: int | None = members
        #: training steps seen
        self.steps = 0
        self._missing = MissingLossCounter(tasks)
        #: losses that were looked at and are all finite; a list, because attributes of modules are slow to set
        self._whole: list[Tensor] = []

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of losses and weights: (tasks,), or (members, tasks)."""
        return (self.tasks,) if self.members is None else (self.members, self.tasks)

    @property
    def due(self) -> bool:
        """Whether the coming step needs the losses of its batch a second time."""
        return self.looks_again

    @property
    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of a step, on average; (1, 1) is what training takes without balancing."""
        return (2.0 if self.looks_again else 1.0), 1.0

    @abstractmethod
    def backward(
        self,
        losses: Losses,
        parameters: Parameters = (),
        *,
        shared: Parameters | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """Add the balanced gradient of one batch to the ``.grad`` of the parameters.

        Args:
            losses: (tasks,) losses with their graph; NaN where the task has no label in the batch. Or as many scalars,
                each with a graph of its own: methods that combine gradients then go through every graph once.
            parameters: everything that is trained. Methods that only weight losses do not need it.
            shared: parameters that tasks share, if only these are to be balanced; None means all parameters.
            scaler: multiplies what is differentiated, for float16.
        """

    def before_step(self, again: Callable[[], Tensor], parameters: Iterable[Tensor]) -> None:
        """What is to be done between the gradient and the optimiser's step, before gradients are clipped.

        Args:
            again: gives the (tasks,) losses of the same batch at the present parameters.
            parameters: what the balanced gradient is about; each has its ``.grad``.
        """

    def after_step(self, again: Callable[[], Tensor]) -> None:
        """What is to be done after the optimiser's step.

        Args:
            again: gives the (tasks,) losses of the same batch at the present parameters.
        """

    @final
    def step(
        self,
        losses: Callable[[], Tensor | Sequence[Tensor]],
        optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module | None = None,
        shared: Sequence[Tensor] | None = None,
        scaler: GradScaler | None = None,
        max_norm: float | None = None,
    ) -> Tensor:
        """One training step: losses, balanced gradient, clipping, optimiser, new weights.

        Args:
            losses: gives the (tasks,) losses of the batch at the present parameters, NaN for tasks without a label in
                it (see :func:`coterie.balancing.task_means`), or as many scalars with graphs of their own, which is
                faster for methods that combine gradients when each task has its own rows. Some methods call it a
                second time, without a graph and with the same random numbers. For mixed precision it enters
                ``torch.autocast`` itself.
            optimizer: steps the parameters.
            model: needed when it has BatchNorm, so that a second call leaves the running statistics alone.
            shared: parameters that tasks share, if only these are to be balanced; None means all of the optimiser's.
            scaler: for float16.
            max_norm: clip the norm of the balanced gradient to this.

        Returns:
            (tasks,) losses before the step, detached; NaN where missing. Nothing is changed when all are missing.

        Raises:
            SettingError: when the losses have another shape, or the method cannot use them.
            ModelError: when losses are NaN because parameters are NaN or infinite.
        """
        if not callable(losses):
            raise SettingError(
                f"Parameter `losses` should be a function that gives the losses. Found a value of type "
                f"{type(losses).__name__}. Write lambda: losses_of(batch); some methods call it a second time."
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        apart: list[Tensor] = []

        def stacked() -> Tensor:
            found = losses()
            apart[:] = found if isinstance(found, list | tuple) else ()
            # anything else than tensors fails in the check
            return torch.stack(apart) if apart else found  # pyright: ignore[reportReturnType]

        replay = Replay(stacked, model, keep=self.due)
        values = replay()
        self.check(values)
        if complete(values):
            self._missing.clear()
            self._whole.append(values)
        else:
            missing = values.isnan()
            if self.members is None:  # whoever stacks models looks after each of them
                self._missing(missing, parameters)
            if bool(missing.all()):  # a batch without any label has nothing to teach
                return values.detach()
        optimizer.zero_grad()
        try:
            self.backward(tuple(apart) or values, parameters, shared=shared, scaler=scaler)
        finally:  # no graph is kept
            self._whole.clear()
        if scaler is not None:
            scaler.unscale_(optimizer)
        self.before_step(replay, parameters if shared is None else shared)
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        self.after_step(replay)
        return values.detach()

    def check(self, losses: Tensor) -> None:
        """Raise SettingError unless these can be the losses of a batch."""
        if not isinstance(losses, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(
                f"Parameter `losses` should give a tensor of shape {self.shape}. Found a value of type "
                f"{type(losses).__name__}. Give one loss a task, for example torch.stack([...])."
            )
        if losses.shape != self.shape or not losses.is_floating_point():
            raise SettingError(
                f"Parameter `losses` should be a floating-point tensor of shape {self.shape}. Found shape "
                f"{tuple(losses.shape)} and {losses.dtype}. Give one loss a task, for example "
                "torch.stack([...]), and NaN for tasks without a label in the batch."
            )

    def get_extra_state(self) -> Any:
        """The number of steps, for ``state_dict``."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Any) -> None:
        """Take the number of steps from a ``state_dict``."""
        self.steps = int(state)
