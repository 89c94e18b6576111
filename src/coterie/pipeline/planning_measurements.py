"""Everything that a plan measures, and what trainings of a run follow from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from coterie._context import Context
from coterie._progress import Progress
from coterie.affinity import Estimator
from coterie.affinity.costs import Prepared, prepare, training_flops
from coterie.affinity.estimator import EstimatePlan, KnownTrainings, TrainingCall
from coterie.affinity.surrogates.real_runs import different_subsets
from coterie.balancing import Balancing
from coterie.evaluation.compare import halve_validation
from coterie.evaluation.labels import LabelIndex
from coterie.evaluation.trainings import STATE_BYTES
from coterie.pipeline.candidates import subset_count
from coterie.pipeline.planning_estimate import TASKS, EstimateCost, SearchCost, count_search, rehearse
from coterie.pipeline.planning_time import PageCost, Pilot, StepCost, Timing, rehearse_page, run_pilot, timed
from coterie.training.evaluate import Footprint
from coterie.training.job import Fit, Job, derive
from coterie.training.stackable import population_footprint
from coterie.workload import Workload

#: bytes of JSON that a validation check takes in a history
CHECK = 27
#: bytes of the header of a tensor in a safetensors file
HEADER = 90
#: JSON that every unit brings, and manifest, lock and description of the served models together
UNIT, FIXED = 700, 4000
#: while a unit is written: what was computed, the settled copy, and the bytes of the file, once as parts and once whole
COPIES = 4


@dataclass(frozen=True)
class Sizes:
    """What sizes are made from.

    Attributes:
        state: bytes of the parameters and buffers of a model.
        tensors: how many tensors these are.
        n_tasks: number of tasks.
        members: models that the comparison trains with one seed.
        seeds: number of seeds.
        candidates: groupings in the comparison, the simple ones included.
        labels: labels of the half that chooses and of the test part, all tasks.
        member_labels: the same, summed over the tasks of every member.
        checks: validation checks of a member.
    """

    state: int
    tensors: int
    n_tasks: int
    members: int
    seeds: int
    candidates: int
    labels: int
    member_labels: float
    checks: float

    @property
    def states_kept(self) -> bool:
        """Whether the comparison keeps the parameters that it trained."""
        return self.state * self.members * self.seeds <= STATE_BYTES

    @property
    def states(self) -> float:
        """Bytes of all parameters that the comparison keeps."""
        return float(self.state * self.members * self.seeds) if self.states_kept else 0.0

    @property
    def units(self) -> float:
        """Bytes on disk of the units of the comparison."""
        losses = 4 * self.member_labels + 16 * self.members * self.n_tasks
        headers = HEADER * (2 * self.members + self.tensors + 2)
        text = UNIT + self.members * (CHECK * self.checks + 130 + 4 * self.n_tasks / 2)
        return self.states + self.seeds * (losses + headers + text)

    @property
    def table(self) -> float:
        """Bytes of ``comparison.safetensors``."""
        return 4.0 * self.candidates * self.seeds * self.labels + 16 * self.labels + 1200 + 120 * self.n_tasks

    @property
    def held(self) -> float:
        """Bytes in memory at the end of the comparison: parameters, losses by member and by candidate, a copy of these.

        One more candidate, a mixture, makes a second array of the losses by candidate.
        """
        return self.states + 4.0 * self.seeds * self.member_labels + 2 * self.table

    @property
    def unit(self) -> float:
        """Bytes of the arrays of one unit of the comparison."""
        return (self.state * self.members if self.states_kept else 0) + 4.0 * self.member_labels


def trainings_unit(state: int, tensors: int, n_tasks: int, members: int, checks: float) -> float:
    """Bytes on disk of a unit with trained models, their parameters included."""
    return members * (state + 16 * n_tasks + 130 + CHECK * checks) + HEADER * (tensors + 2) + UNIT


def resident() -> tuple[int, int] | None:
    """Bytes of this process in main memory, now and at most so far; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="ignore").splitlines()
        found = {
            line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))
        }
        return found["VmRSS"], found["VmHWM"]
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return most, most


def write_seconds() -> float:
    """Seconds of the processor to copy, encode and checksum a byte of a unit."""
    from coterie._units import Payload
    from coterie.pipeline.planning_time import timed
    from coterie.store.arrays import encode, settle
    from coterie.store.files import digest

    payload = Payload({"x": np.zeros(2**19)})
    _, timing = timed(lambda: digest(encode(settle(payload).arrays)))
    return timing.cpu / (8 * 2**19)


#: observations with which the algebra after the trainings is rehearsed; more are scaled with the cube
OBSERVED = 400


@dataclass(frozen=True)
class PlanRequest:
    """What is to be planned; see :func:`coterie.pipeline.plan`.

    Attributes:
        counts: numbers of groups that are tried.
        most: real trainings of the comparison at most.
        size: of a usual subset.
    """

    workload: Workload
    estimator: Estimator
    groups: int | None
    budget: int | None
    counts: Sequence[int]
    seeds: int
    most: int
    balancing: Balancing | None
    memory: int
    size: int


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured, and what follows from it.

    Attributes:
        request: what is to be planned.
        prepared: structure and FLOPs.
        started: time of modules that were imported for the first time.
        pilot: a few trainings.
        search: what the search for groups, and the estimate before it, ask of the model.
        planned: what the estimate does.
        cost: of the features and of a call of the model; None without base models.
        page: of the end.
        solve: time of the algebra after the trainings of the estimate.
        losses: time to find the loss of every label under one model.
        labels: labels of the half that chooses and of the test part.
        footprint: memory of a member of a population.
        before: bytes in main memory before the first training, now and at most so far.
        after: the same after the pilot, which had a population of all members.
    """

    request: PlanRequest
    prepared: Prepared
    started: Timing
    pilot: Pilot
    search: SearchCost
    planned: EstimatePlan
    cost: EstimateCost | None
    page: PageCost
    solve: Timing
    losses: Timing
    labels: int
    footprint: Footprint
    before: tuple[int, int] | None
    after: tuple[int, int] | None

    @staticmethod
    def make(request: PlanRequest, tell: Progress) -> Measurements:
        """Measure."""
        workload, memory, n, size = request.workload, request.memory, request.workload.n_tasks, request.size
        prepared, first = timed(lambda: prepare(workload, Context(memory=memory)))
        _, second = timed(lambda: prepare(workload, Context(memory=memory)))
        known = request.estimator.plan_trainings(prepared, size, KnownTrainings())  # refuses before anything is trained
        search = count_search(workload.task_names, request.groups, request.budget, remembers=known.remembers)
        before = resident()
        tell("plan", 1, 4)
        pilot = run_pilot(workload, *_jobs(request), memory)
        after = resident()
        tell("plan", 2, 4)
        planned = request.estimator.plan_trainings(prepared, size, KnownTrainings(pilot.fits[0], pilot.usual))
        search, cost = search.after([*planned.asked, n, subset_count(n, size)]), None
        if planned.rehearsed is not None and planned.features is not None:
            usual = search.subsets / max(1.0, search.calls)
            cost = rehearse(planned.rehearsed, workload, memory, size, planned.features.numbers, usual)
        tell("plan", 3, 4)
        halved, choose = halve_validation(workload)
        index = [LabelIndex.of(workload, rows) for rows in (choose, workload.split.test)]
        state = workload.build_model(0).to(workload.labels.device).state_dict()
        _, losses = timed(lambda: [one.losses(halved, state, range(n)) for one in index])
        groupings = search.groupings if len(search.groupings[:1] and search.groupings[0].tasks) == n else ()
        return Measurements(
            request, prepared, first - second, pilot, search, planned, cost,
            rehearse_page(workload, index, groupings, request.seeds), _solve(planned, min(max(size, 2), n)), losses,
            sum(len(one.task) for one in index), population_footprint(workload, memory), before, after,
        )  # fmt: skip

    @cached_property
    def members(self) -> list[int]:
        """Sizes of the subsets that the comparison trains with one seed, as far as a random matrix tells."""
        n, groups = self.request.workload.n_tasks, self.search.groups
        if n > TASKS:  # the search had fewer tasks
            groups = [-(-n // k) for k in self.request.counts if k > 1 for _ in range(k)]
        return [n, *[1] * n, *(size for size in groups if 1 < size < n)]

    @cached_property
    def runs(self) -> int:
        """Real trainings of the comparison, expected."""
        return min(len(self.members) * self.request.seeds, self.request.most)

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes of the comparison."""
        workload, n = self.request.workload, self.request.workload.n_tasks
        state = list(workload.build_model(0).state_dict().values())
        return Sizes(
            state=sum(v.numel() * v.element_size() for v in state), tensors=len(state), n_tasks=n,
            members=len(self.members), seeds=max(1, round(self.runs / len(self.members))),
            candidates=2 + len(self.request.counts), labels=self.labels,
            member_labels=self.labels * sum(self.members) / n,
            checks=float(np.mean([self.checks(size) for size in self.members])),
        )  # fmt: skip

    def like(self, size: int) -> list[Fit]:
        """The pilot's trainings that are most like one on so many tasks: on one task, on several, on all."""
        n = self.request.workload.n_tasks

        def kind(tasks: int) -> int:
            return 0 if tasks == 1 else 2 if tasks == n else 1

        return [f for f in self.pilot.fits if kind(len(f.job.subset)) == kind(size)] or list(self.pilot.fits)

    def checks(self, size: int) -> float:
        """Mean number of validation checks of a training on so many tasks."""
        return float(np.mean([len(f.history) * self.pilot.steps(f) / max(1, f.steps) for f in self.like(size)]))

    def trained(self, what: TrainingCall, *, most: bool = False, stacked: bool = True) -> Timing:
        """Time of trainings: as many steps as those of the pilot's that are like them, in turn."""
        pilot, known = self.pilot, {size: self.like(size) for size in set(what.sizes)}
        steps = [float(what.steps or 0)] * len(what.sizes)
        if what.steps is None and most:
            steps = [float(max(map(pilot.most, known[size]))) for size in what.sizes]
        elif what.steps is None:
            steps = [pilot.steps(known[size][i % len(known[size])]) for i, size in enumerate(what.sizes)]
        cost = pilot.cost if stacked else StepCost(1, pilot.cost.alone)
        return cost.trainings(steps) * what.calls

    def flops(self, what: TrainingCall, *, most: bool = False) -> float:
        """FLOPs of trainings."""
        return what.calls * sum(self._flops(size, what.steps, most=most) for size in what.sizes)

    def _flops(self, size: int, steps: int | None, *, most: bool) -> float:
        """FLOPs of one training; with a number of steps, nothing is checked."""
        workload, unit, like, pilot = self.request.workload, self.prepared.costs.unit, self.like(size), self.pilot
        if steps is None:
            each = [training_flops(workload, done, unit) / max(1, done.steps) for done in like]
            counts = [pilot.most(done) if most else pilot.steps(done) for done in like]
            return float(np.mean(np.array(each) * counts))
        rows = np.mean([len(workload.rows_of(done.job.subset, "train")) for done in like])
        return float(steps * rows / max(1.0, np.ceil(rows / workload.recipe.batch_size)) * unit.training)


def _solve(planned: EstimatePlan, size: int) -> Timing:
    """Time of the algebra that follows on the trainings of an estimate, rehearsed with as many as are quick."""
    if planned.solve is None:
        return Timing()
    solve, count = planned.solve, max(1, min(planned.runs, OBSERVED // size))
    return timed(lambda: solve(count))[1] * max(1.0, (planned.runs / count) ** 3)


def _jobs(request: PlanRequest) -> tuple[list[Job], int]:
    """What a run trains with its first seed: on all tasks, usual subsets of the estimate, and the comparison's."""
    n, rng = request.workload.n_tasks, np.random.default_rng(0)
    usual = different_subsets(n, request.estimator.probes, min(max(2, request.size), n), 0)
    seed = derive(0, 71) % 2**31
    jobs = [Job(tuple(range(n)), 0)]
    jobs += [Job(tuple(np.flatnonzero(row).tolist()), seed, order_seed=seed) for row in usual]
    others = {(task,) for task in range(n)}
    for groups in request.counts:
        others |= {tuple(sorted(part.tolist())) for part in np.array_split(rng.permutation(n), groups)}
    return jobs + [Job(subset, 0) for subset in sorted(others - {tuple(range(n))})], len(usual)
