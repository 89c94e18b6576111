"""What an estimate and the search for groups will take: a rehearsal on a few examples, timed and scaled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coterie._context import Context
from coterie._process_lock import process_lock
from coterie._units import Payload
from coterie.affinity import Affinity, Estimate, Estimator, GainModel, PairwiseGainModel
from coterie.affinity.costs import Costs
from coterie.grouping import Grouping
from coterie.pipeline.candidates import candidate_groupings
from coterie.pipeline.planning_time import Timing, timed
from coterie.training.units import UnitCost
from coterie.workload import Split, Workload

#: examples of the rehearsal
ROWS = 600
#: examples with a label of every task
EACH = 2
#: subsets in the call whose time is measured, at most
MANY = 64
#: the search is rehearsed with so many tasks at most
TASKS = 48
#: features of a rehearsal may take so many numbers
NUMBERS = 2**26
#: what the features of a base leave behind for every label of a part
_PARTS = ("train", "validation")


@dataclass
class _Recorder:
    """Times the units of work that hold features, and keeps their arrays' sizes."""

    timing: list[Timing] = field(default_factory=list[Timing])
    sizes: list[dict[str, int]] = field(default_factory=list[dict[str, int]])

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """Compute."""
        del name, key
        payload, timing = timed(compute)
        found: dict[str, int] = dict.fromkeys((*_PARTS, "statistics"), 0)
        for array, value in payload.arrays.items():
            if array.split("/")[0] in found:
                found[array.split("/")[0]] += int(value.nbytes)
        if found["statistics"]:
            self.timing.append(timing)
            self.sizes.append(found)
        return payload


@dataclass(frozen=True)
class EstimateCost:
    """What a base model of the estimate costs beside its trainings, and a call of the model that comes out.

    Attributes:
        features: time of the features of one base.
        stored: bytes on disk of each base; those of the last stay in memory.
        features_bytes: bytes of all features of one base while they are made.
        call: time of a usual call of the model, for one base.
    """

    features: Timing
    stored: tuple[float, ...]
    features_bytes: float
    call: Timing


def rehearse(
    estimator: Estimator, workload: Workload, memory: int, size: int, numbers: int, usual: float
) -> EstimateCost:
    """Make an estimate with few base models on a few examples, and scale it to all.

    Args:
        estimator: settings with one or two base models.
        workload: tasks and data.
        memory: for the features.
        size: of a usual subset.
        numbers: that the features of a label have, at most.
        usual: subsets in a usual call of the model.
    """
    rows = int(np.clip(NUMBERS // max(1, numbers * workload.n_tasks), 32, ROWS))
    small = shrunk(workload, rows)
    recipe = replace(workload.recipe, epochs=1, check_every=None, batch_size=min(workload.recipe.batch_size, rows))
    small, store = replace(small, recipe=recipe), _Recorder()
    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = estimator.estimate(small, Context(memory=memory, store=store), size).model
    labels = [{part: int(w.observed[w.split.part(part)].sum()) for part in _PARTS} for w in (small, workload)]
    more = {part: labels[1][part] / max(1, labels[0][part]) for part in _PARTS} | {"statistics": 1.0}
    stored = tuple(sum(more[part] * count for part, count in sizes.items()) for sizes in store.sizes)
    total = sum(labels[1].values())
    label = store.sizes[0]["validation"] / max(1, labels[0]["validation"])
    return EstimateCost(
        store.timing[-1] * (total / max(1, sum(labels[0].values()))), stored, label * total,
        _call(model, size, int(np.clip(usual, 1, MANY))) * (more["validation"] * max(1.0, usual / MANY)),
    )  # fmt: skip


def _call(model: Any, size: int, count: int) -> Timing:
    """Time of a call, the best of two after a first one, for one base."""
    n, rng = len(model.tasks), np.random.default_rng(0)
    found: list[Timing] = []
    for _ in range(3):
        masks = rng.random((count, n)).argsort(1) < size
        if model.network is not None:
            model.network.known.clear()  # nothing is evaluated twice
        found.append(timed(lambda masks=masks: model.predict_values(masks))[1])
    return min(found[1:], key=lambda timing: timing.cpu) * (1 / len(model.bases))


def shrunk(workload: Workload, rows: int) -> Workload:
    """The workload with a few examples a part, among which every task has labels."""
    parts = (workload.split.part(part) for part in ("train", "validation", "test"))
    return replace(workload, split=Split(*(_some(workload, part, rows) for part in parts)))


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

    def after(self, asked: Sequence[int]) -> SearchCost:
        """With the calls that come before the search, by the number of subsets in each."""
        return replace(self, calls=self.calls + len(asked), subsets=self.subsets + sum(asked))


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
