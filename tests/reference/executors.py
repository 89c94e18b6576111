"""Executors that fail in known ways, and workers that die."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any


class Inline(Executor):
    """Runs every call at once in this process, after bringing it through the answers that were prepared for it.

    Args:
        trouble: what happens to the first calls: an exception that the future has, or None for nothing.
    """

    def __init__(self, *trouble: BaseException | None) -> None:
        self.trouble, self.calls = list(trouble), 0
        self.arguments: list[tuple[Any, ...]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls += 1
        self.arguments.append(args)
        problem = self.trouble.pop(0) if self.trouble else None
        if problem is None:
            future.set_result(fn(*args, **kwargs))
        else:
            future.set_exception(problem)
        return future


class KilledWorker(Exception):
    """Named as the error of Dask."""


def lost() -> list[BaseException]:
    """One error of every kind that says that a worker is gone."""
    return [KilledWorker("a task"), BrokenProcessPool("a process"), type("CommClosedError", (OSError,), {})("a line")]


def double(value: int, item: int) -> int:
    """A job."""
    return value * item


def fail(value: Any, item: Any) -> Any:
    """A job with an error."""
    raise item if isinstance(item, Exception) else ValueError(f"no {item}")


class Strange(Exception):
    """Cannot be sent: unpickling it lacks an argument, and packages that mend this cannot pickle its lock."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)
        self.lock = threading.Lock()


def strange(value: Any, item: Any) -> None:
    raise Strange("odd", " things")


def die_once(marker: str, item: int) -> int:
    """Kills its own process when it runs for the first time."""
    path = Path(marker)
    if item == 1 and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item + 1


def die(value: Any, item: int) -> int:
    """Kills its own process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def warn(value: Any, item: int) -> int:
    import warnings

    from coterie.errors import NumericsWarning

    warnings.warn(f"number {item}", NumericsWarning, stacklevel=1)
    return item


def threads(value: Any, item: int) -> int:
    import torch

    return torch.get_num_threads()


def fail_at_one(value: Any, item: int) -> int:
    if item == 1:
        raise ValueError("no 1")
    return item
