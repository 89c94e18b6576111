"""The loop of a study over a function, a trainer or a command: ask, have it done, tell."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from coterie.errors import ModelError, SettingError, WorkerError
from coterie.study.runs import StudyRun

if TYPE_CHECKING:
    from coterie.study.study import Study

#: so many failures in a row are the function's fault and not that of a subset
PATIENCE = 3
#: how often a run whose worker was lost is sent again before it is told as failed
_RETRIES = 2
#: so many signs of life reach the storage in the time after which a run is asked for again
_BEATS = 4
#: longest pause between two signs of life, in seconds: `wait` takes no longer times on some systems
_LONGEST = 3600.0


def optimize(
    study: Study,
    work: Any,
    runs: int | None,
    executor: Executor | None,
    told: Callable[[StudyRun], None] | None = None,
) -> list[StudyRun]:
    """See :meth:`coterie.study.Study.optimize`.

    Args:
        study: where runs are asked for and told.
        work: a function of (tasks, seed), a trainer, or an object with ``report(run)``.
        runs: of the study when all is done; None: until there are enough.
        executor: where it works.
        told: called with every run that was told.
    """
    call = _call_of(work)
    loop = _Loop(study, runs, told)
    if executor is None:
        while (run := loop.ask()) is not None:
            with loop.given_back(run), _beating(study, run):
                answer = _attempt(call, run)
            loop.tell(run, answer)
    else:
        _spread(loop, call, executor)
    return loop.done


def _call_of(work: Any) -> Callable[[StudyRun], Any]:
    """What does a run."""
    for name in ("report", "train"):
        if callable(getattr(work, name, None)):
            return cast("Callable[[StudyRun], Any]", getattr(work, name))
    if callable(work):
        return _Function(work)
    raise SettingError(
        f"Parameter `function` should be a function of (tasks, seed), or a trainer. Found {type(work).__name__}."
    )


class _Function:
    """A function of tasks, or in a study of mixtures of shares, and seed as one of a run."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, run: StudyRun) -> Any:
        return self.function(run.tasks if run.shares is None else dict(run.shares), run.seed)


class _Failed:
    """Why a run brought nothing."""

    def __init__(self, error: BaseException) -> None:
        own = isinstance(error, ModelError)
        self.reason = str(error) if own else f"{type(error).__name__}: {error}"


def _attempt(call: Callable[[StudyRun], Any], run: StudyRun) -> Any:
    """What a run brought, or why it failed."""
    try:
        return call(run)
    except Exception as error:
        return _Failed(error)


def _attempt_there(data: bytes, run: StudyRun) -> Any:
    """The same on a worker."""
    try:
        call = pickle.loads(data)  # noqa: S301 - our own bytes, from the process that asks
    except Exception as error:
        return _Failed(error)
    return _attempt(call, run)


class _Loop:
    """What was told so far."""

    def __init__(self, study: Study, runs: int | None, told: Callable[[StudyRun], None] | None) -> None:
        self.study, self.runs, self.told = study, runs, told
        self.done: list[StudyRun] = []
        self.failures = 0

    def ask(self) -> StudyRun | None:
        """The next run, or None where there are enough."""
        return self.study.ask_within(self.runs, stop=self.runs is None)

    @contextmanager
    def given_back(self, run: StudyRun) -> Generator[None]:
        """Let a run be asked for again when this process is interrupted."""
        try:
            yield
        except BaseException:
            self.study.give_back(run)
            raise

    def tell(self, run: StudyRun, answer: Any) -> None:
        """Keep what a run brought."""
        reason = answer.reason if isinstance(answer, _Failed) else None
        if reason is None:
            try:
                found = self.study.tell(run, answer)
            except SettingError as error:
                reason = f"It brought no losses that can be kept. {error}"
        if reason is not None:
            found = self.study.tell(run, failed=reason)
        self.done.append(found)  # pyright: ignore[reportPossiblyUnboundVariable] - told in one way or the other
        if self.told is not None:
            self.told(self.done[-1])
        self.failures = self.failures + 1 if reason else 0
        if self.failures >= PATIENCE:
            raise ModelError(
                f"{self.failures} runs in a row failed, the last one, run {run.number} on {list(run.tasks)!r:.80}, for "
                f"this: {reason} Runs that were told are kept; the same call goes on after the cause is gone."
            )


@contextmanager
def _beating(study: Study, run: StudyRun) -> Generator[None]:
    """Say now and then that a run goes on."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_pause(study)):
            study.keep_alive(run)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _pause(study: Study) -> float:
    return min(study.settings.reask_after / _BEATS, _LONGEST)


def _slots(executor: Executor) -> int:
    """How many runs go on at a time."""
    for name in ("workers", "_max_workers"):
        if isinstance(found := getattr(executor, name, None), int):
            return found
    client = getattr(executor, "_client", None)  # of Dask
    return max(1, sum(client.nthreads().values())) if client is not None else 1


def _spread(loop: _Loop, call: Callable[[StudyRun], Any], executor: Executor) -> None:
    """As many runs at a time as the executor has workers."""
    here = isinstance(executor, ThreadPoolExecutor)
    data = b"" if here else _packed(call)
    under_way: dict[Future[Any], StudyRun] = {}
    lost: dict[int, int] = {}

    def send(run: StudyRun) -> None:
        work: tuple[Any, ...] = (_attempt, call, run) if here else (_attempt_there, data, run)
        try:
            under_way[executor.submit(*work)] = run
        except Exception as error:
            loop.study.give_back(run)
            raise WorkerError(f"The executor takes no work ({type(error).__name__}: {error}).") from error

    try:
        more = True
        while more or under_way:
            while more and len(under_way) < _slots(executor):
                run = loop.ask()
                more = run is not None
                if run is not None:
                    send(run)
            ended, _ = wait(under_way, timeout=_pause(loop.study), return_when=FIRST_COMPLETED)
            for future in [*under_way] if not ended else ():
                loop.study.keep_alive(under_way[future])
            for future in ended:
                run = under_way.pop(future)
                try:
                    answer = future.result()
                except Exception as error:  # the worker was lost, not the run
                    lost[run.number] = lost.get(run.number, 0) + 1
                    if lost[run.number] <= _RETRIES:
                        send(run)
                        continue
                    answer = _Failed(error)
                loop.tell(run, answer)
    finally:
        for future, run in under_way.items():
            future.cancel()
            loop.study.give_back(run)


def _packed(call: Callable[[StudyRun], Any]) -> bytes:
    """A function as bytes for workers."""
    from coterie.workload.travel import pack

    try:
        return pack(call)
    except Exception as error:
        raise WorkerError(
            f"The function cannot be sent to workers ({type(error).__name__}: {error}). Define it at the top level of "
            "a module that they can import, or install cloudpickle."
        ) from error
