"""What an estimate and the search for groups will take: a rehearsal on a few examples, timed and scaled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coterie._context import Context
from coterie._process_lock import process_lock
from coterie._units import Payload
from coterie.affinity import Affinity, Estimate, GainModel, GradTAE, PairwiseGainModel
from coterie.affinity.costs import Costs
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.stopped import SAMPLE
from coterie.grouping import Grouping
from coterie.pipeline.candidates import candidate_groupings, subset_count
from coterie.pipeline.planning_time import Timing, timed
from coterie.training.units import UnitCost
from coterie.workload import Split, Workload

#: examples of the rehearsal, and of a second one with a part of them, which tells what does not grow with examples
ROWS, PART = 600, 4
#: examples with a label of every task
EACH = 2
#: subsets in a call whose time is measured
FEW, MANY = 8, 64
#: the search is rehearsed with so many tasks at most
TASKS = 48
#: features of a rehearsal may take so many numbers
NUMBERS = 2**26


@dataclass
class _Recorder:
    """Times units of work and keeps their arrays' sizes."""

    timing: dict[str, Timing] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """Compute."""
        del key
        payload, self.timing[name] = timed(compute)
        self.sizes[name] = {k: int(v.nbytes) for k, v in payload.arrays.items()}
        return payload


@dataclass(frozen=True)
class Rehearsal:
    """An estimate with one base model on few examples.

    Attributes:
        model: predicts any subset, as the real one will but worse.
        train: labels of the training part.
        validation: labels of the validation part.
        timing: time of the features and of their sums.
        fixed: bytes of what is kept of a base whatever the number of examples.
        label: bytes of what is kept of a label.
        call: time of a call of the model.
        subset: time of a subset in a call.
    """

    model: GradTAEModel
    train: int
    validation: int
    timing: Timing
    fixed: int
    label: float
    call: Timing
    subset: Timing


@dataclass(frozen=True)
class EstimateCost:
    """What a base model of the estimate costs beside its trainings, and a call of the model that comes out.

    Attributes:
        features: time of the features of one base.
        kept: bytes that stay in memory of one base.
        stored: bytes on disk of the first base and of any other.
        features_bytes: bytes of all features of one base while they are made.
        call: time of a call of the model, for one base.
        subset: time of a subset in a call, for one base.
    """

    features: Timing
    kept: float
    stored: tuple[float, float]
    features_bytes: float
    call: Timing
    subset: Timing


def rehearse(base: GradTAE, workload: Workload, size: int, memory: int, label_numbers: int) -> EstimateCost:
    """Make the estimate with one base on a few examples, and on fewer, and scale it to all.

    Args:
        base: settings of the base models.
        workload: tasks and data.
        size: of a usual subset.
        memory: for the features.
        label_numbers: numbers that the features of a label have, at most.
    """
    rows = int(np.clip(NUMBERS // max(1, label_numbers * workload.n_tasks), 32, ROWS))
    large = _rehearsal(base, workload, rows, size, memory)
    small = _rehearsal(base, workload, max(8, rows // PART), size, memory)
    train, validation = (int(workload.observed[workload.split.part(p)].sum()) for p in ("train", "validation"))
    labels, grown = train + validation, large.train + large.validation
    features = _line(large.timing, small.timing, grown, small.train + small.validation, labels)
    call = _line(large.call, small.call, large.validation, small.validation, validation)
    subset = _line(large.subset, small.subset, large.validation, small.validation, validation)
    both = large.fixed + large.label * labels
    one = large.fixed + large.label * validation
    first = both if base.directions != "secants" or base.fit == "converged" else one
    kept = both if base.fit == "converged" else one
    return EstimateCost(features, kept, (first, kept), large.label * labels, call, subset)


def _line(large: Timing, small: Timing, many: int, few: int, wanted: int) -> Timing:
    """A time that grows with a count, from two."""
    if many <= few:
        return large
    return large + (large - small) * max(0.0, (wanted - many) / (many - few))


def _rehearsal(base: GradTAE, workload: Workload, rows: int, size: int, memory: int) -> Rehearsal:
    small = shrunk(workload, rows)
    recipe = replace(workload.recipe, epochs=1, check_every=None, batch_size=min(workload.recipe.batch_size, rows))
    small = replace(small, recipe=recipe)
    store = _Recorder()
    settings = replace(base, bases=1, share=0.0, ridge=base.ridge if base.ridge != "matched" else 0.1)
    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimate = settings.estimate(small, Context(memory=memory, store=store), size)
    model: Any = estimate.model
    name = "secants" if base.directions == "secants" else "features"
    sizes = store.sizes[name]
    fixed = sum(v for k, v in sizes.items() if k.startswith("statistics/"))
    train, validation = (int(small.observed[small.split.part(p)].sum()) for p in ("train", "validation"))
    label = sum(v for k, v in sizes.items() if k.startswith("validation/")) / max(1, validation)
    call, subset = _call(model, size)
    return Rehearsal(model, train, validation, store.timing[name], fixed, label, call, subset)


def _call(model: GradTAEModel, size: int) -> tuple[Timing, Timing]:
    """Time of a call and of a subset in it."""
    n, rng = len(model.tasks), np.random.default_rng(0)
    least: list[Timing] = []
    for count in (FEW, MANY):
        masks = [rng.random((count, n)).argsort(1) < size for _ in range(3)]
        found: list[Timing] = []
        for mask in masks:
            if model.network is not None:
                model.network.known.clear()  # nothing is evaluated twice
            found.append(timed(lambda m=mask: model.predict_values(m))[1])
        least.append(min(found[1:], key=lambda t: t.cpu))
    subset = (least[1] - least[0]) * (1 / (MANY - FEW))
    return least[0] - subset * FEW, subset


def shrunk(workload: Workload, rows: int) -> Workload:
    """The workload with a few examples a part, among which every task has labels."""
    return replace(
        workload,
        split=Split(*(_some(workload, workload.split.part(p), rows) for p in ("train", "validation", "test"))),
    )


def _some(workload: Workload, part: torch.Tensor, rows: int) -> torch.Tensor:
    order = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(0)).to(part.device)]
    seen = workload.observed[order]
    keep = torch.zeros(len(order), dtype=torch.bool, device=part.device)
    keep[:rows] = True
    # the first examples of every task
    keep |= (seen & (seen.long().cumsum(0) <= EACH)).any(1)
    return order[keep].sort().values


class _Counted(GainModel):
    """A matrix as a model of gains that counts what it is asked for."""

    def __init__(self, model: PairwiseGainModel, remembers: bool) -> None:
        self.model, self.remembers = model, remembers
        self.calls = self.subsets = 0
        self._seen: set[bytes] = set()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.model.tasks

    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        fresh = subsets
        if self.remembers:
            keys = [row.tobytes() for row in np.packbits(subsets, axis=1)]
            fresh = subsets[[key not in self._seen for key in keys]]
            self._seen.update(keys)
        self.calls += len(fresh) > 0
        self.subsets += len(fresh)
        return self.model._predict(subsets)  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True)
class SearchCost:
    """What the search for groups asks of a model, and what it takes itself.

    Attributes:
        calls: calls of the model.
        subsets: new subsets in them.
        own: time beside the model.
        groupings: the candidates that were found.
    """

    calls: float
    subsets: float
    own: Timing
    groupings: tuple[Grouping, ...]

    @property
    def groups(self) -> list[int]:
        """Sizes of the distinct groups of several tasks."""
        found = {tuple(sorted(g)) for grouping in self.groupings for g in grouping.groups}
        return [len(g) for g in found if len(g) > 1]


def count_search(names: tuple[str, ...], groups: int | None, budget: int | None, *, remembers: bool) -> SearchCost:
    """Search for groups in a random matrix with as many tasks, and count; beyond 48 tasks with 48, and scaled.

    A search asks for some number of groups a task and start, so that calls and subsets grow with the number of tasks.
    Its own time grows with the square: partitions are tried one by one, each over all tasks.
    """
    n = min(len(names), TASKS)
    rng = np.random.default_rng(0)
    likeness = rng.normal(size=(n, 3))
    values = 0.1 * (np.tanh(likeness @ likeness.T) + 0.5 * rng.normal(size=(n, n)))
    matrix = Affinity(values, names[:n], None, "gain", "rehearsal")
    model = _Counted(PairwiseGainModel(matrix), remembers)
    estimate = Estimate(model, Costs(UnitCost(0.0, 0.0, 0.0)))
    given, most = (None if value is None else min(value, n) for value in (groups, budget))
    if given is not None and n < len(names):
        given = min(given, n // 2)  # groups of two at least, or nothing is asked
    (_, found), own = timed(lambda: candidate_groupings(estimate, matrix, given, most))
    more = len(names) / n
    return SearchCost(model.calls * more, model.subsets * more, own * more**2, tuple(found.values()))


def asked_before(n_tasks: int, size: int, stopped: bool, reference: int) -> tuple[int, int]:
    """Calls and subsets before the search: the choice of the ridge, the reference, tasks alone, the affinity matrix."""
    parts = [SAMPLE] * stopped + [reference] * (reference > 0) + [n_tasks, subset_count(n_tasks, size)]
    return len(parts), sum(parts)
