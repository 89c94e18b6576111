"""Subsets trained with one seed after another, each seed a unit of the store, and the losses of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coterie._progress import Progress
from coterie._units import Payload, UnitStore
from coterie.balancing import Balancing, balancing_key
from coterie.evaluation.labels import LabelIndex
from coterie.grouping import Grouping
from coterie.training import Fit, FitUnit, Job, fit_units
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
        executor: where trainings run; None is this process.
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
    executor: Executor | None = None

    def train(
        self, subsets: Sequence[Subset], seeds: Sequence[int], *, keep: bool, stage: str, progress: Progress
    ) -> None:
        """Train subsets with some seeds; `keep` says whether their parameters stay in memory and store."""
        units = [self._unit(subsets, seed, keep) for seed in seeds]
        payloads = fit_units(
            self.workload, self.name, units, partial(self._pack, keep), store=self.store, memory=self.memory,
            stage=stage, progress=progress, executor=self.executor,
        )  # fmt: skip
        for seed, unit, payload in zip(seeds, units, payloads, strict=True):
            self.seconds += float(payload.meta["seconds"])
            for number, done in enumerate(unpack_fits(unit.jobs, payload)):
                self.fits[done.job.subset, seed] = done
                for part in self.index:
                    self.losses[done.job.subset, seed, part] = np.asarray(payload.arrays[f"losses/{part}/{number}"])

    def _unit(self, subsets: Sequence[Subset], seed: int, keep: bool) -> FitUnit:
        key = {
            "subsets": [list(subset) for subset in subsets],
            "seed": seed,
            "keep": keep,
            **balancing_key(self.balancing),
        }
        return FitUnit(key, [Job(subset=subset, seed=seed, balancing=self.balancing) for subset in subsets])

    def _pack(self, keep: bool, fits: list[Fit]) -> Payload:
        packed = pack_fits(fits, states=keep)
        arrays = dict(packed.arrays)
        for number, done in enumerate(fits):
            for part, labels in self.index.items():
                arrays[f"losses/{part}/{number}"] = labels.losses(self.workload, done.state, done.job.subset)
        return Payload(arrays, packed.meta)

    def collect(self, grouping: Grouping, seeds: Sequence[int], part: str) -> NDArray[np.float32]:
        """(seeds, labels) losses of a grouping whose groups were trained."""
        return collect(grouping, seeds, self.losses, self.index[part], part)
