"""What runs in a worker: one job, asked for in bytes and answered in bytes; see :mod:`coterie._executor`."""

from __future__ import annotations

import hashlib
import pickle
import time
import traceback
import warnings
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from coterie._process_lock import process_lock
from coterie.errors import CoterieError, WorkerError

#: opened parcels that a process keeps
_KEPT = 4
_opened: OrderedDict[str, Any] = OrderedDict()


def facts() -> dict[str, Any]:
    """What has to be the same where a job runs: versions, and what is set there for its time: threads."""
    import torch

    import coterie

    versions = {"coterie": coterie.__version__, "torch": torch.__version__.split("+")[0]}
    return {"threads": torch.get_num_threads(), "versions": versions}


def work(ticket: str, call: bytes, data: bytes, wanted: dict[str, Any]) -> bytes:
    """Run one job in a worker; what :func:`run_jobs` sends. Answers, also errors, come back as bytes."""
    del ticket
    import torch

    with process_lock:
        threads = torch.get_num_threads()
        torch.set_num_threads(wanted["threads"])
        try:
            return _answer(call, data, wanted)
        finally:
            torch.set_num_threads(threads)


def _answer(call: bytes, data: bytes, wanted: dict[str, Any]) -> bytes:
    own = facts()["versions"]
    if own != wanted["versions"]:
        error = WorkerError(
            f"A worker has {own}, but this run has {wanted['versions']}: results would differ. Install the same."
        )
        return pickle.dumps(("failed", error))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the caller said them when it made the object
            value = open_parcel(data)
    except (Exception, SystemExit) as error:  # code of the caller's may end the program, which is this worker's
        return pickle.dumps(("unopened", f"{type(error).__name__}: {error}"))
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function, item = pickle.loads(call)  # noqa: S301
            result = function(value, item)
        said = tuple((item.category, str(item.message)) for item in caught)
        return pickle.dumps(("done", result, time.perf_counter() - start, said))
    except (Exception, SystemExit) as error:
        return pickle.dumps(("failed", _portable(error)))


def open_parcel(data: bytes) -> Any:
    """The object in a parcel, opened once a process."""
    key = hashlib.sha256(data).hexdigest()
    if key not in _opened:
        _opened[key] = pickle.loads(data).open()  # noqa: S301
        while len(_opened) > _KEPT:
            _opened.popitem(last=False)
    _opened.move_to_end(key)
    return _opened[key]


def _portable(error: Exception | SystemExit) -> Exception:
    """The error, or one that says the same where it cannot be pickled; with the worker's traceback as a note."""
    note = "On a worker:\n" + "".join(traceback.format_exception(error))
    error.__cause__ = error.__context__ = None
    found = CoterieError(f"A job failed on a worker with {type(error).__name__}: {error}")
    if isinstance(error, Exception):  # SystemExit would end the caller
        with suppress(Exception):
            found = pickle.loads(pickle.dumps(error.with_traceback(None)))  # noqa: S301
    found.add_note(note)
    return found
