"""Metrics of candidate groupings on their real trainings, with draws of the examples for intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import choice, whole_number
from coterie._show import short_repr
from coterie.evaluation.intervals import Interval, Spread, resample
from coterie.evaluation.labels import Losses, Resampled
from coterie.evaluation.metrics import Judge, check_value, measure
from coterie.evaluation.trainings import Trainings
from coterie.grouping import Grouping

#: draws of the examples: the variance of a number is then known to a tenth
DRAWS = 200
#: shuffles by which the shortfall of predictions that know nothing is found
_SHUFFLES = 8


@short_repr
@dataclass(frozen=True, eq=False)
class MetricValues:
    """One metric of all candidates.

    Attributes:
        name: of the metric.
        parts: part -> shortfalls of the metric and their draws; see :class:`coterie.evaluation.metrics.Judge`.
        best: (tasks,) the best value that each task can have; NaN for tasks that the metric does not judge.
        sign: (tasks,) -1 where higher is better, 1 where lower is.
    """

    name: str
    parts: Mapping[str, Resampled]
    best: NDArray[np.float64]
    sign: NDArray[np.float64]

    @property
    def judged(self) -> list[int]:
        """Numbers of the tasks that the metric judges."""
        return np.flatnonzero(np.isfinite(self.best)).tolist()

    def values(self, part: str) -> NDArray[np.float64]:
        """(candidates, seeds, tasks) values of the metric."""
        return self.best + self.sign * self.parts[part].draws[..., 0].astype(np.float64)

    def losses(self, part: str) -> Losses:
        """Shortfalls in the place of losses: lower is better."""
        found = self.parts[part]
        return Losses(found.draws[..., 0].astype(np.float64), found, found.floor)

    def interval(self, candidate: int, part: str, tasks: Sequence[int] | None = None) -> Interval:
        """Mean value over tasks and seeds, with its 95 % interval over seeds and examples (by bootstrap).

        Raises:
            SettingError: when there is no such candidate or part.
        """
        whole_number(candidate, "candidate", low=0, high=len(next(iter(self.parts.values())).draws) - 1)
        choice(part, "part", tuple(self.parts))
        chosen = self.judged if tasks is None else list(tasks)
        found = self.parts[part]
        drawn = self.best[chosen, None] + self.sign[chosen, None] * found.draws[candidate][:, chosen]
        drawn = drawn.astype(np.float64).mean(1)  # (seeds, 1 + draws)
        spread = Spread.of(drawn[:, 0], found.of(drawn[:, 1:].mean(0)))
        half = spread.reach()
        return Interval(spread.mean, spread.mean - half, spread.mean + half)

    def extended(self, sources: Sequence[int]) -> MetricValues:
        """With one more candidate, in which each task is served by a model of another candidate, given by number."""
        tasks = np.arange(len(sources))
        parts = {
            part: replace(
                one, draws=np.concatenate([one.draws, one.draws[np.array(sources), :, tasks].swapaxes(0, 1)[None]])
            )
            for part, one in self.parts.items()
        }
        return replace(self, parts=parts)

    def to_dict(self, candidates: Sequence[str], tasks: Sequence[str], against: int) -> dict[str, Any]:
        """A JSON-ready form: intervals of the values, and of the gains over one candidate."""
        rows: list[dict[str, Any]] = []
        for number, name in enumerate(candidates):
            gains = {part: self.losses(part).gain(number, against, self.judged) for part in self.parts}
            rows.append(
                {
                    "name": name,
                    **{part: self.interval(number, part).to_dict() for part in self.parts},
                    "gain": {part: gain.to_dict() for part, gain in gains.items()},
                    "tasks": [
                        {"name": tasks[t], **{p: self.interval(number, p, [t]).to_dict() for p in self.parts}}
                        for t in self.judged
                    ],
                }
            )
        return {"name": self.name, "higher": bool((self.sign[self.judged] < 0).all()), "candidates": rows}

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, for a file."""
        parts = {
            f"{part}/{name}": np.asarray(value) for part, one in self.parts.items() for name, value in vars(one).items()
        }
        return {"best": self.best, "sign": self.sign, **parts}

    @staticmethod
    def from_arrays(name: str, arrays: Mapping[str, NDArray[Any]]) -> MetricValues:
        """The inverse of :meth:`to_arrays`."""
        parts = {
            part: Resampled(arrays[f"{part}/draws"], int(arrays[f"{part}/examples"]), arrays[f"{part}/floor"])
            for part in sorted({key.split("/")[0] for key in arrays if "/" in key})
        }
        return MetricValues(name, parts, arrays["best"], arrays["sign"])


def metric_values(
    judge: Judge, trainings: Trainings, groupings: Sequence[Grouping], seeds: Sequence[int]
) -> MetricValues:
    """A metric of groupings whose groups were trained, on all parts that were looked at.

    Cost: a pass over the predictions of every (group, seed), sorted once, for the 200 draws of a metric known by name;
    200 calls of a function of the user's.
    """
    n_tasks = trainings.workload.n_tasks
    best, sign = np.full(n_tasks, np.nan), np.full(n_tasks, np.nan)
    for task in judge.tasks:
        zero, one = judge.value(task, np.array([0.0, 1.0]))
        best[task], sign[task] = zero, one - zero
    parts = {part: resampled(judge, trainings, groupings, seeds, part) for part in trainings.index}
    return MetricValues(judge.title, parts, best, sign)


def resampled(
    judge: Judge, trainings: Trainings, groupings: Sequence[Grouping], seeds: Sequence[int], part: str
) -> Resampled:
    """Shortfalls of groupings on one part of the data and on draws of its examples."""
    workload, index = trainings.workload, trainings.index[part]
    examples, place = np.unique(index.row, return_inverse=True)
    weights = resample(len(examples), DRAWS, seed=0)
    draws = np.full((len(groupings), len(seeds), workload.n_tasks, DRAWS + 1), np.nan, dtype=np.float32)
    floor = np.zeros(workload.n_tasks)
    for task in judge.tasks:
        own = weights[:, place[index.task == task]]
        labels, found = index.labels(workload, task), dict[tuple[tuple[int, ...], int], NDArray[np.float64]]()
        for number, grouping in enumerate(groupings):
            subset = tuple(sorted(grouping.groups[grouping.serves[task]]))
            for position, seed in enumerate(seeds):
                if (subset, seed) not in found:
                    scores = trainings.scores(subset, seed, part)[task]
                    values = measure(judge.tasks[task], labels, scores, own, workload.task_names[task])
                    found[subset, seed] = judge.shortfall(task, values)
                    check_value(judge, workload.task_names[task], part, found[subset, seed], labels)
                    floor[task] = floor[task] or _floor(judge, task, labels, scores)
                draws[number, position, task] = found[subset, seed]
    return Resampled(draws, len(examples), floor)


def _floor(judge: Judge, task: int, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Shortfall of predictions that were shuffled, over the root of the number of labels."""
    rng, once = np.random.default_rng(0), np.ones((1, len(labels)))
    shuffled = [
        measure(judge.tasks[task], labels, scores[rng.permutation(len(labels))], once) for _ in range(_SHUFFLES)
    ]
    levels = judge.shortfall(task, np.concatenate(shuffled))
    known = levels[np.isfinite(levels)]
    return float(known.mean()) / float(np.sqrt(len(labels))) if len(known) else 0.0
