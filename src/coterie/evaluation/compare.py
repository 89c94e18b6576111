"""Train every candidate grouping for real, with the same recipe and seeds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coterie._progress import Progress, silent
from coterie._units import NoStore, Payload, UnitStore
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.given import as_groupings, as_seeds
from coterie.evaluation.halves import halve_validation
from coterie.evaluation.labels import LabelIndex, LabelLosses
from coterie.grouping import Grouping
from coterie.training import Fit, Job, fit
from coterie.training.archive import pack_fits, unpack_fits
from coterie.workload import Workload

#: trained parameters are kept between stages up to this many bytes; beyond it, what is served is trained again
STATE_BYTES = 2**30

Subset = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TrainedComparison:
    """A comparison and the trainings behind it.

    Attributes:
        comparison: losses of all candidates.
        workload: the workload as it was trained: stopped on one half of the validation part.
        fits: the training of each (subset, seed); its state is empty where parameters were too large to keep.
        losses: (subset, seed, part) -> loss of each label of the subset's tasks.
        index: the labels of the part that chooses (``"validation"``) and of the test part.
        seconds: how long the trainings took, in this or an earlier process.
    """

    comparison: Comparison
    workload: Workload
    fits: Mapping[tuple[Subset, int], Fit]
    losses: Mapping[tuple[Subset, int, str], NDArray[np.float32]]
    index: Mapping[str, LabelIndex]
    seconds: float = 0.0

    def extended(
        self, name: str, grouping: Grouping, losses: Mapping[str, NDArray[np.float32]] | None = None
    ) -> TrainedComparison:
        """With one more candidate, whose groups have all been trained already.

        `losses` (part -> (seeds, labels)) takes the place of what the trained groups lose, where that would flatter.
        """
        if losses is None:
            seeds = self.comparison.seeds
            losses = {part: collect(grouping, seeds, self.losses, index, part) for part, index in self.index.items()}
        return replace(self, comparison=self.comparison.extended(name, grouping, losses))

    def best_state(self, subset: Sequence[int], memory: int, store: UnitStore) -> Mapping[str, Tensor]:
        """Parameters of the seed with the lowest validation loss; trained again where they were not kept."""
        key = tuple(sorted(subset))
        fits = [fitted for (trained, _), fitted in self.fits.items() if trained == key]
        best = min(fits, key=lambda fitted: (fitted.loss, fitted.job.seed))
        if best.state:
            return best.state
        jobs = [best.job]
        unit = {"subset": list(key), "seed": best.job.seed}
        payload = store.unit("served", unit, lambda: pack_fits(fit(self.workload, jobs, memory=memory)))
        return unpack_fits(jobs, payload)[0].state


def all_in_one(tasks: tuple[str, ...]) -> Grouping:
    """One group of all tasks."""
    return Grouping.from_labels(tasks, [0] * len(tasks), method=JOINT)


def single_task(tasks: tuple[str, ...]) -> Grouping:
    """One group a task."""
    return Grouping.from_labels(tasks, list(range(len(tasks))), method=BASELINE)


def compare(
    workload: Workload,
    candidates: Mapping[str, Grouping | Sequence[Sequence[int | str]]],
    *,
    seeds: int | Sequence[int] = 3,
    memory: int = 2**30,
    store: UnitStore | None = None,
    progress: Progress | None = None,
) -> TrainedComparison:
    """Train candidate groupings, all-in-one and single-task models, and evaluate them on validation and test data.

    A subset that several candidates share is trained once a seed. Trainings stop on one half of the validation part;
    the validation losses of the comparison are those of the other half (see :mod:`coterie.evaluation.halves`).

    Args:
        workload: tasks, data, model and recipe.
        candidates: name -> grouping, or its groups as lists of task names or numbers; the two simple candidates are
            added when missing.
        seeds: training seeds, or their number; each fixes initialisation and batch order, and is one unit of the store.
        memory: working memory of population training in bytes.
        store: where finished units are kept.
        progress: called with the number of finished seeds.

    Returns:
        The comparison and the trained models.

    Cost: (distinct subsets) x (seeds) ordinary trainings.
    """
    progress, store = progress or silent, store or NoStore()
    names = workload.task_names
    seeds = as_seeds(seeds)
    everything = {JOINT: all_in_one(names), **as_groupings(candidates, names), BASELINE: single_task(names)}
    subsets = sorted({tuple(sorted(group)) for grouping in everything.values() for group in grouping.groups})
    halved, choose = halve_validation(workload)
    index = {"validation": LabelIndex.of(workload, choose), "test": LabelIndex.of(workload, workload.split.test)}
    fits: dict[tuple[Subset, int], Fit] = {}
    losses: dict[tuple[Subset, int, str], NDArray[np.float32]] = {}
    seconds = 0.0
    for position, seed in enumerate(seeds):
        progress("compare: training candidates", position, len(seeds))
        payload = _train_seed(halved, subsets, seed, len(seeds), memory, store, index)
        seconds += float(payload.meta["seconds"])
        jobs = [Job(subset=subset, seed=seed) for subset in subsets]
        for number, done in enumerate(unpack_fits(jobs, payload)):
            fits[done.job.subset, seed] = done
            for part in index:
                losses[done.job.subset, seed, part] = np.asarray(payload.arrays[f"losses/{part}/{number}"])
    progress("compare: training candidates", len(seeds), len(seeds))
    labels = {
        part: LabelLosses(
            np.stack([collect(grouping, seeds, losses, own, part) for grouping in everything.values()]),
            own.task,
            own.row,
        )
        for part, own in index.items()
    }
    means = {part: found.means(len(names)) for part, found in labels.items()}
    comparison = Comparison(
        names, tuple(everything), tuple(everything.values()), tuple(seeds), means["validation"], means["test"], labels
    )
    return TrainedComparison(comparison, halved, fits, losses, index, seconds)


def _train_seed(
    workload: Workload,
    subsets: Sequence[Subset],
    seed: int,
    n_seeds: int,
    memory: int,
    store: UnitStore,
    index: Mapping[str, LabelIndex],
) -> Payload:
    """Every subset trained with one seed, and the losses of its labels."""
    jobs = [Job(subset=subset, seed=seed) for subset in subsets]
    size = sum(p.numel() * p.element_size() for p in workload.build_model(seed).parameters())
    keep = size * len(jobs) * n_seeds <= STATE_BYTES

    def compute() -> Payload:
        start = time.perf_counter()
        fits = fit(workload, jobs, memory=memory)
        packed = pack_fits(fits, states=keep)
        arrays = dict(packed.arrays)
        for number, done in enumerate(fits):
            for part, labels in index.items():
                arrays[f"losses/{part}/{number}"] = labels.losses(workload, done.state, done.job.subset)
        return Payload(arrays, {**packed.meta, "seconds": time.perf_counter() - start})

    key = {"subsets": [list(subset) for subset in subsets], "seed": seed, "keep": keep}
    return store.unit("compare", key, compute)


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
