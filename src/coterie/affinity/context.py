"""What every stage of an estimate needs at hand."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from coterie._progress import Progress, silent
from coterie._units import NoStore, UnitStore
from coterie.affinity.costs import Costs
from coterie.training import measure_cost
from coterie.workload import Structure, Workload, find_structure


@dataclass(frozen=True, eq=False)
class Context:
    """The workload, where finished units go, how much memory may be used, who keeps the books, and where jobs run."""

    workload: Workload
    structure: Structure
    seed: int
    memory: int
    store: UnitStore
    progress: Progress
    costs: Costs
    executor: Executor | None = None

    @property
    def everything(self) -> tuple[int, ...]:
        """All tasks."""
        return tuple(range(self.workload.n_tasks))


def open_context(
    workload: Workload,
    seed: int,
    memory: int,
    store: UnitStore | None,
    progress: Progress | None,
    executor: Executor | None = None,
) -> Context:
    """A context at the start: structure found, unit costs measured, nothing booked yet."""
    model = workload.build_model(seed).to(workload.labels.device)
    structure, costs = find_structure(workload, model), Costs(measure_cost(workload))
    return Context(workload, structure, seed, memory, store or NoStore(), progress or silent, costs, executor)
