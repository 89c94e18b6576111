"""Files that are whole or not there: atomic writes, and JSON that round-trips.

JSON has no NaN. Numbers that are not finite are written as ``null``; finite floats are written with ``repr`` and
come back bit by bit.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coterie.errors import StoreError

_COUNTER = itertools.count()
_PREFIX, _SUFFIX = ".coterie-", ".tmp"


def to_plain(value: Any) -> Any:
    """What JSON gives back for a value: lists for tuples and arrays, None for NaN and infinities, text keys.

    Raises:
        StoreError: for a type that JSON cannot hold.

    Example:
        >>> to_plain({"a": (1, float("nan")), 2: np.float64(0.5)})
        {'a': [1, None], '2': 0.5}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise StoreError(
        f"A value of type {type(value).__name__} cannot be written as JSON. Convert it to numbers, text or lists."
    )


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: Any) -> str:
    """sha256 (hex) of :func:`canonical`, or of the bytes themselves."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value)).hexdigest()


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one, also after a kill or a power cut.

    Temporary file in the same directory, flush, fsync, rename, fsync of the directory.

    Raises:
        StoreError: when the file cannot be written (no space, read-only, no such directory).
    """
    path = Path(path)
    temporary = path.parent / f"{_PREFIX}{os.getpid()}-{next(_COUNTER)}{_SUFFIX}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise write_error(error, path, len(data)) from error


def _sync_directory(path: Path) -> None:
    """Make a rename durable; some systems cannot open directories, and then there is nothing to do."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def need_directory(path: Path) -> None:
    """Whether a file may be written at a path as far as its directory goes; nothing is made.

    Raises:
        StoreError: the directory is not there or is a file.
    """
    if not path.parent.is_dir():
        number = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
        raise write_error(OSError(number, os.strerror(number)), path)


def directory_error(error: OSError, path: Path) -> StoreError:
    """The clear form of an operating system's refusal to make a directory."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        cause = "a part of this path is a file, not a directory"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cause = "the directory above it is read-only for this user"
    elif error.errno == errno.ENOENT:
        cause = "the system does not allow new directories there"
    else:
        cause = f"the system said: {error.strerror or error}"
    return StoreError(f"The directory {str(path)!r} cannot be created: {cause}. Choose another directory with `out`.")


def write_error(error: OSError, path: Path, size: int = 0) -> StoreError:
    """The clear form of an operating system's refusal to write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = f"there is no space left for {size:,} bytes. Free some space and run again: finished units are kept"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cause = "the directory is read-only for this user. Choose another directory with `out`"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        cause = "a part of this path is a file, not a directory. Choose another directory with `out`"
    elif error.errno == errno.EISDIR:
        cause = "this is a directory. Give the path of a file with `out`"
    elif error.errno == errno.ENOENT:
        cause = "its directory does not exist (any more). Create it or choose another with `out`"
    else:
        cause = f"the system said: {error.strerror or error}"
    return StoreError(f"Cannot write {str(path)!r}: {cause}.")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; non-finite numbers become null."""
    text = json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    # lone surrogates, from file names or broken decoders, are legal in Python's text but not in UTF-8
    atomic_write(path, text.encode("utf-8", "backslashreplace") + b"\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        StoreError: when the file is not there or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"There is no file {str(path)!r}. Check the path, or make the run again.") from error
    except OSError as error:
        raise StoreError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"The file {str(path)!r} is not valid JSON ({error}). It was damaged or changed by hand. "
            "If it belongs to a run, make the run again in another directory with `out`, or replace it with "
            "overwrite=True (--overwrite)."
        ) from error


def remove_temporary(directory: Path) -> int:
    """Delete what a killed process left half-written; returns how many files that were."""
    leftovers = list(directory.glob(f"{_PREFIX}*{_SUFFIX}"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
