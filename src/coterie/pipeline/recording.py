"""Warnings that a finished unit of work raised are raised again when it is read back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coterie import errors
from coterie._process_lock import process_lock
from coterie._surface import warn
from coterie._units import Payload, UnitStore, folder_of


class RecordingStore:
    """A store that keeps the warnings of each unit with it, so that a resumed run reports them, too.

    Args:
        inner: where units are kept.
    """

    def __init__(self, inner: UnitStore) -> None:
        self.inner = inner
        #: seconds that computing units took in this process
        self.spent = 0.0

    def folder(self, name: str) -> Path | None:
        """That of the store."""
        return folder_of(self.inner, name)

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The unit, with its warnings."""

        def recorded() -> Payload:
            start = time.perf_counter()
            with process_lock, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                payload = compute()
            self.spent += time.perf_counter() - start
            said = list(dict.fromkeys((item.category.__name__, str(item.message)) for item in caught))
            return Payload(payload.arrays, {**payload.meta, "warnings": [list(pair) for pair in said]})

        payload = self.inner.unit(name, key, recorded)
        process_lock.offer()
        for category, text in payload.meta.get("warnings", []):
            warn(text, getattr(errors, category, UserWarning))
        return payload
