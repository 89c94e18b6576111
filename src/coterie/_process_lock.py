"""Threads take turns wherever something belongs to the whole process: random numbers, kernels, filters of warnings."""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

_FILTERS = ("filters", "showwarning", "_showwarnmsg_impl")


class ProcessLock:
    """A lock that a thread may take again while it holds it, and that is handed on in the order of asking.

    A thread that waits for others, as for the jobs of an executor of threads, gives it away meanwhile, with the filters
    of warnings as they were before it came.

    Example:
        >>> mine = ProcessLock()
        >>> with mine, mine:
        ...     mine.held
        True
        >>> mine.held
        False
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._change = threading.Condition()
        self._queue: deque[object] = deque()
        self._owner: int | None = None
        self._depth = 0
        self._before: dict[str, Any] = {}

    @property
    def held(self) -> bool:
        """Whether this thread has it."""
        return self._owner == threading.get_ident()

    def __enter__(self) -> None:
        if not self.held:
            self._take()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        if not self.held:  # interrupted while it waited to have its turn back
            return
        self._depth -= 1
        if not self._depth:
            self._leave()

    def _take(self) -> None:
        ticket = object()
        with self._change:
            self._queue.append(ticket)
            try:
                while self._owner is not None or self._queue[0] is not ticket:
                    self._change.wait()
                self._owner = threading.get_ident()
            finally:
                self._queue.remove(ticket)
                self._change.notify_all()
        self._before = {name: getattr(warnings, name) for name in _FILTERS}

    def _leave(self) -> None:
        with self._change:
            self._owner = None
            self._change.notify_all()

    @contextmanager
    def away(self) -> Generator[None]:
        """Others may come while the block lasts; nothing happens where this thread does not have its turn.

        Random numbers and kernels are not put back for them, so the block must not be inside of what changes those.
        """
        if not self.held:
            yield
            return
        depth, own = self._depth, {name: getattr(warnings, name) for name in _FILTERS}
        _set(self._before)
        self._depth = 0
        self._leave()
        try:
            yield
        finally:
            self._take()
            self._depth = depth
            _set(own)

    def offer(self) -> None:
        """Let those come first who wait already; called between trainings and between units of a run."""
        if self._queue:
            with self.away():
                pass

    def after_fork(self) -> None:
        """In a forked process no other thread is left that could hand it on, or waits for it."""
        if self.held:
            self._change = threading.Condition()
            self._queue.clear()
        else:
            self._begin()


def _set(filters: dict[str, Any]) -> None:
    for name, value in filters.items():
        setattr(warnings, name, value)
    warnings._filters_mutated()  # type: ignore[attr-defined]  # pyright: ignore


#: the lock of this process
process_lock = ProcessLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process_lock.after_fork)
