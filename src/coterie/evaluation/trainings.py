"""Subsets trained with one seed after another, each seed a unit of the store, and the losses of their labels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coterie._units import Payload, UnitStore
from coterie.balancing import Balancing, balancing_key
from coterie.evaluation.labels import LabelIndex
from coterie.grouping import Grouping
from coterie.training import Fit, Job, fit
from coterie.training.archive import pack_fits, unpack_fits
from coterie.workload import Workload

Subset = tuple[int, ...]


def subsets_of(groupings: Iterable[Grouping]) -> list[Subset]:
    """The distinct groups of some groupings, sorted."""
    return sorted({tuple(sorted(group)) for grouping in groupings for group in grouping.groups})


def collect(
    grouping: Grouping,
    seeds: Sequence[int],
    losses: Mapping[tuple[Subset, int, str], NDArray[np.float32]],
    index: LabelIndex,
    part: str,
) -> NDArray[np.float32]:
    """(seeds, labels) losses of a grouping: each task from the group that serves it."""
    result = np.full((len(seeds), len(index.task)), np.nan, dtype=np.float32)
    for number, group in enumerate(grouping.groups):
        served = [task for task, server in enumerate(grouping.serves) if server == number]
        if not served:
            continue
        subset = tuple(sorted(group))
        held, wanted = index.of_tasks(subset), index.of_tasks(served)
        for position, seed in enumerate(seeds):
            result[position, wanted] = losses[subset, seed, part][wanted[held]]
    return result


@dataclass(eq=False)
class Trainings:
    """What has been trained so far.

    Attributes:
        workload: tasks, data, model and recipe.
        index: labels whose losses are measured, by part of the data.
        memory: working memory of population training in bytes.
        store: where finished seeds are kept.
        name: of the units in the store.
        fits: the training of each (subset, seed).
        losses: (subset, seed, part) -> loss of each label of the subset's tasks.
        seconds: how long the trainings took, in this or an earlier process.
        balancing: how tasks are balanced in each training; None for the loss pooled over labels.
    """

    workload: Workload
    index: Mapping[str, LabelIndex]
    memory: int
    store: UnitStore
    name: str
    fits: dict[tuple[Subset, int], Fit] = field(default_factory=dict[tuple[Subset, int], Fit])
    losses: dict[tuple[Subset, int, str], NDArray[np.float32]] = field(
        default_factory=dict[tuple[Subset, int, str], NDArray[np.float32]]
    )
    seconds: float = 0.0
    balancing: Balancing | None = None

    def train(self, subsets: Sequence[Subset], seed: int, *, keep: bool) -> None:
        """Train subsets with one seed; `keep` says whether their parameters stay in memory and store."""
        jobs = [Job(subset=subset, seed=seed, balancing=self.balancing) for subset in subsets]
        key = {
            "subsets": [list(subset) for subset in subsets],
            "seed": seed,
            "keep": keep,
            **balancing_key(self.balancing),
        }
        payload = self.store.unit(self.name, key, lambda: self._compute(jobs, keep))
        self.seconds += float(payload.meta["seconds"])
        for number, done in enumerate(unpack_fits(jobs, payload)):
            self.fits[done.job.subset, seed] = done
            for part in self.index:
                self.losses[done.job.subset, seed, part] = np.asarray(payload.arrays[f"losses/{part}/{number}"])

    def _compute(self, jobs: Sequence[Job], keep: bool) -> Payload:
        start = time.perf_counter()
        fits = fit(self.workload, jobs, memory=self.memory)
        packed = pack_fits(fits, states=keep)
        arrays = dict(packed.arrays)
        for number, done in enumerate(fits):
            for part, labels in self.index.items():
                arrays[f"losses/{part}/{number}"] = labels.losses(self.workload, done.state, done.job.subset)
        return Payload(arrays, {**packed.meta, "seconds": time.perf_counter() - start})

    def collect(self, grouping: Grouping, seeds: Sequence[int], part: str) -> NDArray[np.float32]:
        """(seeds, labels) losses of a grouping whose groups were trained."""
        return collect(grouping, seeds, self.losses, self.index[part], part)
