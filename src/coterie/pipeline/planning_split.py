"""How many base models and real runs an estimate will make, by the rules of the estimate itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coterie._units import Payload
from coterie.affinity import Estimator, GradTAE
from coterie.affinity.bases import checkpoint
from coterie.affinity.context import Prepared
from coterie.affinity.costs import Costs, training_flops
from coterie.affinity.surrogates.budget import split_budget
from coterie.affinity.surrogates.fused import REFERENCE, Fused
from coterie.affinity.surrogates.process import fit_process
from coterie.affinity.surrogates.real_runs import RealRuns, balanced_subsets
from coterie.features.plan import plan_features
from coterie.pipeline.planning_time import Pilot, Timing, timed
from coterie.training.job import Fit, pack_fits

#: observations with which the process is fitted for its time; more are scaled with the cube
OBSERVED = 400


@dataclass(frozen=True)
class TrainingCounts:
    """What an estimate trains.

    Attributes:
        bases: base models.
        steps: of each of them.
        fork: steps of a short single-task training.
        runs: real trainings of subsets.
    """

    bases: int
    steps: int
    fork: int
    runs: int


class _Known:
    """A store that has the ordinary training on all tasks already: the pilot's."""

    def __init__(self, full: Fit) -> None:
        self._payload = pack_fits([full], states=False)

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The pilot's training, or the work."""
        del key
        if name != "full-base":
            return compute()
        return replace(self._payload, meta={**self._payload.meta, "seconds": 0.0})


def count_trainings(prepared: Prepared, estimator: Estimator, base: GradTAE, pilot: Pilot) -> TrainingCounts:
    """Divide the budget of an estimate as it will be divided, with the pilot's trainings in the place of its own."""
    workload, unit, full = prepared.workload, prepared.costs.unit, pilot.fits[0]
    bases, runs, fork = base.bases, 0, base.fork
    if isinstance(estimator, Fused) and estimator.bases is None and estimator.runs is None:
        usual = pilot.usual or pilot.fits[:1]
        flops = np.array([training_flops(workload, done, unit) for done in usual])
        steps = np.array([float(done.steps) for done in usual])
        ordinary = RealRuns(np.zeros((0, workload.n_tasks), bool), np.zeros((0, workload.n_tasks)), flops, steps)
        known = replace(prepared, context=replace(prepared.context, store=_Known(full)), costs=Costs(unit))
        split = split_budget(known, base, estimator.trainings, ordinary)
        bases, runs, fork = split.bases, max(len(usual), split.runs), split.fork
    elif isinstance(estimator, Fused):
        bases, runs = fixed_bases(estimator, base), estimator.runs or 0
    if isinstance(estimator, Fused) and estimator.alone:
        runs += workload.n_tasks
    steps = full.steps if base.share == 0 else max(1, checkpoint(full, base.share))
    return TrainingCounts(bases, steps, max(1, round(fork * full.steps)), runs)


def fixed_bases(estimator: Estimator, base: GradTAE) -> int:
    """Base models that are trained whatever they cost; 0 where the budget decides."""
    if not isinstance(estimator, Fused):
        return base.bases
    return estimator.bases or (0 if estimator.runs is None else base.bases)


def check_memory(prepared: Prepared, estimator: Estimator, base: GradTAE, size: int, planned: TrainingCounts) -> None:
    """Refuse what the estimate will refuse, by its own rules.

    Raises:
        ResourceError: sums, directions, features or covariances do not fit the memory.
    """
    n = prepared.workload.n_tasks
    if planned.bases:
        replace(base, bases=planned.bases)._check_memory(prepared)  # pyright: ignore[reportPrivateUsage]
        if base.directions != "secants":
            count = base.count if base.directions == "random" else n
            plan_features(prepared.workload, prepared.structure, count, prepared.context.memory)
    if isinstance(estimator, Fused) and planned.runs:
        reference = balanced_subsets(n, reference_size(estimator), min(max(size, 2), n), 0)
        runs = planned.runs - n * estimator.alone
        estimator._check_memory(runs, reference, prepared.context.memory)  # pyright: ignore[reportPrivateUsage]


def reference_size(estimator: Estimator) -> int:
    """Random subsets that say what is usual; none for methods without."""
    if not isinstance(estimator, Fused):
        return 0
    return max(REFERENCE, 3 * int(estimator.trainings if estimator.runs is None else estimator.runs))


def process_seconds(estimator: Estimator, n_tasks: int, size: int, runs: int) -> Timing:
    """Time to fit the process of the fused estimate to random values."""
    if not isinstance(estimator, Fused):
        return Timing()
    size = min(max(size, 2), n_tasks)
    count = max(1, min(runs, OBSERVED // size))
    reference = balanced_subsets(n_tasks, reference_size(estimator), size, 0)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(reference), n_tasks))
    estimates = np.where(reference, values, np.nan)
    seen = np.where(reference, estimates + 0.5 * rng.normal(size=estimates.shape), np.nan)[:count]
    _, timing = timed(lambda: fit_process(reference[:count], seen, estimates[:count], reference, estimates))
    return timing * max(1.0, (runs / count) ** 3 if runs > count else 1.0)
