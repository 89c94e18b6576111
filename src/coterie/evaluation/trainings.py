"""Subsets trained with one seed after another, each seed a unit of the store, and the losses of their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._context import Context
from coterie._surface import warn
from coterie._units import Payload, look
from coterie.balancing import Balancing
from coterie.balancing.methods import balancing_key
from coterie.errors import DataWarning, ModelError, SettingError
from coterie.evaluation.halving import Halving, Prices
from coterie.evaluation.labels import LabelIndex, LabelLosses, Losses
from coterie.grouping import Grouping
from coterie.training.job import Fit, Job, pack_fits, unpack_fits
from coterie.training.trainer import Outcome, Trainer, as_trainer, describe_run, make_run, train_runs
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
        predicting: whether predictions are kept, for metrics.
        predictions: (subset, seed, part) -> what is served for each label of the subset's tasks, flat.
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
    predicting: bool = False
    predictions: dict[tuple[Subset, int, str], NDArray[np.float32]] = field(
        default_factory=dict[tuple[Subset, int, str], NDArray[np.float32]]
    )

    @property
    def _more(self) -> dict[str, Any]:
        """What keys of units have beside subsets and seed."""
        return {**balancing_key(self.balancing), **({"predictions": True} if self.predicting else {})}

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
                    place = done.job.subset, seed, part
                    self.losses[place] = np.asarray(payload.arrays[f"losses/{part}/{number}"])
                    if self.predicting:
                        self.predictions[place] = np.asarray(payload.arrays[f"predictions/{part}/{number}"])

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
        key = {"of": self.name, "seed": seed, "number": number, **self._more}
        if batch is None:
            payload = look(self.context.store, "trained together", key)
        else:
            content = Payload(meta={"subsets": [list(subset) for subset in batch]})
            payload = self.context.store.unit("trained together", key, lambda: content)
        return None if payload is None else [tuple(subset) for subset in payload.meta["subsets"]]

    def _unit(self, subsets: Sequence[Subset], seed: int) -> FitUnit:
        key = {"subsets": [list(subset) for subset in subsets], "seed": seed, **self._more}
        return FitUnit(key, [Job(subset=subset, seed=seed, balancing=self.balancing) for subset in subsets])

    def _pack(self, keep: bool, fits: list[Fit]) -> Payload:
        packed = pack_fits(fits, states=keep)
        arrays = dict(packed.arrays)
        for number, done in enumerate(fits):
            for part, labels in self.index.items():
                subset = done.job.subset
                arrays[f"losses/{part}/{number}"] = labels.losses(self.workload, done.state, subset)
                if self.predicting:
                    arrays[f"predictions/{part}/{number}"] = labels.predictions(self.workload, done.state, subset)
        return Payload(arrays, packed.meta)

    def trained(self, subset: Subset, seed: int) -> bool:
        """Whether a subset was trained with a seed."""
        return (subset, seed) in self.fits

    def scores(self, subset: Subset, seed: int, part: str) -> dict[int, NDArray[np.float64]]:
        """Task -> what the model of a subset serves for its labels."""
        return self.index[part].scores(self.workload, subset, self.predictions[subset, seed, part])

    def measure(self, groupings: Sequence[Grouping], seeds: Sequence[int], part: str) -> Losses:
        """Losses of groupings whose groups were trained, in order."""
        index = self.index[part]
        values = np.stack([collect(grouping, seeds, self.losses, index, part) for grouping in groupings])
        labels = index.measured(values)
        return Losses.of(labels.means(self.workload.n_tasks), labels)


@dataclass(frozen=True)
class RaceEntries:
    """The list of entries.

    Attributes:
        prices: of those that race.
        names: all candidates, in order.
        seeded: those that are in the final without a race: the simple ones, and those made of their groups.
        refused: those with more models than may be served.
        twins: candidate -> another one of the same groups, which races for both.
    """

    prices: Prices
    names: tuple[str, ...]
    seeded: frozenset[str]
    refused: tuple[str, ...]
    twins: Mapping[str, str]

    @staticmethod
    def of(everything: Mapping[str, Grouping], simple: Sequence[str], budget: int | None = None) -> RaceEntries:
        """Sort the candidates.

        Args:
            everything: all candidates, the simple ones included.
            simple: names of those that are always in the final.
            budget: largest number of models that may be served.
        """
        always = frozenset(subsets_of(everything[name] for name in simple))
        seeded, refused, twins, racing = set(simple), list[str](), dict[str, str](), dict[object, str]()
        for name, grouping in everything.items():
            if name in seeded:
                continue
            if budget is not None and len(grouping.groups) > budget:
                refused.append(name)
            elif always.issuperset(subsets_of([grouping])):
                seeded.add(name)
            elif _same(grouping) in racing:
                twins[name] = racing[_same(grouping)]
            else:
                racing[_same(grouping)] = name
        prices = Prices({name: frozenset(subsets_of([everything[name]])) for name in racing.values()}, always)
        return RaceEntries(prices, tuple(everything), frozenset(seeded), tuple(refused), twins)

    def complete(self, halving: Halving) -> Halving:
        """The record of the race with those that did not run in it."""
        through = self.seeded | set(halving.finalists)
        finalists = tuple(name for name in self.names if self.twins.get(name, name) in through)
        return replace(halving, finalists=finalists, refused=self.refused, twins=tuple(self.twins.items()))


def _same(grouping: Grouping) -> object:
    """Equal for groupings that train the same groups and serve each task from the same one."""
    groups = [tuple(sorted(group)) for group in grouping.groups]
    return frozenset(groups), tuple(groups[server] for server in grouping.serves)


@dataclass(eq=False)
class RunOutcomes:
    """What came of the runs of a trainer so far.

    Attributes:
        trainer: who does the runs.
        context: store of the outcomes, progress and executor.
        runs: outcome of each (subset, seed).
        seconds: how long the runs took, in this or an earlier process.
    """

    trainer: Trainer
    context: Context
    runs: dict[tuple[Subset, int], Outcome] = field(default_factory=dict[tuple[Subset, int], Outcome])
    seconds: float = 0.0

    @staticmethod
    def of(trainer: Any, context: Context, balancing: Balancing | None) -> RunOutcomes:
        """No run done yet.

        Raises:
            SettingError: when it is no trainer, or tasks are to be balanced, which a trainer does itself.
        """
        trainer = as_trainer(trainer)
        if balancing is not None:
            raise SettingError(
                f"Parameter `balancing`={str(balancing)!r} needs a torch workload: {trainer!r} balances tasks itself. "
                "Leave it out."
            )
        return RunOutcomes(trainer, context)

    def trained(self, subset: Subset, seed: int) -> bool:
        """Whether there is a run on a subset with a seed."""
        return (subset, seed) in self.runs

    def train(self, subsets: Sequence[Subset], seeds: Sequence[int], *, stage: str, keep: bool | None) -> None:
        """Do every subset with every seed; what the store has is not done again. No parameters are kept."""
        del keep
        places = [(subset, seed) for seed in seeds for subset in subsets]
        runs = [make_run(self.trainer, subset, seed) for subset, seed in places]
        done = train_runs(self.trainer, runs, self.context, stage=stage)
        for place, run, (outcome, seconds) in zip(places, runs, done, strict=True):
            self.runs[place] = outcome
            self.seconds += seconds
            first = next(iter(self.runs.values()))
            if (first.test is None) != (outcome.test is None):
                raise ModelError(
                    f"Some runs of {self.trainer!r} report test losses and others do not, such as that on "
                    f"{describe_run(run)}. Report them always, or never."
                )

    def measure(self, groupings: Sequence[Grouping], seeds: Sequence[int], part: str) -> Losses:
        """Losses of groupings whose groups were trained, in order; of the validation part where there is no test.

        Label by label where every task's losses are reported one number an example.

        Raises:
            ModelError: when runs report different examples of a task.
        """
        tasks = self.trainer.tasks
        if part == "test" and next(iter(self.runs.values())).test is None:
            warn(
                f"{self.trainer!r} reports no test losses, so gains are reported on the losses that chose, which "
                "flatters what was chosen. Return Outcome(validation=..., test=...).",
                DataWarning,
            )
        served = [[self._serving(grouping, seed, part) for seed in seeds] for grouping in groupings]
        if any(len(losses) == 1 for rows in served for row in rows for losses in row):
            means = np.array([[[losses.mean() for losses in row] for row in rows] for rows in served])
            return Losses.of(means)
        observed = [~np.isnan(losses) for losses in served[0][0]]
        for row in (row for rows in served for row in rows):
            for task, losses, there in zip(tasks, row, observed, strict=True):
                if losses.shape != there.shape or (np.isnan(losses) == there).any():
                    raise ModelError(
                        f"Runs report {part} losses of different examples of task {task!r}. Report the same examples "
                        "in the same order in every run, NaN where the task has no label, or report means."
                    )
        values = [
            [np.concatenate([losses[there] for losses, there in zip(row, observed, strict=True)]) for row in rows]
            for rows in served
        ]
        labels = _label_losses(np.array(values, dtype=np.float32), observed)
        return Losses.of(labels.means(len(tasks)), labels)

    def _serving(self, grouping: Grouping, seed: int, part: str) -> list[NDArray[np.float64]]:
        """Losses of each task from the group that serves it."""
        groups = [tuple(sorted(group)) for group in grouping.groups]
        return [
            self.runs[groups[server], seed].losses(part)[task]
            for task, server in zip(self.trainer.tasks, grouping.serves, strict=True)
        ]


def _label_losses(values: NDArray[np.float32], observed: Sequence[NDArray[np.bool_]]) -> LabelLosses:
    """Examples of one number for all tasks are the same examples; of other numbers, every task has its own."""
    shared = len({len(there) for there in observed}) == 1
    starts = np.zeros(len(observed), dtype=np.int64) if shared else np.cumsum([0, *map(len, observed[:-1])])
    row = np.concatenate([start + np.flatnonzero(there) for start, there in zip(starts, observed, strict=True)])
    task = np.repeat(np.arange(len(observed)), [int(there.sum()) for there in observed])
    return LabelLosses(values, task.astype(np.int64), row.astype(np.int64))
