"""How many base models and real runs a budget buys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie._units import Payload, UnitStore, folder_of
from coterie.affinity.bases import checkpoint, train_full
from coterie.affinity.context import Prepared
from coterie.affinity.costs import Costs, training_flops
from coterie.affinity.grad_tae import GradTAE
from coterie.affinity.secants import secant_flops
from coterie.affinity.surrogates.real_runs import RealRuns
from coterie.training.job import Fit, pack_fits

#: more base models than this add little
MOST_BASES = 8
#: budgets below so many trainings are small
SMALL = 20
#: trainings that say what an ordinary one costs, for small budgets and for others
PROBES = (2, 4)
#: units that planning and the estimate share; others, such as the states of short trainings, may be large
SHARED = ("full-base", "real-runs")
#: up to so many trainings go to base models first; of more, this share
FIRST, SHARE = 50, 2 / 3
#: shares of small and other budgets that are planned for, since a few trainings tell only roughly what others cost
MARGINS = (0.85, 0.95)
#: how far the only base model may go beyond the budget
LIMIT = 1.15
#: a fork takes at most this share of the steps of an ordinary training: where all tasks together train much longer than
#: a few of them, a share of that long training takes a single task to its end
FORK_OF_RUN = 0.15


@dataclass
class Remembered:
    """Shared units of work are remembered while an estimate is made, so that planning costs nothing twice."""

    inner: UnitStore
    units: dict[str, Payload]

    def folder(self, name: str) -> Path | None:
        """That of the store."""
        return folder_of(self.inner, name)

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The unit of that name and key."""
        if name not in SHARED:
            return self.inner.unit(name, key, compute)
        known = f"{name} {sorted(key.items())!r}"
        if known not in self.units:
            self.units[known] = self.inner.unit(name, key, compute)
        return self.units[known]


@dataclass(frozen=True)
class KnownFull:
    """A store that has the ordinary training on all tasks already, and nothing else."""

    full: Fit

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The training, or the work."""
        del key
        if name != "full-base":
            return compute()
        found = pack_fits([self.full], states=False)
        return Payload(found.arrays, {**found.meta, "seconds": 0.0})


@dataclass(frozen=True)
class BudgetSplit:
    """What a budget buys.

    Attributes:
        bases: base models, 0 to 8.
        runs: really trained subsets.
        fork: length of the short single-task trainings, as in :class:`GradTAE`.
    """

    bases: int
    runs: int
    fork: float


def probes_of(trainings: float) -> int:
    """Trainings that say what an ordinary one costs; not more than the budget has."""
    return min(PROBES[trainings >= SMALL], int(trainings))


def split_budget(prepared: Prepared, base: GradTAE, trainings: float, ordinary: RealRuns) -> BudgetSplit:
    """Base models and real runs that cost about so many ordinary trainings together.

    Base models come first, since a few of them tell more than as many real runs; what is left is spent on runs. Where
    not even one base fits, forks are made half as long; where that does not fit either (many tasks on much data that a
    single training hardly looks at) there is none.

    Args:
        prepared: the workload; its costs are not touched.
        base: settings of the base models.
        trainings: the budget, in ordinary trainings.
        ordinary: a few of these.
    """
    workload, unit, run_flops = prepared.workload, prepared.costs.unit, float(ordinary.flops.mean())
    spendable = MARGINS[trainings >= SMALL] * trainings * run_flops
    probes = probes_of(trainings)
    available = max(SHARE * spendable, min(spendable, FIRST * run_flops) - probes * run_flops)
    features = _features_flops(prepared, base)
    forked = base.directions in ("secants", "task-vectors")
    # a training on all tasks is at least an ordinary one, and so are forks a share of one
    if run_flops * (1 + forked * workload.n_tasks * base.fork / 2) + features > max(
        available, (LIMIT * trainings - probes) * run_flops
    ):
        return BudgetSplit(0, int(spendable / run_flops), base.fork)
    scratch = replace(prepared, costs=Costs(unit))
    full = train_full(scratch)
    once = training_flops(workload, full, unit)
    shared = checkpoint(full, base.share)
    longest = min(base.fork, FORK_OF_RUN * float(ordinary.steps.mean()) / full.steps)
    for fork in (longest, longest / 2):
        steps = max(1, round(fork * full.steps))
        forks = sum(_steps_flops(prepared, (task,), steps) for task in prepared.everything) if forked else 0.0
        each = _steps_flops(prepared, prepared.everything, shared) + forks + features
        count = int(np.clip((available - once) // each, 0, MOST_BASES))
        if not count and once + each + probes * run_flops <= LIMIT * trainings * run_flops:
            count = 1
        if count:
            return BudgetSplit(count, max(0, int((spendable - once - count * each) / run_flops)), fork)
    prepared.costs.add("base models", once)  # spent to find out that there is no room for a base
    return BudgetSplit(0, max(0, int((spendable - once) / run_flops)), base.fork)


def _features_flops(prepared: Prepared, base: GradTAE) -> float:
    """FLOPs of the features of one base; those of gradients as in forward mode."""
    workload, unit = prepared.workload, prepared.costs.unit
    if base.directions == "secants":
        return secant_flops(workload, workload.n_tasks, unit)
    count = base.count if base.directions == "random" else workload.n_tasks
    rows = len(workload.split.train) + len(workload.split.validation)
    return rows * (unit.forward + count * (unit.jvp - unit.forward))


def _steps_flops(prepared: Prepared, subset: tuple[int, ...], steps: float) -> float:
    """FLOPs of so many steps on a subset, nothing checked."""
    rows, batch = len(prepared.workload.rows_of(subset, "train")), prepared.workload.recipe.batch_size
    return steps * rows / max(1, -(-rows // batch)) * prepared.costs.unit.training
