"""What every stage of an estimate needs at hand."""

from __future__ import annotations

from dataclasses import dataclass

from coterie._context import Context
from coterie.affinity.costs import Costs
from coterie.training import measure_cost
from coterie.workload import Workload
from coterie.workload.structure import Structure, find_structure


@dataclass(frozen=True, eq=False)
class Prepared:
    """A workload whose structure was found and whose passes were counted, the context, and its ledger."""

    workload: Workload
    structure: Structure
    context: Context
    costs: Costs

    @property
    def everything(self) -> tuple[int, ...]:
        """All tasks."""
        return tuple(range(self.workload.n_tasks))


def prepare(workload: Workload, context: Context) -> Prepared:
    """Find the structure and measure unit costs; a ledger that the context does not bring is opened."""
    model = workload.build_model(context.seed).to(workload.labels.device)
    return Prepared(workload, find_structure(workload, model), context, context.costs or Costs(measure_cost(workload)))
