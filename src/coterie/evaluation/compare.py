"""Train every candidate grouping for real, with the same recipe and seeds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from coterie._progress import Progress, silent
from coterie._units import NoStore, Payload, UnitStore
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.grouping import Grouping
from coterie.training import Fit, Job, fit
from coterie.training.archive import pack_fits, unpack_fits
from coterie.workload import Workload

#: trained parameters are kept between stages up to this many bytes; beyond it, what is served is trained again
STATE_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class TrainedComparison:
    """A comparison and the trainings behind it.

    Attributes:
        comparison: losses of all candidates.
        fits: the training of each (subset, seed); its state is empty where parameters were too large to keep.
        seconds: how long the trainings took, in this or an earlier process.
    """

    comparison: Comparison
    fits: Mapping[tuple[tuple[int, ...], int], Fit]
    seconds: float = 0.0

    def extended(self, name: str, grouping: Grouping) -> TrainedComparison:
        """With one more candidate, whose groups have all been trained already."""
        old = self.comparison
        losses = {part: _collect({name: grouping}, old.seeds, self.fits, part) for part in ("validation", "test")}
        wider = Comparison(
            old.tasks,
            (*old.candidates, name),
            (*old.groupings, grouping),
            old.seeds,
            np.concatenate([old.validation, losses["validation"]]),
            np.concatenate([old.test, losses["test"]]),
        )
        return replace(self, comparison=wider)

    def best_state(
        self, workload: Workload, subset: Sequence[int], memory: int, store: UnitStore
    ) -> Mapping[str, Tensor]:
        """Parameters of the seed with the lowest mean validation loss; trained again where they were not kept."""
        key = tuple(sorted(subset))
        fits = [fitted for (trained, _), fitted in self.fits.items() if trained == key]
        best = min(fits, key=lambda fitted: (fitted.loss, fitted.job.seed))
        if best.state:
            return best.state
        jobs = [best.job]
        unit = {"subset": list(key), "seed": best.job.seed}
        payload = store.unit("served", unit, lambda: pack_fits(fit(workload, jobs, memory=memory)))
        return unpack_fits(jobs, payload)[0].state


def all_in_one(tasks: tuple[str, ...]) -> Grouping:
    """One group of all tasks."""
    return Grouping.from_labels(tasks, [0] * len(tasks), method=JOINT)


def single_task(tasks: tuple[str, ...]) -> Grouping:
    """One group a task."""
    return Grouping.from_labels(tasks, list(range(len(tasks))), method=BASELINE)


def compare(
    workload: Workload,
    candidates: Mapping[str, Grouping],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    memory: int = 2**30,
    store: UnitStore | None = None,
    progress: Progress | None = None,
) -> TrainedComparison:
    """Train candidate groupings, all-in-one and single-task models, and evaluate them on validation and test data.

    A subset that several candidates share is trained once a seed. Every seed is one unit of the store.

    Args:
        workload: tasks, data, model and recipe.
        candidates: name -> grouping; the two simple candidates are added when missing.
        seeds: training seeds; each fixes initialisation and batch order.
        memory: working memory of population training in bytes.
        store: where finished units are kept.
        progress: called with the number of finished seeds.

    Returns:
        The comparison and the trained models.

    Cost: (distinct subsets) x (seeds) ordinary trainings.
    """
    progress, store = progress or silent, store or NoStore()
    names = workload.task_names
    everything = {JOINT: all_in_one(names), **candidates, BASELINE: single_task(names)}
    subsets = sorted({tuple(sorted(group)) for grouping in everything.values() for group in grouping.groups})
    fits: dict[tuple[tuple[int, ...], int], Fit] = {}
    seconds = 0.0
    for position, seed in enumerate(seeds):
        progress("compare: training candidates", position, len(seeds))
        trained, took = _train_seed(workload, subsets, seed, len(seeds), memory, store)
        fits.update({(done.job.subset, seed): done for done in trained})
        seconds += took
    progress("compare: training candidates", len(seeds), len(seeds))
    losses = {part: _collect(everything, seeds, fits, part) for part in ("validation", "test")}
    comparison = Comparison(
        names, tuple(everything), tuple(everything.values()), tuple(seeds), losses["validation"], losses["test"]
    )
    return TrainedComparison(comparison, fits, seconds)


def _train_seed(
    workload: Workload, subsets: Sequence[tuple[int, ...]], seed: int, n_seeds: int, memory: int, store: UnitStore
) -> tuple[list[Fit], float]:
    jobs = [Job(subset=subset, seed=seed) for subset in subsets]
    size = sum(p.numel() * p.element_size() for p in workload.build_model(seed).parameters())
    keep = size * len(jobs) * n_seeds <= STATE_BYTES

    def compute() -> Payload:
        start = time.perf_counter()
        payload = pack_fits(fit(workload, jobs, memory=memory, keep_states=keep), states=keep)
        return Payload(payload.arrays, {**payload.meta, "seconds": time.perf_counter() - start})

    key = {"subsets": [list(subset) for subset in subsets], "seed": seed, "keep": keep}
    payload = store.unit("compare", key, compute)
    return unpack_fits(jobs, payload), float(payload.meta["seconds"])


def _collect(
    groupings: Mapping[str, Grouping],
    seeds: Sequence[int],
    fits: Mapping[tuple[tuple[int, ...], int], Fit],
    part: str,
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """(candidates, seeds, tasks) losses: each task from the group that serves it."""
    rows = [
        [
            [
                float(getattr(fits[tuple(sorted(grouping.groups[group])), seed], part)[task])
                for task, group in enumerate(grouping.serves)
            ]
            for seed in seeds
        ]
        for grouping in groupings.values()
    ]
    return np.asarray(rows, dtype=np.float64)
