"""The run directory: manifest, units of finished work, result. A killed run resumes and gives the same numbers.

The names are loaded when they are first used, so that reading a result needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie._units import Payload
    from coterie.errors import StoreWarning
    from coterie.store.files import atomic_write, read_json, write_json
    from coterie.store.manifest import read_manifest
    from coterie.store.memory import MemoryRun
    from coterie.store.run import RunDirectory, open_run

_HOMES = {
    "MemoryRun": "coterie.store.memory",
    "Payload": "coterie._units",
    "RunDirectory": "coterie.store.run",
    "StoreWarning": "coterie.errors",
    "atomic_write": "coterie.store.files",
    "open_run": "coterie.store.run",
    "read_json": "coterie.store.files",
    "read_manifest": "coterie.store.manifest",
    "write_json": "coterie.store.files",
}

__all__ = [
    "MemoryRun",
    "Payload",
    "RunDirectory",
    "StoreWarning",
    "atomic_write",
    "open_run",
    "read_json",
    "read_manifest",
    "write_json",
]

__getattr__ = load_on_first_use(__name__, _HOMES)
