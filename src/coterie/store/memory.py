"""A run that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie._units import Payload
from coterie.store.arrays import plain_arrays
from coterie.store.files import digest, to_plain


def settle(payload: Payload) -> Payload:
    """The payload as it would come back from disk, so that a first run and a resumed one go on with the same values."""
    return Payload(plain_arrays(payload.arrays), to_plain(payload.meta))


class MemoryRun:
    """The interface of :class:`RunDirectory` without a disk: units are remembered until the object is gone.

    Example:
        >>> with MemoryRun() as run:
        ...     first = run.unit("square", {"of": 3}, lambda: Payload(meta={"value": 9}))
        ...     again = run.unit("square", {"of": 3}, lambda: Payload(meta={"value": -1}))
        >>> again.meta["value"]
        9
    """

    path: None = None

    def __init__(self) -> None:
        self._units: dict[str, Payload] = {}
        self.result: dict[str, Any] | None = None

    def __enter__(self) -> MemoryRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The unit of that name and key, computed at the first call."""
        found = digest({"name": name, "key": key})
        if found not in self._units:
            self._units[found] = settle(compute())
        return self._units[found]

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Keep the result, in the form that JSON would give back."""
        self.result = to_plain(result)

    def close(self) -> None:
        """Nothing to do."""
