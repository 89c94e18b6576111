"""Threads of one process: turns, and results that do not depend on who else is at work."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie import Context
from coterie._process_lock import ProcessLock, process_lock
from coterie._random import random_numbers
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import Recipe, Workload, from_arrays


def start(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ended(*threads: threading.Thread, seconds: float = 60.0) -> bool:
    for thread in threads:
        thread.join(seconds)
    return not any(thread.is_alive() for thread in threads)


def status_of(child: int) -> int:
    """How a forked process ended; one that does not is killed after five seconds."""
    for _ in range(500):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 9


def test_turns_are_taken_in_the_order_of_asking_and_again_by_who_has_it() -> None:
    lock, seen = ProcessLock(), list[int]()
    threads: list[threading.Thread] = []

    def ask(number: int) -> None:
        with lock, lock:
            seen.append(number)

    with lock:
        for number in range(5):
            threads.append(start(lambda number=number: ask(number)))
            while len(lock._queue) <= number:
                time.sleep(0.001)
        with pytest.raises(ValueError, match="inside"), lock:
            raise ValueError("inside")
        assert lock.held
        assert not seen
        lock.offer()
        assert seen == [0, 1, 2, 3, 4]
        assert lock.held
    assert ended(*threads)
    assert not lock.held


def test_filters_of_warnings_are_those_of_who_has_the_turn() -> None:
    lock = ProcessLock()
    before = list(warnings.filters)
    inside, other = list[Any](), list[Any]()

    def look() -> None:
        with lock:
            other.extend(warnings.filters)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                warnings.warn("of the other", UserWarning, stacklevel=1)
            assert len(caught) == 1

    with lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside.extend(warnings.filters)
        with lock.away():
            assert ended(start(look))
        assert warnings.filters == inside
        warnings.warn("of mine", UserWarning, stacklevel=1)
    assert [str(item.message) for item in caught] == ["of mine"]
    assert other == before == warnings.filters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not() -> None:
    go, hold = threading.Event(), threading.Event()

    def keep() -> None:
        with process_lock:
            go.set()
            hold.wait()

    thread = start(keep)
    go.wait()
    child = os.fork()
    if not child:
        with process_lock:
            os._exit(0)
    status = status_of(child)
    hold.set()
    assert status == 0
    assert ended(thread)


def test_an_interrupted_wait_takes_the_turn_from_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a thread waits to have its turn back."""
    lock, go, hold = ProcessLock(), threading.Event(), threading.Event()

    def keep() -> None:
        with lock, lock:
            go.set()
            hold.wait()

    def wait_and_interrupt() -> None:
        with lock, lock, lock.away():
            threads.append(start(keep))
            go.wait()
            monkeypatch.setattr(lock._change, "wait", interrupt)

    def interrupt() -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    threads: list[threading.Thread] = []
    with pytest.raises(KeyboardInterrupt):
        wait_and_interrupt()
    assert not lock.held
    assert lock._depth == 2  # of the other thread
    hold.set()
    assert ended(*threads)
    with lock:  # free again
        assert lock.held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_by_who_has_the_turn_waits_for_nobody() -> None:
    with process_lock:
        thread = start(process_lock.__enter__)  # waits in the parent only
        while not process_lock._queue:
            time.sleep(0.001)
        child = os.fork()
        if not child:
            process_lock.offer()
            os._exit(0 if process_lock.held else 3)
        status = status_of(child)
    assert ended(thread)
    assert status == 0
    process_lock.after_fork()  # what the thread has taken and not given back


def work_for(seed: int = 0, dropout: float = 0.0) -> Workload:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(90, 4))
    y = (x[:, [0, 0, 1]] + rng.normal(size=(90, 3)) > 0).astype(float)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3))

    return from_arrays(x, y, tasks=["a", "b", "c"], build_model=build, recipe=Recipe(epochs=2, check_every=3))


def trained(seed: int) -> bytes:
    fits = fit(work_for(seed, 0.3), [Job((0,), seed), Job((1, 2), seed)], backend="loop")
    return b"".join(value.numpy().tobytes() for fitted in fits for value in fitted.state.values())


def estimated(seed: int) -> bytes:
    methods = ("secants", "tag", "task-vectors")
    options = {} if methods[seed % 3] == "tag" else {"bases": 1}
    found = coterie.estimate_affinity(work_for(seed, 0.2), method=methods[seed % 3], order="pairwise", **options)[0]
    return found.values.tobytes()


def whole(seed: int) -> tuple[bytes, tuple[str, ...]]:
    result = coterie.run(work_for(seed, 0.2 * (seed % 2)), groups=2, seeds=1, bases=1, method="secants")
    return result.affinity.values.tobytes() + result.comparison.test.tobytes(), tuple(result.to_dict()["warnings"])


def in_threads(call: Callable[[int], Any], seeds: list[int], threads: int) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, seeds))


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize("call", [trained, estimated, whole])
def test_results_in_threads_are_those_of_one_after_the_other(call: Callable[[int], Any]) -> None:
    alone = [call(seed) for seed in range(3)]
    before = list(warnings.filters), torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    assert len(set(alone)) == 3
    times = 1 if call is whole else 4
    assert in_threads(call, [0, 1, 2] * times, 3 * times) == alone * times
    assert warnings.filters == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.backends.mha.get_fastpath_enabled() == before[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_two_hundred_runs_in_threads_are_those_of_one_after_the_other() -> None:
    alone = [whole(seed) for seed in range(4)]
    assert in_threads(whole, [0, 1, 2, 3] * 50, 8) == alone * 50


class Here(Executor):
    """Does every job where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Full(ThreadPoolExecutor):
    """Lets submit wait until a thread is free."""

    def __init__(self) -> None:
        super().__init__(1)
        self.free = threading.Semaphore(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.free.acquire()
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self.free.release())
        return future


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize("make", [Here, Full, lambda: ThreadPoolExecutor(2)], ids=["here", "full", "threads"])
def test_runs_in_threads_with_an_executor_come_to_their_end(make: Callable[[], Executor]) -> None:
    expected, found = whole(1)[0], list[bytes]()
    with make() as executor:

        def go() -> None:
            result = coterie.run(work_for(1, 0.2), groups=2, seeds=1, bases=1, method="secants", executor=executor)
            found.append(result.affinity.values.tobytes() + result.comparison.test.tobytes())

        assert ended(*[start(go) for _ in range(2)])
    assert found == [expected] * 2


def test_a_long_run_lets_others_in_between_its_trainings() -> None:
    order: list[str] = []
    begun = threading.Event()

    def tell(stage: str, done: int, total: int) -> None:
        del stage
        begun.set()
        order.append("training")

    jobs = [Job((0, 1), seed, early_stopping=False) for seed in range(30)]

    def train() -> None:
        with process_lock:  # as in a comparison, which has it all the time
            fit(work_for(), jobs, backend="loop", context=Context(progress=tell))

    long = start(train)
    begun.wait()
    with random_numbers(seed=1):
        order.append("other")
    assert ended(long)
    assert "training" in order[order.index("other") :]
