"""Units of work: what a run directory keeps, so that a killed run goes on where it was.

The rooms that compute know only this small interface; :mod:`coterie.store` writes units to disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from coterie.errors import CoterieError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Payload:
    """What one finished unit of work leaves behind: named arrays, and JSON-ready facts."""

    arrays: dict[str, np.ndarray[Any, Any] | Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


class UnitStore(Protocol):
    """Something that remembers finished units of work."""

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The finished unit of that name and key, computed now if it is not there."""
        ...


#: folder of a run for feature shards
SHARDS = "shards"
_SHARD = re.compile(r"[0-9a-f]{64}-\d{5}\.safetensors|\.coterie-([0-9a-f]{32}|\d+-[0-9a-f]{16})\.tmp")


class NoStore:
    """Computes every unit anew and keeps nothing."""

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """Compute."""
        del name, key
        return compute()


def folder_of(store: UnitStore, name: str) -> Path | None:
    """A folder for files that several processes write, where the store has a place for it."""
    ask: Callable[[str], Path | None] | None = getattr(store, "folder", None)
    return None if ask is None else ask(name)


def drop_shards(folder: Path | None) -> None:
    """Delete the feature shards in a folder: they are of no use once what was made of them is kept elsewhere."""
    if folder is None or folder.is_symlink() or not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        if _SHARD.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it
        folder.rmdir()


class _MissingError(CoterieError):
    """A unit is not in the store yet."""


def look(store: UnitStore, name: str, key: Mapping[str, Any]) -> Payload | None:
    """The finished unit, or None: so that what is missing can be computed together."""

    def refuse() -> Payload:
        raise _MissingError

    try:
        return store.unit(name, key, refuse)
    except _MissingError:
        return None
