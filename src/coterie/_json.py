"""JSON that round-trips, its one canonical text, and readers that take nothing else.

JSON has no NaN. Numbers that are not finite are written as ``null``; finite floats are written with ``repr`` and
come back bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from coterie._files import atomic_write, read_bytes
from coterie.errors import CoterieError, MissingDependencyError, StoreError

#: JSON that is nested deeper was not written by coterie, and functions that call themselves would fail on it
_DEEPEST = 100


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


def json_bytes(value: Any) -> bytes:
    """The text of a JSON file, for people; non-finite numbers become null."""
    text = json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    # lone surrogates, from file names or broken decoders, are legal in Python's text but not in UTF-8
    return text.encode("utf-8", "backslashreplace") + b"\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; non-finite numbers become null.

    Raises:
        StoreError: when the file cannot be written.
    """
    atomic_write(path, json_bytes(value))


def parse_json(data: str | bytes) -> Any:
    """The value of a JSON text. NaN, infinities and numbers beyond all floats are refused.

    Python's own reader takes them, though they are no JSON, and :func:`canonical` writes them as it writes null: a
    checksum would not tell one from the other.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is beyond all floats")
    return value


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        StoreError: when the file is not there, is no regular file, or is not JSON.
    """
    data = read_bytes(path)
    try:
        found = parse_json(data)
        _refuse_deep(found)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"The file {str(path)!r} is not valid JSON ({error}). It was damaged or changed by hand. "
            "If it belongs to a run, make the run again in another directory with `out`, or replace it with "
            "overwrite=True (--overwrite)."
        ) from error
    return found


def _refuse_deep(value: Any) -> None:
    """Raise ValueError for JSON that is nested too deeply."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [item for part in inner for item in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return
    raise ValueError(f"nested deeper than {_DEEPEST} levels")


@contextmanager
def reading(path: str | Path, what: str) -> Generator[None]:
    """Whatever content that does not fit leads to, is a damaged file.

    Args:
        path: of the file.
        what: it should hold, with its article.

    Raises:
        StoreError: in place of any error that other content leads to.

    Example:
        >>> with reading("a.json", "an affinity"):
        ...     {}["tasks"]
        Traceback (most recent call last):
        ...
        coterie.errors.StoreError: The file 'a.json' cannot be read as an affinity (KeyError: 'tasks'). ...
    """
    try:
        yield
    except (StoreError, MissingDependencyError):
        raise
    except Exception as error:  # there is no list of what strange content leads to
        kind = "" if isinstance(error, CoterieError) else f"{type(error).__name__}: "
        raise StoreError(
            f"The file {str(path)!r} cannot be read as {what} ({kind}{str(error)[:300]}). It was damaged, changed by "
            "hand, or written by another program. Write it again."
        ) from error


def real(value: Any) -> float:
    """A number of a file.

    Raises:
        TypeError: it is something else, such as a truth value.
        OverflowError: it is larger than any floating-point number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{str(value)[:80]!r} is no number")
    return value if isinstance(value, int) and abs(value) < 2**53 else float(value)


def whole(value: Any) -> int:
    """A whole number of a file that arrays can hold.

    Raises:
        TypeError: it is something else.
        OverflowError: it needs more than 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{str(value)[:80]!r} is no whole number")
    if not -(2**63) <= value < 2**63:
        raise OverflowError("a whole number of more than 64 bits")
    return value


def text(value: Any) -> str:
    """A text of a file.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:80]!r} is no text")
    return value


class SavedAsJson:
    """A result that is saved as its :meth:`to_dict` and loaded by its ``from_dict``."""

    #: what the file should be, for the message when it is not
    _saved_as: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        raise NotImplementedError

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Any:
        """What :meth:`to_dict` described."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write as JSON, every digit kept; whole or not at all.

        Raises:
            StoreError: when the file cannot be written.
        """
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            StoreError: when the file cannot be read or is something else.
        """
        with reading(path, cls._saved_as):
            return cls.from_dict(read_json(path))
