"""The seam to several processes and machines: independent jobs through a ``concurrent.futures.Executor``.

Whatever is many independent jobs goes through :func:`run_jobs`. Without an executor the jobs run here, one after the
other. With one they are sent as bytes that :mod:`pickle` makes here and reads there, so that nothing depends on how an
executor carries tensors, and answers come back the same way, with the warnings that were raised and the seconds that
they took. What all jobs need travels in a :class:`Parcel`, which a process opens once and keeps.

A job computes the same numbers wherever it runs: it is cut out by the caller, whatever the number of workers, and torch
uses as many threads as it does in the caller. Jobs of one process take turns, because torch's random state and
Python's warnings belong to the process: an executor of threads works, but saves no time.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

from coterie._process_lock import process_lock
from coterie._progress import Progress, silent
from coterie._spawn import refuse_unguarded
from coterie._surface import warn
from coterie._worker import facts, work
from coterie.errors import CoterieError, WorkerError

#: how often a job that lost its worker is sent again: what ends its process every time is found out soon
RETRIES = 2
#: jobs under way at a time at most, fewer where they would hold more bytes than this, and so many in any case
WINDOW, WINDOW_BYTES, LEAST = 1024, 2**29, 64
#: errors by which executors say that a worker is gone: of concurrent.futures, of Dask, and our own
_LOST = {"BrokenExecutor", "KilledWorker", "CancelledError", "CommClosedError", "LostWorkerError"}

_log = logging.getLogger("coterie")

#: (text of the way, bytes; they are made when they are wanted)
Way = tuple[str, Callable[[], bytes]]
Warned = tuple[tuple[type[Warning], str], ...]


class LostWorkerError(Exception):
    """An executor's own way to say that the process of a job is gone; the job is sent again."""


class Parcel:
    """What all jobs of a kind need, and the ways in which it can travel.

    Args:
        value: the object itself, for jobs in this process.
        ways: in order of preference. A way's bytes unpickle to something whose method ``open`` returns the object. When
            a way cannot be packed here, or not be opened there, the next one is taken.
        advice: what to do when there is none left.
    """

    def __init__(self, value: Any, ways: Sequence[Way], advice: str) -> None:
        self.value = value
        self._every, self._advice = tuple(ways), advice
        self._begin()

    def _begin(self) -> None:
        self._ways, self._reasons = deque(self._every), list[str]()
        self._data: bytes | None = None

    @property
    def data(self) -> bytes:
        """Bytes of the first way that works.

        Raises:
            WorkerError: when none is left.
        """
        while self._data is None:
            if not self._ways:
                reasons = "; ".join(self._reasons)
                self._begin()  # other workers may open what these could not
                raise WorkerError(f"The jobs cannot be sent to the workers: {reasons}. {self._advice}.")
            try:
                self._data = self._ways[0][1]()
            except Exception as error:  # whatever a user's object does when it is pickled
                self._give_up(f"{type(error).__name__}: {error}")
        return self._data

    def refused(self, data: bytes, reason: str) -> None:
        """A worker could not open these bytes."""
        if data is self._data:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self._reasons.append(f"{self._ways.popleft()[0]} ({reason})")
        self._data = None


@dataclass(frozen=True, eq=False)
class Done:
    """A finished job.

    Attributes:
        result: what the function returned.
        seconds: how long it took where it ran.
        warned: warnings that it raised there; :func:`say` raises them here.
    """

    result: Any
    seconds: float
    warned: Warned = ()


def reissue_warnings(warned: Warned) -> None:
    """Raise warnings of a worker in this process, each once."""
    for category, text in dict.fromkeys(warned):
        warn(text, category)


def run_jobs(
    executor: Executor | None,
    function: Callable[[Any, Any], Any],
    items: Sequence[Any],
    parcel: Parcel,
    *,
    stage: str = "jobs",
    progress: Progress | None = None,
    done: Callable[[int, Done], None] | None = None,
    retries: int = RETRIES,
) -> list[Done]:
    """Call ``function(parcel.value, item)`` for every item.

    Args:
        executor: where; None is this process.
        function: at the top level of a module of Coterie.
        items: anything that can be pickled.
        parcel: what all jobs need.
        stage: for the progress and for messages.
        progress: called as ``progress(stage, finished jobs, jobs)``.
        done: called with the number of an item and its outcome as soon as it is there, in any order. What is returned
            then has no results, so that they need not all be held at once.
        retries: how often a job that lost its worker is sent again.

    Returns:
        One outcome an item, in their order. Warnings of workers are in them; in this process they are raised at once.

    Raises:
        WorkerError: workers were lost too often, cannot take the jobs, or run other versions.

    An error of the function itself is raised as it is, after what has ended beside it was handed to `done`; jobs that
    have not started are cancelled.
    """
    tell = progress or silent
    if executor is None:
        found: list[Done] = []
        for number, item in enumerate(items):
            start = time.perf_counter()
            result = function(parcel.value, item)
            outcome = Done(result, time.perf_counter() - start)
            if done is not None:
                done(number, outcome)
            found.append(outcome if done is None else replace(outcome, result=None))
            tell(stage, number + 1, len(items))
        return found
    if isinstance(executor, ProcessPoolExecutor) and _spawns(executor):
        refuse_unguarded()
    return _Batch(executor, function, items, parcel, stage, tell, done, retries).run()


class _Batch:
    """Jobs under way."""

    def __init__(
        self,
        executor: Executor,
        function: Callable[[Any, Any], Any],
        items: Sequence[Any],
        parcel: Parcel,
        stage: str,
        progress: Progress,
        done: Callable[[int, Done], None] | None,
        retries: int,
    ) -> None:
        self.executor, self.function, self.items, self.parcel = executor, function, items, parcel
        self.stage, self.progress, self.done, self.retries = stage, progress, done, retries
        self.facts = facts()
        self.name, self.tries = uuid.uuid4().hex, itertools.count()
        self.waiting = deque(range(len(items)))
        self.under_way: dict[Future[bytes], tuple[int, bytes]] = {}
        self.lost = [0] * len(items)
        self.found: dict[int, Done] = {}

    def run(self) -> list[Done]:
        """All jobs to their end."""
        try:
            while self.waiting or self.under_way:
                while self.waiting and len(self.under_way) < self._window():
                    self._send(self.waiting.popleft())
                with process_lock.away():
                    ended, _ = wait(self.under_way, return_when=FIRST_COMPLETED)
                failure: Exception | None = None
                for future in sorted(ended, key=lambda future: self.under_way[future][0]):
                    number, data = self.under_way.pop(future)
                    try:
                        self._take(number, data, future)
                    except Exception as error:  # raised when the others are taken, which may complete a unit
                        failure = failure or error
                if failure is not None:
                    raise failure
        finally:
            for future in self.under_way:
                future.cancel()
        return [self.found[number] for number in range(len(self.items))]

    def _window(self) -> int:
        most: int = getattr(self.executor, "window", WINDOW)
        return min(most, max(LEAST, WINDOW_BYTES // len(self.parcel.data)))

    def _send(self, number: int) -> None:
        call = _pickled((self.function, self.items[number]), f"job {number + 1} of {self.stage!r}")
        data = self.parcel.data
        # no two calls look alike, or Dask would hand out the outcome of the first one for both
        ticket = f"{self.name}-{next(self.tries)}"
        try:
            with ExitStack() as stack:
                if type(self.executor).__module__.startswith("distributed"):  # it warns of large arguments
                    stack.enter_context(process_lock)
                    stack.enter_context(warnings.catch_warnings())
                    warnings.simplefilter("ignore", UserWarning)
                else:  # an executor may do the job here and now, or wait for a thread that is free
                    stack.enter_context(process_lock.away())
                future = self.executor.submit(work, ticket, call, data, self.facts)
        except CoterieError:
            raise
        except Exception as error:
            raise WorkerError(
                f"The executor takes no more jobs ({type(error).__name__}: {error}). {_closed(error)}"
                "Finished units of a run directory are kept: the same call goes on there."
            ) from error
        self.under_way[future] = (number, data)

    def _take(self, number: int, data: bytes, future: Future[bytes]) -> None:
        try:
            kind, *rest = pickle.loads(future.result())  # noqa: S301  # our own bytes, from a worker of the caller's
        except BaseException as error:
            there = future.done() and not future.cancelled() and future.exception() is error
            if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and not there):
                raise
            self._again(number, error)
            return
        if kind == "unopened":
            self.parcel.refused(data, cast("str", rest[0]))
            self.waiting.appendleft(number)
        elif kind == "failed":
            raise cast("BaseException", rest[0])
        else:
            self.found[number] = outcome = Done(*rest)
            if self.done is not None:
                with process_lock:  # jobs in threads of this process would mix up its warnings
                    self.done(number, outcome)
                self.found[number] = replace(outcome, result=None)
            self.progress(self.stage, len(self.found), len(self.items))

    def _again(self, number: int, error: BaseException) -> None:
        """Send a job again whose worker is gone."""
        name = type(error).__name__
        if not any(kind.__name__ in _LOST for kind in type(error).__mro__):
            raise WorkerError(
                f"A worker could not run a job of {self.stage!r} ({name}: {error}). Workers need the same versions of "
                "Coterie and torch as this process, and what the workload imports. Finished units of a run directory "
                "are kept: the same call goes on there."
            ) from error
        self.lost[number] += 1
        if self.lost[number] > self.retries:
            raise WorkerError(
                f"Job {number + 1} of {len(self.items)} of {self.stage!r} lost its worker {self.lost[number]} times "
                f"(last {name}: {error}). The likely causes are too little memory on a worker (allow less with "
                "`memory`, or run fewer workers on a machine), or code that ends its process, as a crash in a compiled "
                "module does (see what the workers wrote to stderr). Finished units of a run directory are kept: the "
                "same call goes on there."
            ) from error
        level = logging.WARNING if sum(self.lost) == 1 else logging.INFO  # one line, however many were beside it
        _log.log(level, "%s: job %d lost its worker (%s) and is sent again", self.stage, number + 1, name)
        time.sleep(0.05 * self.lost[number])
        self.waiting.appendleft(number)


def _spawns(executor: ProcessPoolExecutor) -> bool:
    """Whether the processes import the main module."""
    context = getattr(executor, "_mp_context", None)
    return context is not None and context.get_start_method() != "fork"


def _closed(error: Exception) -> str:
    """What to do about an executor that is broken for good."""
    if any(kind.__name__ == "BrokenExecutor" for kind in type(error).__mro__):
        return (
            "One of its processes was lost, which ends a ProcessPoolExecutor; coterie.executors.LocalExecutor replaces "
            "such processes. "
        )
    return ""


def _pickled(value: Any, what: str) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise WorkerError(f"{what} cannot be sent to a worker: {type(error).__name__}: {error}") from error
