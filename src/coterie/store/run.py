"""One directory a run: what is finished stays finished, whenever the process is killed."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import sys
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie._surface import warn
from coterie._units import SHARDS, Payload, drop_shards
from coterie.errors import FallbackWarning, SettingError, StoreError, StoreWarning
from coterie.store import manifest as _manifest
from coterie.store.arrays import MemoryRun, decode, encode, kinds_of, settle
from coterie.store.files import (
    Place,
    absolute,
    canonical,
    digest,
    json_bytes,
    make_directory,
    read_bytes,
    read_json,
    remove_temporary,
    to_plain,
    write_error,
    writing,
)

if TYPE_CHECKING:
    from coterie.workload import Workload

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


_UNIT = re.compile(r"[0-9a-f]{64}\.(safetensors|json)")
_FILES = (
    "result.json",
    "comparison.safetensors",
    "affinity.csv",
    "groups.json",
    "report.html",
    "benchmark.json",
    "benchmark.html",
    "serve.json",
    "serve.safetensors",
    "samples.safetensors",
    "affinity.png",
    "samples.png",
)


class RunDirectory:
    """A directory that holds one run: ``manifest.json``, ``units/``, ``result.json``, ``report.html``, served models.

    Every finished unit of work is written atomically under a key made of all that determines it. A run that was killed
    goes on where it was and gives the same numbers. JSON and safetensors only: nothing is ever unpickled.

    Args:
        path: the directory; made when it is not there.
        fingerprint: of the workload (:func:`coterie.workload.fingerprint.fingerprint`).
        settings: everything else that determines the result, JSON-ready.
        create: False opens only a run that is there already.
        overwrite: replace a run that is there instead of going on with it. Foreign files are left alone.
        workload: described in the manifest, so that a reader knows what the run was about.
        grows: settings that may be larger than those of the run that is there, which then goes on with these.

    Raises:
        StoreError: the directory holds a run of another workload or other settings, is damaged, cannot be written, or
            is being written by another process.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with RunDirectory(folder.name, fingerprint="f", settings={"seeds": 3}) as run:
        ...     payload = run.unit("square", {"of": 3}, lambda: Payload(meta={"value": 9}))
        >>> with RunDirectory(folder.name, fingerprint="f", settings={"seeds": 3}) as run:
        ...     run.unit("square", {"of": 3}, lambda: Payload(meta={"value": -1})).meta["value"]
        9
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fingerprint: str,
        settings: Mapping[str, Any],
        create: bool = True,
        overwrite: bool = False,
        workload: Workload | None = None,
        grows: Collection[str] = (),
    ) -> None:
        self.path = absolute(Path(path))
        self.units = self.path / "units"
        if not create:
            _manifest.read_manifest(self.path)
        make_directory(self.path)
        with writing(self.path):
            self._place = Place(self.path)
        self._finished: Place | None = None
        try:
            self._lock = RunLock(self._place)
        except BaseException:
            self._place.close()
            raise
        try:
            self.manifest = self._open(_manifest.build(fingerprint, settings, workload), overwrite, grows)
        except BaseException:
            self.close()
            raise

    def _open(self, wanted: dict[str, Any], overwrite: bool, grows: Collection[str]) -> dict[str, Any]:
        for folder in (self.units, self.folder(SHARDS)):
            if folder.is_symlink():
                raise write_error(OSError(errno.ELOOP, os.strerror(errno.ELOOP)), folder)
        remove_temporary(self.path)
        if overwrite:
            self._clear()
        fresh, grown = not (self.path / _manifest.NAME).exists(), False
        if fresh:
            self._refuse_strangers()
            if not overwrite:
                self._mention_strangers()
        else:
            found = _manifest.read_manifest(self.path)
            _manifest.check_same(self.path, found, wanted, grows)
            grown = found["settings"] != wanted["settings"]
            wanted = {**found, "settings": wanted["settings"]}
        with writing(self.units):
            self.units.mkdir(exist_ok=True)
            self._finished = Place(self.units, inside=self._place)
        remove_temporary(self.units)
        if fresh or grown:
            self.write(_manifest.NAME, json_bytes(wanted))
        return wanted

    def _refuse_strangers(self) -> None:
        """Never write over files of which no manifest says that they are ours."""
        clashes = [name for name in _FILES if (self.path / name).exists()]
        if self.units.is_dir() and any(_UNIT.fullmatch(unit.name) for unit in self.units.iterdir()):
            clashes.append("units")
        if clashes:
            raise StoreError(
                f"The directory {str(self.path)!r} has {', '.join(clashes)} but no {_manifest.NAME}: it is a damaged "
                "run or something else. Choose another directory with `out`, or replace them with overwrite=True "
                "(--overwrite)."
            )

    def _mention_strangers(self) -> None:
        """Say it when a new run goes among files of others: perhaps it is the wrong directory."""
        found = sorted(entry.name for entry in self.path.iterdir() if entry.name[0] != "." and entry != self.units)
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            warn(
                f"The directory {str(self.path)!r} of this new run is not empty: it has "
                f"{', '.join(repr(name) for name in found[:3])}{more}. These are left alone; choose a directory of its "
                "own with `out` to keep the run apart.",
                StoreWarning,
            )

    def _clear(self) -> None:
        """Delete what a run writes, and only that; the manifest first, so that a kill leaves no half-emptied run."""
        try:
            for name in (_manifest.NAME, *_FILES):
                (self.path / name).unlink(missing_ok=True)
            if self.units.is_dir():
                for unit in self.units.iterdir():
                    if _UNIT.fullmatch(unit.name):
                        unit.unlink()
            drop_shards(self.folder(SHARDS))
        except OSError as error:
            raise write_error(error, self.path) from error

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory for other writers."""
        self._lock.release()
        self._place.close()
        if self._finished is not None:
            self._finished.close()

    @property
    def result_path(self) -> Path:
        """Where :meth:`write_result` writes."""
        return self.path / "result.json"

    @property
    def report_path(self) -> Path:
        """Where the page of the run belongs."""
        return self.path / "report.html"

    def folder(self, name: str) -> Path:
        """A folder below the run for files that several processes write; made by who needs it."""
        return self.path / name

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run, whole or not at all, into this directory, wherever it has been moved.

        Raises:
            StoreError: the file cannot be written; or it was, and the path of the run leads elsewhere by now.
        """
        with writing(self.path / name, len(data)):
            self._place.write(name, data)
        self._check_place()

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``; numbers that are not finite become null."""
        self.write(self.result_path.name, json_bytes(result))

    def _check_place(self) -> None:
        """Raise StoreError when the path of the run leads elsewhere: nobody would find what is written."""
        if not self._place.same:
            raise StoreError(
                f"The run directory {str(self.path)!r} was moved, deleted or replaced while the run went on. Finished "
                "units are kept where it was moved to, and nothing was written into what is there now. Go on with the "
                "new path as `out`."
            )

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The finished unit of that name and key: read when it is there and whole, else computed and written.

        Args:
            name: what kind of work this is, for people who look into the directory.
            key: JSON-ready; everything that determines the result besides workload and settings of the run.
            compute: does the work. Its payload comes back as a reader would find it: arrays contiguous and in main
                memory, tuples in `meta` as lists, non-finite numbers in `meta` as None.

        Raises:
            StoreError: when the unit cannot be written. Units that were finished before are kept.
        """
        self._check_place()
        stem = self.units / digest({"fingerprint": self.manifest["fingerprint"], "name": name, "key": key})
        payload = self._read(name, stem)
        if payload is None:
            payload = settle(compute())
            self._write(name, key, stem, payload)
            self._check_place()
        return payload

    def _write(self, name: str, key: Mapping[str, Any], stem: Path, payload: Payload) -> None:
        record: dict[str, Any] = {"unit": stem.name, "name": name, "key": to_plain(key), "meta": payload.meta}
        record.update(arrays=kinds_of(payload.arrays), tensors=None)
        if payload.arrays:
            data = encode(payload.arrays)
            record["tensors"] = {"sha256": digest(data), "bytes": len(data)}
            self._refuse_full(stem, len(data))
            self._write_unit(stem.with_suffix(".safetensors"), data)
        # the JSON is written last: its presence says that the unit is whole
        self._write_unit(stem.with_suffix(".json"), json_bytes({**record, "sha256": digest(canonical(record))}))

    def _write_unit(self, path: Path, data: bytes) -> None:
        if self._finished is None:
            raise StoreError(f"The run {str(self.path)!r} is closed. Open it again to write more units.")
        with writing(path, len(data)):
            self._finished.write(path.name, data)

    def _refuse_full(self, stem: Path, size: int) -> None:
        """Say so before the disk is filled to the last byte, which would hurt others too."""
        try:
            free = shutil.disk_usage(self.units).free
        except OSError:  # moved away; the unit goes to where it is now
            return
        if free < size:
            raise write_error(OSError(errno.ENOSPC, "no space"), stem.with_suffix(".safetensors"), size)

    def _read(self, name: str, stem: Path) -> Payload | None:
        record_path, tensor_path = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
        if not record_path.exists():
            return None
        try:
            return _parse(record_path, tensor_path)
        except (StoreError, LookupError, TypeError, AttributeError, ValueError) as error:
            warn(
                f"A finished unit of {name!r} in {str(self.path)!r} is damaged and is computed again ({error})",
                StoreWarning,
            )
            with writing(record_path):
                record_path.unlink(missing_ok=True)
                tensor_path.unlink(missing_ok=True)
            return None


def _parse(record_path: Path, tensor_path: Path) -> Payload:
    """A unit from its two files.

    Raises:
        StoreError: when it is not whole, or is another unit than its name says.
    """
    record = read_json(record_path)
    checksum = record.pop("sha256", None) if isinstance(record, dict) else None
    if checksum is None or digest(canonical(record)) != checksum:
        raise StoreError("its JSON does not have the checksum that was written.")
    if record.get("unit") != record_path.stem:
        raise StoreError("it is another unit than the name of its file says.")
    if record["tensors"] is None:
        return Payload({}, record["meta"])
    data = read_bytes(tensor_path)
    if digest(data) != record["tensors"]["sha256"]:
        raise StoreError("its tensors do not have the checksum that was written.")
    return Payload(decode(data, record["arrays"]), record["meta"])


def open_run(
    path: str | Path | None,
    *,
    fingerprint: str,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    workload: Workload | None = None,
    grows: Collection[str] = (),
) -> RunDirectory | MemoryRun:
    """A run in a directory, or in memory when `path` is None.

    Raises:
        SettingError: an empty path.
        StoreError: see :class:`RunDirectory`.
    """
    if path is None:
        return MemoryRun()
    if not str(path).strip():
        raise SettingError(
            "Parameter `out` should be the path of a directory, or None to keep the run in memory. Found an empty "
            "text; an unset variable is a frequent cause. Give a name, such as out='runs/mine'."
        )
    return RunDirectory(
        path, fingerprint=fingerprint, settings=settings, overwrite=overwrite, workload=workload, grows=grows
    )
