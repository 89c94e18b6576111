"""What TAG, cosine and ETAP have in common: they come from the same probe run.

The run is one unit of work, so the second and the third score find it in the store. What each books is what it would
have cost alone.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._check import choice, whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._units import NoStore, Payload
from coterie.affinity.affinity import Affinity
from coterie.affinity.costs import Prepared, prepare, training_flops
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.gain_model import PairwiseGainModel
from coterie.affinity.scores.gradient_probe import SUMS, WORK
from coterie.affinity.scores.probe import Probe, ProbeRun, run_probe
from coterie.training.job import Job, pack_fits, unpack_fits
from coterie.workload import Workload

AVERAGES = ("ratios", "pooled")
_UNIT = "probe-scores"


@dataclass(frozen=True)
class ProbeScore(Estimator):
    """What the scores of a probe run have in common.

    Args:
        every: steps from one measurement to the next.
        runs: probe runs, with seeds `seed`, `seed` + 1, ...; a score is the mean over all their measurements.
        average: ``"ratios"`` for the mean over measurements, as published; ``"pooled"`` for the ratio of what is summed
            over measurements above and below the line, in which no measurement with a tiny denominator dominates.

    Raises:
        SettingError: when a value is out of range.
    """

    every: int = 10
    runs: int = 1
    average: str = "ratios"

    #: which of the measured sums the score is, unless settings say otherwise
    measured: ClassVar[str]

    def __post_init__(self) -> None:
        whole_number(self.every, "every", low=1)
        whole_number(self.runs, "runs", low=1)
        choice(self.average, "average", AVERAGES)

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.measured

    @property
    def _sum(self) -> str:
        return self.measured

    def _rate(self, workload: Workload) -> float | None:
        """Step size of the look ahead; None for the optimiser's own."""
        del workload

    @abstractmethod
    def _finish(self, values: NDArray[np.float64], workload: Workload) -> NDArray[np.float64]:
        """The score from the mean over the measurements."""

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Train on all tasks and measure.

        Returns:
            A model that predicts the mean score of a task's partners, what it cost, and notes. Pairs of tasks that
            never had labels in one measured batch get the mean score of their target; a note says how many. FLOPs of a
            task's gradient are those of a full backward pass, a little more than the shared parameters need.
        """
        del subset_size
        prepared = prepare(workload, context)
        totals = {name: np.zeros((workload.n_tasks, workload.n_tasks)) for name in SUMS}
        measurements = 0.0
        for number in range(self.runs):
            run = self._run(prepared, context.seed + number)
            measurements += run.work["measurements"]
            for name, value in run.sums.items():
                totals[name] += value
        counts = totals[f"n_{self._sum}"]
        pooled = self.average == "pooled"
        above = totals[f"above_{self._sum}" if pooled else self._sum]
        with np.errstate(invalid="ignore"):
            values = self._finish(above / (totals[f"below_{self._sum}"] if pooled else counts), workload)
        filled, missing = filled_scores(values)
        names = workload.task_names
        notes = (
            (f"{missing} directed pairs of tasks were never measured together: mean of their target",)
            if missing
            else ()
        )
        affinity = Affinity(filled, names, counts.astype(np.int64), "raw", self.name)
        return Estimate(
            PairwiseGainModel(affinity),
            prepared.costs,
            notes=notes,
            facts={"measurements of a pair at most": measurements},
        )

    def _run(self, prepared: Prepared, seed: int) -> ProbeRun:
        """One probe run from the store; what this score needs of it goes on the books."""
        workload, rate, wants_look = prepared.workload, self._rate(prepared.workload), self.measured == "tag"
        shared = not isinstance(prepared.context.store, NoStore)  # nobody else will read what is not kept
        probe = Probe(self.every, rate, shared or not wants_look, shared or wants_look)
        job = Job(prepared.everything, seed)

        def compute() -> Payload:
            start = time.perf_counter()
            run = run_probe(
                workload,
                prepared.structure.trunk,
                job,
                probe,
                memory=prepared.context.memory,
                progress=prepared.context.progress,
            )
            packed = pack_fits([run.fit], states=False)
            meta = {**packed.meta, **run.work, "seconds": time.perf_counter() - start}
            return Payload({**packed.arrays, **run.sums}, meta)

        payload = prepared.context.store.unit(_UNIT, {"seed": seed, "every": self.every, "rate": rate}, compute)
        (fit,) = unpack_fits([job], payload)
        work = {name: float(payload.meta[name]) for name in WORK}
        costs, unit = prepared.costs, prepared.costs.unit
        seconds = sum(work[f"{part}_seconds"] for part in ("gradient", "gram", "lookahead"))
        costs.add("probe run", training_flops(workload, fit, unit), float(payload.meta["seconds"]) - seconds)
        backward = work["rows"] * unit.forward + work["passes"] * (unit.training - unit.forward)
        costs.add("gradients of the tasks", backward, work["gradient_seconds"])
        if wants_look:
            costs.add("look ahead", work["passes"] * unit.forward, work["lookahead_seconds"])
        else:
            costs.add("inner products", 2 * work["products"], work["gram_seconds"])
        return ProbeRun(fit, {name: np.asarray(payload.arrays[name]) for name in SUMS}, work)


def filled_scores(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Unknown entries as the mean over the row's partners (over all where it has none), and how many pairs they are."""
    known, partner = np.isfinite(values), ~np.eye(len(values), dtype=bool)
    told = known & partner
    count = told.sum(1, keepdims=True)
    overall = values[told].mean() if told.any() else 0.0
    row = np.where(count > 0, np.where(told, values, 0.0).sum(1, keepdims=True) / np.maximum(count, 1), overall)
    return np.where(known, values, row), int((partner & ~known).sum())
