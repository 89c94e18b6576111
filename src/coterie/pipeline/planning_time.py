"""What trainings will take: a short real one tells the number of steps, timed steps tell what one costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from coterie._context import Context
from coterie.errors import CoterieError
from coterie.training import fit
from coterie.training.evaluate import measure_footprint
from coterie.training.job import Fit, Job, Schedule
from coterie.training.population import members_at_once
from coterie.training.stack import is_stackable
from coterie.workload import Workload

#: seconds that the pilot aims at (no round begins that would end after twice as many), and of each timing of steps
BUDGET, TIMING = 4.0, 0.3
#: a timing has so many steps more than the one that it is held against; at most so many
STEPS, MOST_STEPS = 4, 64
#: trainings of the pilot at most; as many as fit the budget if early stopping leaves this part of the epochs
SAMPLE, STOPPED = 16, 4
#: trainings that have not come to their end are made anew with so many times the steps
GROW = 3

T = TypeVar("T")
Subset = tuple[int, ...]


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
    """What trainings cost on this machine.

    Attributes:
        stackable: several models are trained as a population.
        at_once: members of a population that are trained together.
        begin: of a population, before its first step.
        enter: of each member, before its first step.
        step: of a population, whatever its size.
        member: of each member, a step.
        look: of one member at one validation row.
        begin_alone: of one training in the plain loop, before its first step.
        alone: of one of its steps.
        factor: how much longer the pilot's trainings took than this says.
    """

    stackable: bool
    at_once: int
    begin: Timing
    enter: Timing
    step: Timing
    member: Timing
    look: Timing
    begin_alone: Timing
    alone: Timing
    factor: float = 1.0

    def trainings(self, steps: Sequence[float], looks: float = 0.0) -> Timing:
        """Models with so many steps each, trained by one call; `looks` counts members times rows at all checks."""
        if not steps:
            return Timing()
        if len(steps) == 1 or not self.stackable:
            once = self.begin_alone * len(steps) + self.alone * sum(steps)
        else:
            chunks = -(-len(steps) // self.at_once)
            once = self.begin * chunks + self.enter * len(steps)
            once += self.step * (chunks * max(steps)) + self.member * sum(steps)
        return (once + self.look * looks) * self.factor


def measure_step_cost(workload: Workload, jobs: Sequence[Job], memory: int) -> StepCost:
    """Time a few steps of one model, of a small population and of one with all jobs, and a look at validation data."""
    stackable, _ = is_stackable(workload)
    begin_alone, alone = _line(workload, jobs[:1], memory)
    at_once, begin, enter, step, member = 1, begin_alone, Timing(), Timing(), alone
    look = _look(workload, jobs[:1], memory)
    if stackable and len(jobs) > 1:
        try:
            at_once = members_at_once(measure_footprint(workload), memory)
        except CoterieError:
            at_once = 1
    if at_once > 1:
        many, few = jobs[:at_once], jobs[: max(2, min(at_once, len(jobs)) // 4)]
        (first, slope), (less, flat) = _line(workload, many, memory), _line(workload, few, memory)
        apart = len(many) - len(few)
        if apart:
            member, enter = (slope - flat) * (1 / apart), (first - less) * (1 / apart)
        else:
            member, enter = slope * (1 / len(many)), Timing()
        step, begin = slope - member * len(many), first - enter * len(many)
        look = _look(workload, many, memory)
    return StepCost(at_once > 1, at_once, begin, enter, step, member, look, begin_alone, alone)


def _line(workload: Workload, jobs: Sequence[Job], memory: int) -> tuple[Timing, Timing]:
    """What a call takes before its first step, and a step."""
    steps = STEPS
    _, less = timed(lambda: _steps(workload, jobs, 1, memory))
    while True:
        _, more = timed(lambda count=steps: _steps(workload, jobs, 1 + count, memory))
        if (more - less).least >= TIMING or steps >= MOST_STEPS:
            break
        each = max((more - less).least / steps, 1e-4)
        steps = min(MOST_STEPS, max(2 * steps, int(1.2 * TIMING / each)))
    # the better of two: what else the machine does only ever adds
    less = _better(less, timed(lambda: _steps(workload, jobs, 1, memory))[1])
    more = _better(more, timed(lambda: _steps(workload, jobs, 1 + steps, memory))[1])
    slope = (more - less) * (1 / steps)
    return less - slope, slope


def _better(one: Timing, other: Timing) -> Timing:
    return min(one, other, key=lambda timing: timing.cpu)


def _steps(workload: Workload, jobs: Sequence[Job], steps: int, memory: int, *, checks: bool = False) -> list[Fit]:
    short = [replace(job, max_steps=steps, early_stopping=False, checks=checks) for job in jobs]
    return fit(workload, short, Context(memory=memory))


def _look(workload: Workload, jobs: Sequence[Job], memory: int) -> Timing:
    """One member at one row of validation or test data: the same step with checks before and after it, and without."""
    without = _better(*(timed(lambda: _steps(workload, jobs, 1, memory))[1] for _ in range(2)))
    fits, more = timed(lambda: _steps(workload, jobs, 1, memory, checks=True))
    more = _better(more, timed(lambda: _steps(workload, jobs, 1, memory, checks=True))[1])
    return (more - without) * (1 / max(1, looks_of(workload, fits)))


def looks_of(workload: Workload, fits: Sequence[Fit]) -> int:
    """Members times rows at all checks, the look at test data at the end included."""
    return sum(
        len(done.history) * len(workload.rows_of(done.job.subset, "validation"))
        + len(workload.rows_of(done.job.subset, "test"))
        for done in fits
        if done.job.checks
    )


@dataclass(frozen=True)
class Pilot:
    """A few real trainings with the recipe's early stopping.

    Attributes:
        fits: training on all tasks first.
        usual: those of usual subsets of the estimate among them.
        longest: steps of each, had it gone on to the last epoch.
        waits: steps without improvement after which each stops early; those to the last epoch where it never does.
        limit: steps at which trainings were cut off; None where all of them came to their own end.
        timing: what they took.
        said: what the cost of a step had said.
    """

    fits: tuple[Fit, ...]
    usual: tuple[Fit, ...]
    longest: dict[Job, int]
    waits: dict[Job, int]
    limit: int | None
    timing: Timing
    said: Timing

    def steps(self, done: Fit) -> float:
        """Expected steps: where a training was cut off, the geometric mean of the soonest stop and the last epoch."""
        if done.steps != self.limit:
            return float(done.steps)
        soonest = max(done.steps, done.best_step + self.waits[replace(done.job, max_steps=None)])
        return (min(soonest, self.most(done)) * self.most(done)) ** 0.5

    def most(self, done: Fit) -> int:
        """Steps to the last epoch."""
        return self.longest[replace(done.job, max_steps=None)]


def run_pilot(workload: Workload, jobs: Sequence[Job], usual: int, step_cost: StepCost, memory: int) -> Pilot:
    """Train a sample of the jobs for real, as many and as long as the budget of seconds allows.

    Args:
        workload: tasks, data, model and recipe.
        jobs: the training on all tasks, so many usual subsets, then everything else that will be trained.
        usual: number of the usual subsets.
        step_cost: what a step costs.
        memory: for the population.
    """
    schedules = {job: Schedule(workload, job) for job in jobs}
    longest = {job: schedule.max_steps for job, schedule in schedules.items()}
    patience = workload.recipe.patience
    waits = {
        job: longest[job] if patience is None else patience * schedule.check_every
        for job, schedule in schedules.items()
    }
    every = workload.recipe.check_every
    rows = len(workload.split.validation)

    def price(chosen: Sequence[Job], limit: int) -> float:
        steps = [min(limit, longest[job]) for job in chosen]
        checks = [1 + count / (every or max(1, longest[job] // workload.recipe.epochs)) for job, count in
                  zip(chosen, steps, strict=True)]  # fmt: skip
        return step_cost.trainings(steps, rows * sum(checks)).least

    wanted, full = _mixed(jobs, usual)[:SAMPLE], max(longest.values())
    while len(wanted) > usual + 3 and price(wanted, full // STOPPED) > BUDGET:
        wanted.pop()
    limit = full
    while limit > STEPS and price(wanted, limit) > BUDGET / GROW**2:
        limit = int(0.8 * limit)
    pending, found, timing, said = wanted, dict[Job, Fit](), Timing(), Timing()
    while True:  # those that have not come to their end begin anew with more steps: optimisers cannot be gone on with
        cut = [replace(job, max_steps=min(limit, longest[job])) for job in pending]
        fits, once = timed(lambda cut=cut: fit(workload, cut, Context(memory=memory), keep_states=False))
        timing, said = timing + once, said + step_cost.trainings([f.steps for f in fits], looks_of(workload, fits))
        found.update(zip(pending, fits, strict=True))
        pending = [job for job in pending if found[job].steps == limit < longest[job]]
        if not pending or timing.least + GROW * once.least > 2 * BUDGET:
            break
        limit *= GROW
    chosen = tuple(found[job] for job in wanted if job in jobs[1 : 1 + usual])
    fits = tuple(found[job] for job in wanted)
    return Pilot(fits, chosen, longest, waits, limit if pending else None, timing, said)


def _mixed(jobs: Sequence[Job], usual: int) -> list[Job]:
    """All tasks, the usual subsets, then a single task and a group in turn."""
    order = np.random.default_rng(0).permutation(len(jobs))
    rest = [jobs[i] for i in order if i > usual]
    kinds = [[job for job in rest if (len(job.subset) == 1) == single] for single in (True, False)]
    longest = max(len(kind) for kind in kinds)
    return [*jobs[: 1 + usual], *(kind[i] for i in range(longest) for kind in kinds if i < len(kind))]


def corrected(step_cost: StepCost, pilot: Pilot) -> StepCost:
    """The cost of a step, times what the pilot's trainings really took over what they had said."""
    both = (pilot.timing.cpu, pilot.said.cpu)
    return replace(step_cost, factor=both[0] / both[1]) if min(both) > 0 else step_cost
