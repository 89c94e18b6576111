"""Units of work: what a run directory keeps, so that a killed run goes on where it was.

The rooms that compute know only this small interface; :mod:`coterie.store` writes units to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
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


class NoStore:
    """Computes every unit anew and keeps nothing."""

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """Compute."""
        del name, key
        return compute()
