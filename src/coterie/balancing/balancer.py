"""What every way of balancing tasks has in common: one training step."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from coterie._check import is_whole
from coterie.balancing.shares import complete
from coterie.errors import CoterieWarning, ModelError, SettingError

_FLAG = "track_running_stats"


class Replay:
    """A function that gives the losses of a batch; from the second call on it leaves no trace.

    Methods that compare losses before and after a small change of the parameters need the same batch and the same
    dropout masks, or the noise between two passes drowns the change. The first call is an ordinary one. Later calls use
    the random numbers of the first, build no graph, and leave random numbers and running statistics as they were.

    Args:
        losses: gives the (tasks,) losses of the batch at the model's present parameters.
        model: needed when it has BatchNorm: its running statistics are left alone in later calls.
        keep: False does not remember the random numbers; later calls then draw new ones.

    Example:
        >>> from torch.nn.functional import dropout
        >>> replay = Replay(lambda: dropout(torch.ones(4)))
        >>> bool((replay() == replay()).all())
        True
    """

    def __init__(self, losses: Callable[[], Tensor], model: nn.Module | None = None, *, keep: bool = True) -> None:
        self._losses, self._model, self._keep = losses, model, keep
        self._states: list[Tensor] | None = None
        self._called = False

    def __call__(self) -> Tensor:
        """The losses at the present parameters."""
        if not self._called:
            self._called = True
            self._states = _random_states() if self._keep else None
            return self._losses()
        now = _random_states()
        _set(self._states or now)
        try:
            with torch.no_grad():
                if self._model is None:
                    return self._losses()
                with still_statistics(self._model):
                    return self._losses()
        finally:  # everything goes on as if nothing had been drawn
            _set(now)


@contextlib.contextmanager
def still_statistics(model: nn.Module | None) -> Generator[None]:
    """BatchNorm in training mode normalises with its batch as always, but does not update its running statistics."""
    norms = [] if model is None else [module for module in model.modules() if _updates_statistics(module)]
    for norm in norms:
        vars(norm)[_FLAG] = False
    try:
        yield
    finally:
        for norm in norms:
            vars(norm)[_FLAG] = True


def _updates_statistics(module: nn.Module) -> bool:
    return module.training and bool(vars(module).get(_FLAG, False))


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def _set(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


#: parameters are looked at when a task was missing so many steps in a row, and at most once in so many steps
PATIENCE = 8
#: so many steps in a row without a loss for any task, or for one, are worth a word
ALL_MISSING, ONE_MISSING = 20, 1000


class MissingLossCounter:
    """Counts for how many steps in a row the tasks of one model had a loss of NaN.

    Args:
        tasks: number of tasks.
    """

    def __init__(self, tasks: int) -> None:
        self._rows, self._empty, self._since = [0] * tasks, 0, PATIENCE
        self._counts = False

    def clear(self) -> None:
        """Start anew after a step in which every task had a loss."""
        if self._counts:
            self._rows, self._empty, self._counts = [0] * len(self._rows), 0, False

    def __call__(self, missing: Tensor, parameters: Sequence[Tensor]) -> None:
        """Look at the losses of a step.

        Args:
            missing: (tasks,) whose loss was NaN.
            parameters: everything that is trained.

        Raises:
            ModelError: when a parameter is NaN or infinite.
        """
        gone: list[bool] = missing.tolist()
        self._counts = True
        self._rows = [row + 1 if one else 0 for row, one in zip(self._rows, gone, strict=True)]
        self._since += 1
        if all(gone) or (max(self._rows) >= PATIENCE and self._since >= PATIENCE):
            self._since = 0
            _check(parameters)
        self._empty = self._empty + 1 if all(gone) else 0
        if self._empty == ALL_MISSING:
            _warn("every task", ALL_MISSING)
        elif not self._empty and ONE_MISSING in self._rows:
            _warn(f"task number {self._rows.index(ONE_MISSING)}", ONE_MISSING)


def _check(parameters: Sequence[Tensor]) -> None:
    some = [parameter for parameter in parameters if parameter.numel()]  # nothing has no largest number
    lengths = list(torch._foreach_norm(some, float("inf"))) if some else []  # pyright: ignore[reportPrivateImportUsage]
    if lengths and not bool(torch.stack([length.float() for length in lengths]).isfinite().all()):
        raise ModelError(
            "Losses are NaN because parameters of the model are NaN or infinite: the training has diverged. Frequent "
            "causes are a learning rate that is too large, and missing labels of NaN that go through the loss before "
            "they are masked, whose gradient is NaN: put 0 in their place first, as in y.nan_to_num()."
        )


def _warn(who: str, steps: int) -> None:
    warnings.warn(
        f"The loss of {who} was NaN, which stands for no label, in {steps} steps in a row. If there are labels, look "
        "for NaN or infinite inputs, or a loss that divides by zero.",
        CoterieWarning,
        stacklevel=4,
    )


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
