"""The losses of one batch, asked for more than once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

import torch
from torch import Tensor, nn

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
