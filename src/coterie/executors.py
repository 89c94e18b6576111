"""Executors: where independent jobs run, given as ``executor=...``.

Any ``concurrent.futures.Executor`` whose processes can import Coterie will do: ``Client(...).get_executor()`` of Dask,
``MPIPoolExecutor`` of mpi4py, :class:`LocalExecutor` for processes of this machine, :class:`SubmititExecutor` for
Slurm. See docs/cluster.md.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from coterie._check import is_whole
from coterie._executor import LostWorkerError
from coterie._spawn import refuse_unguarded, stdout_on_stderr, why_none_starts
from coterie._surface import known_arguments
from coterie.errors import SettingError

__all__ = ["LocalExecutor", "SubmititExecutor"]

T = TypeVar("T")


@known_arguments
class LocalExecutor(Executor):
    """Processes of this machine, replaced when they are lost.

    A ``ProcessPoolExecutor`` takes no more jobs once the system has killed one of its processes, for lack of memory for
    instance; this one starts new ones. The processes are spawned, so a script that makes one does its work below
    ``if __name__ == "__main__":``. They end with the process that made them. What they print goes to stderr.

    Args:
        workers: number of processes.

    Raises:
        SettingError: when `workers` is no positive number.
        WorkerError: when the script that makes one would make it again in every process; in ``submit``, when the
            processes end as soon as they start, with the reason.

    Example:
        >>> with LocalExecutor(2) as executor:
        ...     executor.workers
        2
    """

    def __init__(self, workers: int) -> None:
        if not is_whole(workers) or workers < 1:
            raise SettingError(f"Parameter `workers` should be a number of processes, at least 1. Found {workers!r}.")
        refuse_unguarded()
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._closed = self._started = False

    @property
    def window(self) -> int:
        """Calls that should be under way at a time: a process that is killed takes all of them with it."""
        return 2 * self.workers

    def _open(self) -> ProcessPoolExecutor:
        if self._closed:
            raise RuntimeError("The executor was shut down.")
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
            self._begun = context.Event()
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_begin, initargs=(self._begun,)
            )
        return self._pool

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run a call in a process, of a new pool where the old one lost some; the first waits until a process is up."""
        with stdout_on_stderr():
            try:
                future = self._open().submit(fn, *args, **kwargs)
            except BrokenProcessPool:
                self._end(wait=False)
                future = self._open().submit(fn, *args, **kwargs)
        if not self._started:
            self._await(future)
        return future

    def _await(self, first: Future[Any]) -> None:
        """Wait for the first process: one that cannot start tells the reason at once, and no second one is tried."""
        while not (self._begun.wait(0.05) or first.done()):
            pass
        self._started = self._begun.is_set()
        reason = None if self._started else why_none_starts()
        if reason is not None:
            raise reason

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """End the processes; after an error at once, whatever they do."""
        if kind is not None:
            self.kill()
        self.shutdown(wait=kind is None)

    def kill(self) -> None:
        """Stop the processes in the middle of their work."""
        processes: dict[int, Any] = getattr(self._pool, "_processes", None) or {}
        for process in list(processes.values()):
            process.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; no more calls are taken."""
        self._closed = True
        self._end(wait, cancel_futures=cancel_futures)

    def _end(self, wait: bool, *, cancel_futures: bool = False) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait, cancel_futures=cancel_futures)
            self._pool = None


def _begin(begun: Any) -> None:
    """End this process when the one that started it is gone, however it went; Ctrl-C is for that one alone."""
    begun.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@known_arguments
class SubmititExecutor(Executor):
    """An executor of the package submitit (Slurm jobs, or processes of this machine) with the standard interface.

    Every call becomes one job of the cluster, so this pays for jobs of minutes. A job that ends without an answer
    (cancelled, out of memory, node lost) is reported as a lost worker and sent again a few times.

    Args:
        executor: a ``submitit.AutoExecutor`` or any other of its executors, with its parameters set.
        poll: seconds between looks at the jobs.

    Raises:
        SettingError: when `poll` is no positive number.
    """

    def __init__(self, executor: Any, *, poll: float = 2.0) -> None:
        if not poll > 0:
            raise SettingError(f"Parameter `poll` should be a positive number of seconds. Found {poll!r}.")
        self._executor, self._poll = executor, poll
        self._jobs: dict[Future[Any], Any] = {}
        self._change, self._closed = threading.Condition(), False
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a call as one job."""
        future: Future[T] = Future()
        with self._change:
            if self._closed:
                raise RuntimeError("The executor was shut down.")
            self._jobs[future] = self._executor.submit(fn, *args, **kwargs)
            self._change.notify_all()
        return future

    def _watch(self) -> None:
        while True:
            with self._change:
                while not self._jobs and not self._closed:
                    self._change.wait()
                if not self._jobs:
                    return
                jobs = dict(self._jobs)
            for future, job in jobs.items():
                try:
                    if not _ended(future, job):
                        continue
                except Exception as error:  # this thread has to go on, or nobody would hear of the other jobs
                    if not future.done():
                        future.set_exception(LostWorkerError(f"{type(error).__name__}: {error}"))
                with self._change:
                    del self._jobs[future]
            with self._change:
                self._change.wait(self._poll if len(self._jobs) else 0)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; wait for those under way."""
        with self._change:
            self._closed = True
            if cancel_futures:
                for future in self._jobs:
                    future.cancel()
            self._change.notify_all()
        if wait:
            self._watcher.join()


def _ended(future: Future[Any], job: Any) -> bool:
    """Whether nothing more is to be expected of a job."""
    if future.cancelled():
        job.cancel(check=False)
    elif job.done():
        _settle(future, job)
    else:
        return False
    return True


def _settle(future: Future[Any], job: Any) -> None:
    """Hand over what a job left behind."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        error = job.exception()
    except Exception as lost:  # submitit found neither a result nor an error
        error = lost
    if error is None:
        future.set_result(job.result())
    else:
        gone = LostWorkerError(f"{type(error).__name__}: {error}")
        future.set_exception(error if type(error).__name__ == "FailedJobError" else gone)
