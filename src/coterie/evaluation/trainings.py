"""Subsets trained with one seed after another, each seed a unit of the store, and the losses of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coterie._context import Context
from coterie._units import Payload, look
from coterie.balancing import Balancing
from coterie.balancing.choice import balancing_key
from coterie.evaluation.labels import LabelIndex, Losses
from coterie.grouping import Grouping
from coterie.training.job import Fit, Job, pack_fits, unpack_fits
from coterie.training.units import FitUnit, fit_units
from coterie.workload import Workload

Subset = tuple[int, ...]
#: trained parameters are kept between stages up to this many bytes; beyond it, what is served is trained again
STATE_BYTES = 2**30
#: for so many seeds
USUAL_SEEDS = 5


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
        context: memory, store, progress and executor.
        name: of the units in the store.
        fits: the training of each (subset, seed).
        losses: (subset, seed, part) -> loss of each label of the subset's tasks.
        seconds: how long the trainings took, in this or an earlier process.
        balancing: how tasks are balanced in each training; None for the loss pooled over labels.
    """

    workload: Workload
    index: Mapping[str, LabelIndex]
    context: Context
    name: str
    fits: dict[tuple[Subset, int], Fit] = field(default_factory=dict[tuple[Subset, int], Fit])
    losses: dict[tuple[Subset, int, str], NDArray[np.float32]] = field(
        default_factory=dict[tuple[Subset, int, str], NDArray[np.float32]]
    )
    seconds: float = 0.0
    balancing: Balancing | None = None

    def train(self, subsets: Sequence[Subset], seeds: Sequence[int], *, keep: bool | None, stage: str) -> None:
        """Train subsets with some seeds; `keep` says whether their parameters stay in memory and store.

        None keeps them where they are small.

        What the store has of a seed is used, in the units in which it was trained; subsets that are missing are a
        further unit. A seed with the same subsets has the same units, whatever other seeds there are.
        """
        kept = self._small(len(subsets), seeds) if keep is None else keep
        batches = [(seed, batch) for seed in seeds for batch in self._batches(subsets, seed)]
        units = [self._unit(batch, seed) for seed, batch in batches]
        pack = partial(self._pack, kept)
        payloads = fit_units(self.workload, self.name, units, pack, self.context, stage=stage)
        for seed in seeds:  # not before all are there: a run that is killed trains the same batches again
            for number, batch in enumerate(batch for of, batch in batches if of == seed):
                self._registered(seed, number, batch)
        asked = set(subsets)
        for (seed, _), unit, payload in zip(batches, units, payloads, strict=True):
            self.seconds += float(payload.meta["seconds"])
            for number, done in enumerate(unpack_fits(unit.jobs, payload)):
                if done.job.subset not in asked:
                    continue
                self.fits[done.job.subset, seed] = done
                for part in self.index:
                    self.losses[done.job.subset, seed, part] = np.asarray(payload.arrays[f"losses/{part}/{number}"])

    def _small(self, count: int, seeds: Sequence[int]) -> bool:
        """Whether the parameters of so many subsets may be kept."""
        size = sum(p.numel() * p.element_size() for p in self.workload.build_model(seeds[0]).parameters())
        return size * count <= STATE_BYTES / USUAL_SEEDS  # not by the number of seeds, which may grow

    def _batches(self, subsets: Sequence[Subset], seed: int) -> list[list[Subset]]:
        """Subsets that were trained together with a seed, all that the store knows of, and those that are missing."""
        found: list[list[Subset]] = []
        while (known := self._registered(seed, len(found))) is not None:
            found.append(known)
        missing = sorted(set(subsets).difference(*found))
        return [*found, missing] if missing else found

    def _registered(self, seed: int, number: int, batch: Sequence[Subset] | None = None) -> list[Subset] | None:
        """The subsets of a batch by its number, or None; with `batch`, they are written down."""
        key = {"of": self.name, "seed": seed, "number": number, **balancing_key(self.balancing)}
        if batch is None:
            payload = look(self.context.store, "trained together", key)
        else:
            content = Payload(meta={"subsets": [list(subset) for subset in batch]})
            payload = self.context.store.unit("trained together", key, lambda: content)
        return None if payload is None else [tuple(subset) for subset in payload.meta["subsets"]]

    def _unit(self, subsets: Sequence[Subset], seed: int) -> FitUnit:
        key = {"subsets": [list(subset) for subset in subsets], "seed": seed, **balancing_key(self.balancing)}
        return FitUnit(key, [Job(subset=subset, seed=seed, balancing=self.balancing) for subset in subsets])

    def _pack(self, keep: bool, fits: list[Fit]) -> Payload:
        packed = pack_fits(fits, states=keep)
        arrays = dict(packed.arrays)
        for number, done in enumerate(fits):
            for part, labels in self.index.items():
                arrays[f"losses/{part}/{number}"] = labels.losses(self.workload, done.state, done.job.subset)
        return Payload(arrays, packed.meta)

    def trained(self, subset: Subset, seed: int) -> bool:
        """Whether a subset was trained with a seed."""
        return (subset, seed) in self.fits

    def measure(self, groupings: Sequence[Grouping], seeds: Sequence[int], part: str) -> Losses:
        """Losses of groupings whose groups were trained, in order."""
        index = self.index[part]
        values = np.stack([collect(grouping, seeds, self.losses, index, part) for grouping in groupings])
        labels = index.measured(values)
        return Losses.of(labels.means(self.workload.n_tasks), labels)
