"""``--workers`` and ``--dask``: where a verb trains."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import contextmanager


@contextmanager
def where(workers: int | None, dask: str | None) -> Generator[Executor | None]:
    """The executor that the options name, for the time of a command; None is this process.

    With either option torch computes with one thread, also in this process: then the number of workers changes
    nothing in the results.

    Raises:
        SettingError: both options were given.
        WorkerError: the scheduler cannot be reached.
        MissingDependencyError: distributed is not installed.
    """
    from coterie.errors import SettingError

    if workers is not None and dask is not None:
        raise SettingError("Options --workers and --dask exclude each other: give one of them.")
    if workers is None and dask is None:
        yield None
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if dask is not None:
            with _dask(dask) as executor:
                yield executor
        elif workers is None or workers == 1:
            yield None
        else:
            from coterie.executors import LocalExecutor

            with LocalExecutor(workers) as executor:
                yield executor
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _dask(address: str) -> Generator[Executor]:
    from coterie.errors import WorkerError, require

    distributed = require("distributed", extra="cluster", purpose="--dask")
    try:
        client = distributed.Client(address)
    except (OSError, ValueError, TypeError) as error:
        raise WorkerError(
            f"No Dask scheduler answers at {address!r} ({error}). Start one with `dask scheduler`, workers with "
            "`dask worker ADDRESS --nthreads 1`, and give the address that it prints, such as tcp://host:8786."
        ) from error
    with client:
        yield client.get_executor()
