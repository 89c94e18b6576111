"""One directory a run: what is finished stays finished, whenever the process is killed."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie._surface import warn
from coterie._units import SHARDS, Payload, drop_shards
from coterie.errors import SettingError, StoreError, StoreWarning
from coterie.store import manifest as _manifest
from coterie.store.arrays import decode, encode, kinds_of
from coterie.store.files import (
    atomic_write,
    canonical,
    digest,
    directory_error,
    read_json,
    remove_temporary,
    to_plain,
    write_error,
    write_json,
)
from coterie.store.lock import RunLock
from coterie.store.memory import MemoryRun, settle

if TYPE_CHECKING:
    from coterie.workload import Workload

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
        fingerprint: of the workload (:func:`coterie.workload.fingerprint`).
        settings: everything else that determines the result, JSON-ready.
        create: False opens only a run that is there already.
        overwrite: replace a run that is there instead of going on with it. Foreign files are left alone.
        workload: described in the manifest, so that a reader knows what the run was about.

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
    ) -> None:
        self.path = Path(path).absolute()
        self.units = self.path / "units"
        if not create:
            _manifest.read_manifest(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise directory_error(error, self.path) from error
        self._lock = RunLock(self.path)
        try:
            self.manifest = self._open(_manifest.build(fingerprint, settings, workload), overwrite)
        except BaseException:
            self.close()
            raise

    def _open(self, wanted: dict[str, Any], overwrite: bool) -> dict[str, Any]:
        remove_temporary(self.path)
        if overwrite:
            self._clear()
        fresh = not (self.path / _manifest.NAME).exists()
        if fresh:
            self._refuse_strangers()
            if not overwrite:
                self._mention_strangers()
        else:
            found = _manifest.read_manifest(self.path)
            _manifest.check_same(self.path, found, wanted)
            wanted = found
        try:
            self.units.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(error, self.units) from error
        remove_temporary(self.units)
        if fresh:
            write_json(self.path / _manifest.NAME, wanted)
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

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``; numbers that are not finite become null."""
        write_json(self.result_path, result)

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
        stem = self.units / digest({"fingerprint": self.manifest["fingerprint"], "name": name, "key": key})
        payload = self._read(name, stem)
        if payload is None:
            payload = settle(compute())
            self._write(name, key, stem, payload)
        return payload

    def _write(self, name: str, key: Mapping[str, Any], stem: Path, payload: Payload) -> None:
        record: dict[str, Any] = {"name": name, "key": to_plain(key), "meta": payload.meta}
        record.update(arrays=kinds_of(payload.arrays), tensors=None)
        if payload.arrays:
            data = encode(payload.arrays)
            record["tensors"] = {"sha256": digest(data), "bytes": len(data)}
            self._refuse_full(stem, len(data))
            atomic_write(stem.with_suffix(".safetensors"), data)
        # the JSON is written last: its presence says that the unit is whole
        write_json(stem.with_suffix(".json"), {**record, "sha256": digest(canonical(record))})

    def _refuse_full(self, stem: Path, size: int) -> None:
        """Say so before the disk is filled to the last byte, which would hurt others too."""
        free = shutil.disk_usage(self.units).free
        if free < size:
            raise write_error(OSError(errno.ENOSPC, "no space"), stem.with_suffix(".safetensors"), size)

    def _read(self, name: str, stem: Path) -> Payload | None:
        record_path, tensor_path = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
        if not record_path.exists():
            return None
        try:
            return _parse(record_path, tensor_path)
        except (StoreError, KeyError, TypeError, AttributeError) as error:
            warn(
                f"A finished unit of {name!r} in {str(self.path)!r} is damaged and is computed again ({error})",
                StoreWarning,
            )
            record_path.unlink(missing_ok=True)
            tensor_path.unlink(missing_ok=True)
            return None


def _parse(record_path: Path, tensor_path: Path) -> Payload:
    """A unit from its two files.

    Raises:
        StoreError: when it is not whole.
    """
    record = read_json(record_path)
    checksum = record.pop("sha256", None) if isinstance(record, dict) else None
    if checksum is None or digest(canonical(record)) != checksum:
        raise StoreError("its JSON does not have the checksum that was written.")
    if record["tensors"] is None:
        return Payload({}, record["meta"])
    try:
        data = tensor_path.read_bytes()
    except OSError as error:
        raise StoreError(f"its tensors cannot be read: {error.strerror or error}.") from error
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
    return RunDirectory(path, fingerprint=fingerprint, settings=settings, overwrite=overwrite, workload=workload)
