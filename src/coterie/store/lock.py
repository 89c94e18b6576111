"""One writer a directory: a lock that the system takes back when its owner dies."""

from __future__ import annotations

import json
import os
import platform
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from coterie._surface import warn
from coterie.errors import FallbackWarning, StoreError
from coterie.store.files import Place, writing

NAME = ".lock"


class RunLock:
    """An exclusive lock on a directory, held until :meth:`release` or the end of the process.

    The operating system holds the lock (``flock``), not the file's existence: a file that a killed process left behind
    locks nothing and is taken over.

    Raises:
        StoreError: when another writer holds it, the directory cannot be written, or a link stands there.
    """

    def __init__(self, place: Place) -> None:
        directory = place.path
        self.path = directory / NAME
        self._descriptor: int | None = None
        with writing(self.path):
            # nothing that stands there is emptied unless it is a file of this directory alone
            descriptor = place.open(NAME, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0))
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            owner = _owner(self.path)
            os.close(descriptor)
            raise StoreError(
                f"The run directory {str(directory)!r} is being written by {owner}. Wait until it ends, "
                "close that run (`with RunDirectory(...)` does), or choose another directory with `out`."
            ) from error
        except OSError as error:
            warn(
                f"The file system of {str(directory)!r} has no locks ({error.strerror}). "
                "Make sure that only one process writes to this run.",
                FallbackWarning,
            )
        self._descriptor = descriptor
        with suppress(OSError):  # who holds it is a courtesy, the lock is what counts
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        _HELD.add(self)
        self._finalizer = weakref.finalize(self, _close, descriptor, os.getpid())

    def release(self) -> None:
        """Let others write; harmless when called twice."""
        self._finalizer()
        self._descriptor = None
        _HELD.discard(self)

    def _forget(self) -> None:
        """In a forked child: give up the inherited handle, so that a child that outlives us does not hold the lock."""
        self._finalizer.detach()
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _close(descriptor: int, owner: int) -> None:
    if os.getpid() == owner:
        with suppress(OSError):
            os.close(descriptor)


def _forget_all() -> None:
    for lock in list(_HELD):
        lock._forget()  # pyright: ignore[reportPrivateUsage]
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _lock(descriptor: int) -> None:
    """Take the system's lock.

    Raises:
        BlockingIOError: another writer holds it.
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            # far behind the text, because Windows forbids others to read what is locked
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from error
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(path: Path) -> str:
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(path.read_text())
        if found["pid"] == os.getpid() and found["host"] == platform.node():
            return "this very process"
        return f"process {found['pid']} on {found['host']}"
    return "another process"
