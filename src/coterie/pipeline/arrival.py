"""A task that arrives after a run: which group should serve it, from a few trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._bars import following
from coterie._check import positive, whole_number
from coterie._context import Context
from coterie._progress import Progress
from coterie._show import html_table
from coterie._surface import known_arguments
from coterie._units import NoStore
from coterie.affinity.costs import training_flops
from coterie.affinity.scores.label_correlation import LabelCorrelation
from coterie.errors import SettingError
from coterie.evaluation.labels import LabelIndex
from coterie.evaluation.trainings import RunOutcomes, Subset, Trainings
from coterie.grouping import Grouping
from coterie.pipeline.check import as_source
from coterie.training import measure_cost
from coterie.training.trainer import Trainer, names_of
from coterie.training.units import UnitCost
from coterie.workload import Workload, validate

if TYPE_CHECKING:
    from coterie.pipeline.run import RunResult

#: name of the candidate that is a model of its own
ALONE = "alone"


@known_arguments
@dataclass(frozen=True, eq=False)
class AddedTask:
    """Which group should serve a task that arrived later.

    Attributes:
        task: its name.
        group: names of the tasks of the group that it should join; empty where it should have a model of its own.
        grouping: of all tasks, with the new one in that group.
        losses: candidate -> validation losses of the new task, one a seed; lower is better. Candidates are the numbers
            of the groups, in the order of the run, and ``"alone"``.
        members: task of the group -> what it gains (positive is good) when the group is trained with the new task in
            place of without it, as a share of its loss, on validation data; empty where it was not trained without.
        trainings: how many models were trained for this.
        share: their cost as a share of that of the run; None where the run does not tell.
        left: numbers of the groups that were not tried, for their cost.
    """

    task: str
    group: tuple[str, ...]
    grouping: Grouping
    losses: Mapping[int | str, tuple[float, ...]]
    members: Mapping[str, float] = field(default_factory=dict[str, float])
    trainings: int = 0
    share: float | None = None
    left: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """What to do, in a sentence or two."""
        means = {name: float(np.mean(values)) for name, values in self.losses.items()}
        chosen = ALONE if not self.group else self.grouping.serves[self.grouping.tasks.index(self.task)]
        where = (
            f"Train {self.task!r} together with {', '.join(map(repr, self.group))}"
            if self.group
            else f"Train {self.task!r} in a model of its own"
        )
        rest = [value for name, value in means.items() if name != chosen]
        than = f"; the next best candidate has {min(rest):.4g}" if rest else ""
        seeds = len(self.losses[chosen])
        said = f"{where}: validation loss {means[chosen]:.4g} (mean of {seeds} seed{'s' * (seeds > 1)}){than}."
        lost = [f"{name!r} {-gain:.1%}" for name, gain in self.members.items() if gain < -0.01]
        if lost:
            said += f" Tasks of the group that lose by it: {', '.join(lost)}; their old model may go on serving them."
        if self.left:
            said += f" Not tried, for their cost: {len(self.left)} of the groups; raise `share` to try them."
        return said

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "task": self.task,
            "group": list(self.group),
            "grouping": self.grouping.to_dict(),
            "losses": {str(name): list(values) for name, values in self.losses.items()},
            "members": dict(self.members),
            "trainings": self.trainings,
            "share": self.share,
            "left": list(self.left),
            "text": self.text,
        }

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """The candidates, for notebooks."""
        return html_table(("candidate", "tasks", "seeds", "validation loss"), self.rows(), self.text, left=2)

    def rows(self) -> list[tuple[object, ...]]:
        """A row a candidate: its name, the tasks of its group, seeds, and the mean validation loss of the new task."""
        return [
            (name, self._members(name), len(values), f"{np.mean(values):.4g}") for name, values in self.losses.items()
        ]

    def _members(self, candidate: int | str) -> str:
        if candidate == ALONE:
            return ""
        return ", ".join(name for name in self.grouping.names[int(candidate)] if name != self.task)


@known_arguments
def add_task(
    result: RunResult | str | Path,
    workload: Workload | Trainer | str,
    *,
    task: str | None = None,
    grouping: Grouping | None = None,
    share: float = 0.05,
    seeds: int = 3,
    seed: int = 0,
    memory: int = 2**30,
    progress: Progress | bool | None = None,
    executor: Executor | None = None,
) -> AddedTask:
    """Find the group that should serve a task that arrived after a run, without doing the run again.

    Each group is trained once with the new task in it, and the new task alone; the better half of the candidates is
    trained with another seed, and so on. In the end the chosen group is trained without the new task, too, where that
    can be paid, to see what its tasks gain. All that the run found stays as it is.

    Args:
        result: of :func:`coterie.run`, or its directory.
        workload: as the run had it, with the new task beside the old ones: the same data with one more column of
            labels, or a trainer that knows the task.
        task: name of the new task; needed where the workload has several that the run does not know.
        grouping: of the old tasks; None for the one that the run recommends.
        share: of the cost of the run that may be spent, as far as trainings are as long as those of the run, and as two
            candidates need no more. Where it is too little
            for all groups, those come first whose labels go most along with those of the new task.
        seeds: largest number of trainings of a candidate.
        seed: of the first trainings.
        memory: working memory in bytes.
        progress: as for :func:`coterie.run`.
        executor: where models are trained; None is this process.

    Raises:
        SettingError: when the workload lacks a task of the run, or has no new one, or several and `task` names none.
        StoreError: when the run cannot be read.

    Cost: a training of each group and one alone, then of half of them, for up to `seeds` rounds.

    Source: successive halving (Jamieson and Talwalkar, AISTATS 2016) over groups; measured in benchmarks/add_task.py.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from coterie import Recipe, from_arrays, run
        >>> x, y = load_digits(return_X_y=True)
        >>> labels = (y[:300, None] == range(4)).astype(float)
        >>> recipe = Recipe(epochs=2, batch_size=50, check_every=4)
        >>> old, new = (from_arrays(x[:300], labels[:, :n], recipe=recipe, hidden=(8,)) for n in (3, 4))
        >>> added = add_task(run(old, groups=2, seeds=2, bases=1), new)
        >>> added.task, added.grouping.tasks == new.task_names
        ('task 3', True)
    """
    found = result_of(result)
    source = as_source(workload)
    share, seeds = positive(share, "share"), whole_number(seeds, "seeds", low=1)
    old = grouping or Grouping.from_dict(found["served"])
    names = names_of(source)
    new = _new_task(names, old.tasks, task)
    groups = [tuple(sorted(names.index(old.tasks[member]) for member in group)) for group in old.groups]
    subsets: dict[int | str, Subset] = {
        number: tuple(sorted((*group, names.index(new)))) for number, group in enumerate(groups)
    }
    subsets[ALONE] = (names.index(new),)
    if isinstance(source, Workload):
        validate(source)
    with following(progress) as tell:
        purse = Purse.of(found, share)
        race = _Race.of(source, Context(seed, memory, NoStore(), tell, executor), subsets, names.index(new), purse)
        order = _order(source, subsets, names.index(new))
        race.run(order, range(seed, seed + seeds))
        chosen = race.best()
        members = {} if chosen == ALONE else race.members(groups[int(chosen)], chosen)
    group = tuple(names[member] for member in subsets[chosen] if names[member] != new)
    return AddedTask(
        new,
        group,
        _extended(old, names, new, chosen),
        {name: tuple(race.losses[name]) for name in subsets if name in race.losses},
        {names[member]: gain for member, gain in members.items()},
        len(race.done),
        sum(race.flops()) / purse.whole if purse.whole else None,
        tuple(name for name in subsets if isinstance(name, int) and name not in race.losses),
    )


def result_of(result: RunResult | str | Path) -> Mapping[str, Any]:
    """What a run found, of its result or its directory.

    Raises:
        StoreError: when the directory holds no finished run.
        SettingError: for anything else.
    """
    from coterie.pipeline.run import RunResult
    from coterie.store.files import read_json

    if isinstance(result, RunResult):
        return result.result
    if not isinstance(result, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            "Parameter `result` should be what coterie.run returned, or a run directory. "
            f"Found {type(result).__name__}."
        )
    return read_json(Path(result) / "result.json")


def _new_task(names: Sequence[str], old: Sequence[str], task: str | None) -> str:
    """The name of the new task."""
    lacking = [name for name in old if name not in names]
    if lacking:
        raise SettingError(
            f"Parameter `workload` should have all tasks of the run. Missing: {', '.join(map(repr, lacking[:5]))}. "
            "Give the data of the run with one more column of labels, under the names of before."
        )
    more = [name for name in names if name not in old]
    if task is not None and task not in more:
        there = "which the run has already" if task in old else "which `workload` does not have"
        raise SettingError(f"Parameter `task` names {task!r}, {there}. New tasks are {more or 'none'}.")
    if not more or (task is None and len(more) > 1):
        raise SettingError(
            f"Parameter `workload` should have one task that the run does not know. Found {more or 'none'}. "
            + ("Name one with `task`." if more else "Add a column of labels for the new task.")
        )
    return task or more[0]


@dataclass(frozen=True)
class Purse:
    """What may be spent on a new task.

    Attributes:
        whole: FLOPs of the run; None where they were not counted: then nothing is too much.
        share: of them that may be spent.
        one: FLOPs of an ordinary training of the run.
    """

    whole: float | None
    share: float
    one: float | None

    @staticmethod
    def of(found: Mapping[str, Any], share: float) -> Purse:
        """A share of the cost of a run."""
        rows = [row["flops"] for row in found["costs"]]
        whole, one = (sum(rows) if rows and None not in rows else None), found.get("training_flops")
        return Purse(whole if one else None, share, one)

    def affords(self, spent: float, trainings: int, each: float | None = None) -> bool:
        """Whether there is enough for so many trainings more, of `each` FLOPs or of an ordinary one's."""
        if self.whole is None or self.one is None:
            return True
        return spent + trainings * (each or self.one) <= self.share * self.whole


def _order(source: Workload | Trainer, subsets: Mapping[int | str, Subset], new: int) -> list[int | str]:
    """Candidates, those first whose tasks' labels go most along with those of the new one."""
    groups: list[int | str] = [name for name in subsets if name != ALONE]
    if isinstance(source, Workload):
        alike = LabelCorrelation().estimate(source).model.pairwise().values[new]
        likeness = {name: np.mean([alike[task] for task in subsets[name] if task != new]) for name in groups}
        groups.sort(key=lambda name: -likeness[name])
    return [*groups[:1], ALONE, *groups[1:]]


def _extended(old: Grouping, names: Sequence[str], new: str, chosen: int | str) -> Grouping:
    """The grouping with the new task, tasks in the order of `names`; what `names` has beside is left out."""
    kept = tuple(name for name in names if name in old.tasks or name == new)
    place = {name: number for number, name in enumerate(kept)}
    groups = [[place[old.tasks[task]] for task in group] for group in old.groups]
    if chosen == ALONE:
        groups.append([place[new]])
    else:
        groups[int(chosen)].append(place[new])
    served = {old.tasks[task]: group for task, group in enumerate(old.serves)}
    served[new] = len(groups) - 1 if chosen == ALONE else int(chosen)
    return Grouping(kept, tuple(map(tuple, groups)), tuple(served[name] for name in kept), method="add_task")


@dataclass(eq=False)
class _Race:
    """Trainings of the candidates so far.

    Attributes:
        outcomes: of the trainings.
        subsets: candidate -> what is trained.
        new: number of the new task.
        losses: candidate -> validation losses of the new task, one a seed.
        purse: what may be spent.
        unit: what a pass over an example costs; None for trainers.
        done: (subset, seed) of all trainings.
    """

    outcomes: Trainings | RunOutcomes
    subsets: Mapping[int | str, Subset]
    new: int
    purse: Purse
    unit: UnitCost | None = None
    losses: dict[int | str, list[float]] = field(default_factory=dict[int | str, list[float]])
    done: list[tuple[Subset, int]] = field(default_factory=list[tuple[Subset, int]])

    @staticmethod
    def of(
        source: Workload | Trainer, context: Context, subsets: Mapping[int | str, Subset], new: int, purse: Purse
    ) -> _Race:
        """Nothing trained yet."""
        if isinstance(source, Workload):
            index = {"validation": LabelIndex.of(source, source.split.validation)}
            return _Race(Trainings(source, index, context, "add task"), subsets, new, purse, measure_cost(source))
        return _Race(RunOutcomes.of(source, context, None), subsets, new, purse)

    def run(self, order: Sequence[int | str], seeds: Sequence[int]) -> None:
        """Train candidates in turn, the better half of them with the next seed, as far as the purse allows.

        Args:
            order: candidates, the most promising first; the first two are trained in any case.
            seeds: of the rounds.
        """
        alive = list(order)
        while len(alive) > 2 and not self.purse.affords(0.0, len(alive)):
            alive.pop()
        for seed in seeds:
            if self.done and not self.affords(len(alive)):
                return
            self._train([self.subsets[name] for name in alive], seed)
            for name in alive:
                self.losses.setdefault(name, []).append(self._loss(self.subsets[name], seed, self.new))
            alive = sorted(alive, key=lambda name: float(np.mean(self.losses[name])))[: max(2, (len(alive) + 1) // 2)]

    def best(self) -> int | str:
        """The candidate with the smallest mean loss, of those that were trained most often."""
        most = max(map(len, self.losses.values()))
        final = [name for name, values in self.losses.items() if len(values) == most]
        return min(final, key=lambda name: float(np.mean(self.losses[name])))

    def members(self, group: Subset, chosen: int | str) -> dict[int, float]:
        """Task of a group -> gain from the new task, as a share of its loss, over the seeds of the candidate.

        Nothing where the purse does not allow to train the group without it.
        """
        seeds = [seed for subset, seed in self.done if subset == self.subsets[chosen]]
        if not self.affords(len(seeds)):
            return {}
        for seed in seeds:
            self._train([group], seed)

        def mean(subset: Subset, task: int) -> float:
            return float(np.mean([self._loss(subset, seed, task) for seed in seeds]))

        return {task: 1 - mean(self.subsets[chosen], task) / mean(group, task) for task in group}

    def affords(self, trainings: int) -> bool:
        """Whether the purse allows so many trainings more, each as long as the longest so far."""
        flops = self.flops()
        return self.purse.affords(sum(flops), trainings, max(flops))

    def flops(self) -> list[float]:
        """FLOPs of each training; nothing but 0 for trainers."""
        if self.unit is None or not isinstance(self.outcomes, Trainings):
            return [0.0]
        work, fits = self.outcomes.workload, self.outcomes.fits
        return [training_flops(work, fits[place], self.unit) for place in self.done]

    def _train(self, subsets: Sequence[Subset], seed: int) -> None:
        self.outcomes.train(subsets, [seed], keep=False, stage="trainings with the new task")
        self.done += [(subset, seed) for subset in subsets]

    def _loss(self, subset: Subset, seed: int, task: int) -> float:
        """Validation loss of a task in a training."""
        if isinstance(self.outcomes, RunOutcomes):
            return self.outcomes.runs[subset, seed].mean(self.outcomes.trainer.tasks[task])
        index = self.outcomes.index["validation"]
        own = index.of_tasks([task])[index.of_tasks(subset)]
        return float(self.outcomes.losses[subset, seed, "validation"][own].mean(dtype=np.float64))
