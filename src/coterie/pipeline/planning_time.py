"""Seconds of trainings from a timed pilot, and of the page."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from coterie._context import Context
from coterie._process_lock import process_lock
from coterie.affinity import Affinity, Estimate, PairwiseGainModel
from coterie.affinity.costs import Costs
from coterie.errors import CoterieError
from coterie.evaluation import Comparison, mix, recommend
from coterie.evaluation.comparison import BASELINE, JOINT
from coterie.evaluation.labels import LabelIndex, LabelLosses
from coterie.grouping import Grouping
from coterie.pipeline.results import Findings, describe
from coterie.training import fit
from coterie.training.job import Fit, Job, Schedule
from coterie.training.population import members_at_once
from coterie.training.stackable import is_stackable, population_footprint
from coterie.training.units import UnitCost
from coterie.workload import Workload

#: seconds that the pilot aims at (no round begins that would take twice as many), and at most of a training alone
BUDGET, ALONE = 4.0, 0.5
#: steps of the first round, and how many times more each further one has
FIRST, GROW = 4, 3
#: trainings of the pilot at most; as many as fit the budget if early stopping leaves this part of the epochs
SAMPLE, STOPPED = 16, 4

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds by the clock on the wall, and of the processor (all threads)."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        """One after the other."""
        return Timing(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Timing) -> Timing:
        """What is left; never less than nothing."""
        return Timing(max(0.0, self.wall - other.wall), max(0.0, self.cpu - other.cpu))

    @property
    def least(self) -> float:
        """The smaller of the two: what is left of the clock's on a busy machine, of the processor's with threads."""
        return min(self.wall, self.cpu)

    def __mul__(self, times: float) -> Timing:
        """So many times."""
        return Timing(self.wall * times, self.cpu * times)


def timed(work: Callable[[], T]) -> tuple[T, Timing]:
    """A result and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Timing(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True)
class StepCost:
    """What a step of training costs on this machine, checks on validation data included.

    Attributes:
        at_once: members of a population that are trained together; 1 where models are trained one by one.
        alone: of one model.
        step: of a population, whatever its size.
        member: of each member of it.
    """

    at_once: int
    alone: Timing
    step: Timing = Timing()
    member: Timing = Timing()

    def trainings(self, steps: Sequence[float]) -> Timing:
        """Models with so many steps each, trained by one call."""
        if len(steps) < 2 or self.at_once == 1:
            return self.alone * sum(steps)
        return self.step * (-(-len(steps) // self.at_once) * max(steps)) + self.member * sum(steps)

    @staticmethod
    def of(at_once: int, alone: Timing, steps: Sequence[float], took: Timing) -> StepCost:
        """From a step alone and from a population with so many steps: one of a single member takes as long as alone."""
        if at_once == 1 or len(steps) < 2:
            return StepCost(1, took * (1 / max(1.0, sum(steps))))
        together, each = -(-len(steps) // at_once) * max(steps), took * (1 / sum(steps))
        more = sum(steps) - together
        member = (took - alone * together) * (1 / more) if more > 0 else each
        if not 0 < member.cpu < alone.cpu:  # noise, or members that share nothing
            member = each
        return StepCost(at_once, alone, alone - member, member)


@dataclass(frozen=True)
class Pilot:
    """A few real trainings with the recipe's early stopping.

    Attributes:
        fits: training on all tasks first.
        usual: those of usual subsets of the estimate among them.
        longest: steps of each, had it gone on to the last epoch.
        waits: steps without improvement after which each stops early; those to the last epoch where it never does.
        limit: steps at which trainings were cut off; None where all of them came to their own end.
        timing: what the last round took.
        cost: of a step.
    """

    fits: tuple[Fit, ...]
    usual: tuple[Fit, ...]
    longest: dict[Job, int]
    waits: dict[Job, int]
    limit: int | None
    timing: Timing
    cost: StepCost

    def steps(self, done: Fit) -> float:
        """Expected steps: where a training was cut off, the geometric mean of the soonest stop and the last epoch."""
        if done.steps != self.limit:
            return float(done.steps)
        soonest = max(done.steps, done.best_step + self.waits[replace(done.job, max_steps=None)])
        return (min(soonest, self.most(done)) * self.most(done)) ** 0.5

    def most(self, done: Fit) -> int:
        """Steps to the last epoch."""
        return self.longest[replace(done.job, max_steps=None)]


def run_pilot(workload: Workload, jobs: Sequence[Job], usual: int, memory: int) -> Pilot:
    """Train a sample of the jobs for real, as many and as long as the budget of seconds allows.

    Args:
        workload: tasks, data, model and recipe.
        jobs: the training on all tasks, so many usual subsets, then everything else that will be trained.
        usual: number of the usual subsets.
        memory: for the population.
    """
    schedules = {job: Schedule(workload, job) for job in jobs}
    longest = {job: schedule.max_steps for job, schedule in schedules.items()}
    patience = workload.recipe.patience
    waits = {
        job: longest[job] if patience is None else patience * schedule.check_every
        for job, schedule in schedules.items()
    }
    at_once = _members(workload, memory)
    (first,), _, timing = _rounds(workload, jobs[:1], longest, ALONE, memory)
    alone = timing * (1 / first.steps)
    wanted, part = _mixed(jobs, usual)[:SAMPLE], max(longest.values()) / STOPPED
    # members of a population take less than models alone: a guess that only decides how many are tried
    while len(wanted) > usual + 3 and alone.least * len(wanted) * part > BUDGET * (1 + 3 * (at_once > 1)):
        wanted.pop()
    fits, limit, timing = _rounds(workload, wanted, longest, 2 * BUDGET, memory)
    chosen = tuple(done for job, done in zip(wanted, fits, strict=True) if job in jobs[1 : 1 + usual])
    cost = StepCost.of(at_once, alone, [done.steps for done in fits], timing)
    return Pilot(tuple(fits), chosen, longest, waits, limit, timing, cost)


def _rounds(
    workload: Workload, jobs: Sequence[Job], longest: dict[Job, int], budget: float, memory: int
) -> tuple[list[Fit], int | None, Timing]:
    """Trainings, where they were cut off, and what the last round took; optimisers cannot be gone on with."""
    limit = FIRST
    while True:
        cut = [replace(job, max_steps=min(limit, longest[job])) for job in jobs]
        fits, took = timed(lambda cut=cut: fit(workload, cut, Context(memory=memory), keep_states=False))
        if not any(done.steps == limit < longest[job] for job, done in zip(jobs, fits, strict=True)):
            return fits, None, took
        if GROW * took.least > budget:
            return fits, limit, took
        limit *= GROW


def _members(workload: Workload, memory: int) -> int:
    """Members of a population that are trained together."""
    if not is_stackable(workload)[0]:
        return 1
    try:
        return members_at_once(population_footprint(workload, memory), memory)
    except CoterieError:
        return 1


def _mixed(jobs: Sequence[Job], usual: int) -> list[Job]:
    """All tasks, the usual subsets, then a single task and a group in turn."""
    order = np.random.default_rng(0).permutation(len(jobs))
    rest = [jobs[i] for i in order if i > usual]
    kinds = [[job for job in rest if (len(job.subset) == 1) == single] for single in (True, False)]
    longest = max(len(kind) for kind in kinds)
    return [*jobs[: 1 + usual], *(kind[i] for i in range(longest) for kind in kinds if i < len(kind))]


#: losses (candidates x seeds x labels) that are made up at most
MOST = 2**22


@dataclass(frozen=True)
class PageCost:
    """Bytes of what a run writes for people, and the time to make it."""

    result: int
    report: int
    affinity: int
    timing: Timing


def rehearse_page(
    workload: Workload, index: Sequence[LabelIndex], groupings: Sequence[Grouping], seeds: int
) -> PageCost:
    """Make a result and its page for random losses, which have no winner and so need most words.

    Args:
        workload: tasks.
        index: labels of the half that chooses and of the test part.
        groupings: candidates beside the simple ones.
        seeds: number of seeds.
    """
    from coterie.report.html import render
    from coterie.store.files import to_plain

    names, n = workload.task_names, workload.n_tasks
    rng = np.random.default_rng(0)
    joint = Grouping.from_labels(names, [0] * n, method=JOINT)
    single = Grouping.from_labels(names, list(range(n)), method=BASELINE)
    named = {JOINT: joint, **{f"grouped ({len(g.groups)})": g for g in groupings}, BASELINE: single}
    every = max(1, -(-len(named) * seeds * max(len(i.task) for i in index) // MOST))
    labels: dict[str, LabelLosses] = {}
    for part, own in zip(("validation", "test"), index, strict=True):
        task, row = own.task[::every], own.row[::every]
        shape = (len(named), seeds, len(task))
        labels[part] = LabelLosses(rng.gamma(1.0, size=shape).astype(np.float32), task, row)
    losses = {part: np.nan_to_num(found.means(n), nan=1.0) for part, found in labels.items()}
    comparison = Comparison(
        names, tuple(named), tuple(named.values()), tuple(range(seeds)), losses["validation"], losses["test"], labels
    )
    affinity = Affinity(rng.normal(size=(n, n)), names, np.full((n, n), 20), "gain", "rehearsal")
    estimate = Estimate(PairwiseGainModel(affinity), Costs(UnitCost(0.0, 0.0, 0.0)))

    def make() -> tuple[int, int]:
        with process_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            advice = recommend(comparison)
            mix(comparison, advice.candidate)
            found = describe(Findings(workload, estimate, affinity, joint, joint, comparison, advice), {}, [])
            return len(_text(to_plain(found))), len(render(found).encode())

    (result, report), timing = timed(make)
    return PageCost(result, report, 22 * n * n + 12 * n, timing)


def _text(value: object) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False)
