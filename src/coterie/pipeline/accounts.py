"""Where the time of a run goes: stages book what they compute, and the rest is booked on what the run did meanwhile."""

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
from coterie.affinity.costs import Costs


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


#: stages that no unit of work has
READING, ESTIMATE, COMPARISON, REPORT = (
    "reading and checking",
    "estimate: everything else",
    "comparison: everything else",
    "report and served models",
)


class Accounts:
    """The seconds of a run, so that the rows of its costs add up to its time.

    What units of work took, also in an earlier process, is booked by the stages themselves. :meth:`close` books the
    rest of the time since it was called last.

    Args:
        executor: whether trainings run in other processes, whose seconds may be more than those of the clock.
    """

    def __init__(self, *, executor: bool = False) -> None:
        self.executor = executor
        self._since = time.perf_counter()
        self._booked = self._spent = 0.0
        self._early: dict[str, float] = {}

    def close(self, stage: str, costs: Costs | None, store: RecordingStore | None = None) -> None:
        """Book on a stage what was spent since the last call beside the units that were computed meanwhile.

        Args:
            stage: a row of the costs.
            costs: the books; None where there are none yet.
            store: where the units are kept; None where there was none to compute.
        """
        now, booked = time.perf_counter(), 0.0 if costs is None else costs.seconds
        spent = self._spent if store is None else store.spent
        elsewhere = booked - self._booked if self.executor else spent - self._spent
        rest = max(0.0, now - self._since - elsewhere)
        if costs is None:
            self._early[stage] = self._early.get(stage, 0.0) + rest
        else:
            for early, seconds in [*self._early.items(), (stage, rest)]:
                costs.add(early, 0.0, seconds)
            self._early.clear()
        self._since, self._spent = now, spent
        self._booked = 0.0 if costs is None else costs.seconds
