"""What an estimate cost, stage by stage, against training every subset once; what its steps share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coterie._context import Context
from coterie._show import short_repr
from coterie._units import Payload, UnitStore
from coterie.training import measure_cost
from coterie.training.job import Fit
from coterie.training.units import UnitCost
from coterie.workload import Workload
from coterie.workload.structure import Structure, find_structure


@short_repr
@dataclass
class CostLedger:
    """A ledger of floating-point operations and seconds.

    Attributes:
        unit: FLOPs of one example: forward pass, training step, Jacobian-vector product.
        entries: stage -> [FLOPs, seconds].
        subsets: number of subsets that were asked about; None until it is known.
        reference: FLOPs of training each of them once with the ordinary recipe; None until it is known.
        in_flops: False where FLOPs are not known, and runs are counted in their place, each as 1 or with the cost that
            its trainer reports.
    """

    unit: UnitCost
    entries: dict[str, list[float]] = field(default_factory=dict)
    subsets: float | None = None
    reference: float | None = None
    in_flops: bool = True

    @staticmethod
    def of_runs() -> Costs:
        """A ledger of runs whose FLOPs nobody knows."""
        return Costs(UnitCost(0.0, 0.0, 0.0), in_flops=False)

    def add(self, stage: str, flops: float, seconds: float = 0.0) -> None:
        """Book FLOPs and seconds on a stage."""
        row = self.entries.setdefault(stage, [0.0, 0.0])
        row[0] += flops
        row[1] += seconds

    def refer(self, run_flops: float | None) -> None:
        """Say what one ordinary training takes."""
        if run_flops is not None and self.subsets is not None:
            self.reference = run_flops * self.subsets

    @property
    def flops(self) -> float:
        """Everything so far."""
        return sum(row[0] for row in self.entries.values())

    @property
    def seconds(self) -> float:
        """Everything so far, also what earlier processes of the same run took."""
        return sum(row[1] for row in self.entries.values())

    @property
    def training(self) -> float | None:
        """FLOPs of one ordinary training: of a usual subset, with the ordinary recipe; None until it is known."""
        return self.reference / self.subsets if self.reference and self.subsets else None

    @property
    def share(self) -> float | None:
        """FLOPs so far as a share of training each subset once; lower is cheaper."""
        return self.flops / self.reference if self.reference else None

    def rows(self) -> list[dict[str, Any]]:
        """One row a stage, ready for JSON."""
        return [
            {
                "stage": stage,
                "flops": flops if self.in_flops else None,
                "seconds": seconds,
                "share": flops / self.reference if self.reference else None,
                "trainings": flops / self.training if self.training else None,
            }
            for stage, (flops, seconds) in self.entries.items()
        ]


def training_flops(workload: Workload, fit: Fit, unit: UnitCost) -> float:
    """FLOPs of one finished training: its steps, with the passes that balancing adds, and its validation checks."""
    checked = len(workload.rows_of(fit.job.subset, "validation"))
    rows, batch = len(workload.rows_of(fit.job.subset, "train")), workload.recipe.batch_size
    step = rows / max(1, -(-rows // batch))  # the last batch of an epoch may be smaller
    balancing = fit.job.balancing
    example = unit.step() if balancing is None else unit.step(balancing.passes(len(fit.job.subset)))
    return fit.steps * step * example + len(fit.history) * checked * unit.forward


#: the name that estimators of users know
Costs = CostLedger


def timed(
    store: UnitStore, costs: Costs, stage: str, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]
) -> Payload:
    """A unit of the store whose seconds, also those of an earlier process, are booked on a stage."""

    def measured() -> Payload:
        start = time.perf_counter()
        payload = compute()
        return Payload(payload.arrays, {**payload.meta, "seconds": time.perf_counter() - start})

    payload = store.unit(name, key, measured)
    costs.add(stage, 0.0, float(payload.meta["seconds"]))
    return payload


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


def digest(tensors: Mapping[str, Tensor] | None) -> str | None:
    """SHA-256 of names, shapes and numbers; None for None."""
    if tensors is None:
        return None
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
