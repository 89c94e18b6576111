"""What every stage of an estimate needs at hand."""

from __future__ import annotations

from dataclasses import dataclass

from coterie._progress import Progress
from coterie._units import UnitStore
from coterie.affinity.costs import Costs
from coterie.workload import Structure, Workload


@dataclass(frozen=True, eq=False)
class Context:
    """The workload, where finished units go, how much memory may be used, and who keeps the books."""

    workload: Workload
    structure: Structure
    seed: int
    memory: int
    store: UnitStore
    progress: Progress
    costs: Costs

    @property
    def everything(self) -> tuple[int, ...]:
        """All tasks."""
        return tuple(range(self.workload.n_tasks))
