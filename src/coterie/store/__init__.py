"""The run directory: manifest, units of finished work, result. A killed run resumes and gives the same numbers.

The names are loaded when they are first used, so that reading a result needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.store.arrays import MemoryRun
    from coterie.store.run import RunDirectory, open_run

_HOMES = {
    "MemoryRun": "coterie.store.arrays",
    "RunDirectory": "coterie.store.run",
    "open_run": "coterie.store.run",
}

__all__ = [
    "MemoryRun",
    "RunDirectory",
    "open_run",
]

__getattr__ = load_on_first_use(__name__, _HOMES, earlier(__name__))
