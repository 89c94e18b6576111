"""Where the time of a run goes: stages book what they compute, and the rest is booked on what the run did meanwhile."""

from __future__ import annotations

import time

from coterie.affinity.costs import Costs
from coterie.pipeline.recording import RecordingStore

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
