"""Everything that a plan measures, and what trainings of a run follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from coterie._context import Context
from coterie._progress import Progress
from coterie.affinity import Estimator, GradTAE
from coterie.affinity.context import Prepared, prepare
from coterie.affinity.costs import training_flops
from coterie.affinity.surrogates.budget import probes_of
from coterie.affinity.surrogates.fused import Fused
from coterie.affinity.surrogates.real_runs import different_subsets
from coterie.balancing import Balancing
from coterie.evaluation.halves import halve_validation
from coterie.evaluation.labels import LabelIndex
from coterie.pipeline.planning_estimate import TASKS, EstimateCost, SearchCost, count_search, rehearse
from coterie.pipeline.planning_memory import Sizes, resident
from coterie.pipeline.planning_page import PageCost, rehearse_page
from coterie.pipeline.planning_split import TrainingCounts, check_memory, count_trainings, fixed_bases, process_seconds
from coterie.pipeline.planning_time import Pilot, StepCost, Timing, corrected, measure_step_cost, run_pilot, timed
from coterie.training.evaluate import Footprint, measure_footprint
from coterie.training.job import Fit, Job, Schedule, derive
from coterie.workload import Workload

#: usual subsets that the pilot trains, where the method has no number of its own
PROBES = 2


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
    base: GradTAE
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
        step_cost: what trainings cost.
        pilot: a few of them.
        search: what the search for groups asks for.
        planned: how many base models and real runs the estimate makes.
        cost: of the features and of a call of the model; None without base models.
        page: of the end.
        process: time to fit the process of the fused estimate.
        losses: time to find the loss of every label under one model.
        labels: labels of the half that chooses and of the test part.
        footprint: memory of a member of a population.
        before: bytes in main memory before the first training, now and at most so far.
        after: the same after the pilot, which had a population of all members.
    """

    request: PlanRequest
    prepared: Prepared
    started: Timing
    step_cost: StepCost
    pilot: Pilot
    search: SearchCost
    planned: TrainingCounts
    cost: EstimateCost | None
    page: PageCost
    process: Timing
    losses: Timing
    labels: int
    footprint: Footprint
    before: tuple[int, int] | None
    after: tuple[int, int] | None

    @staticmethod
    def make(request: PlanRequest, tell: Progress) -> Measurements:
        """Measure."""
        workload, memory, n = request.workload, request.memory, request.workload.n_tasks
        prepared, first = timed(lambda: prepare(workload, Context(memory=memory)))
        _, second = timed(lambda: prepare(workload, Context(memory=memory)))
        fused = isinstance(request.estimator, Fused)
        known = TrainingCounts(fixed_bases(request.estimator, request.base), 0, 0, 0)
        check_memory(prepared, request.estimator, request.base, request.size, known)  # before anything is trained
        remembers = fused or request.base.evaluation == "network"
        search = count_search(workload.task_names, request.groups, request.budget, remembers=remembers)
        before = resident()
        tell("plan", 1, 4)
        jobs, probes = _jobs(request)
        step_cost = measure_step_cost(workload, jobs, memory)
        pilot = run_pilot(workload, jobs, probes, step_cost, memory)
        after = resident()
        tell("plan", 2, 4)
        planned = count_trainings(prepared, request.estimator, request.base, pilot)
        check_memory(prepared, request.estimator, request.base, request.size, planned)
        width = request.base.count if request.base.directions == "random" else n
        cost = rehearse(request.base, workload, request.size, memory, width) if planned.bases else None
        tell("plan", 3, 4)
        halved, choose = halve_validation(workload)
        index = [LabelIndex.of(workload, rows) for rows in (choose, workload.split.test)]
        state = workload.build_model(0).to(workload.labels.device).state_dict()
        _, losses = timed(lambda: [one.losses(halved, state, range(n)) for one in index])
        groupings = search.groupings if len(search.groupings[:1] and search.groupings[0].tasks) == n else ()
        return Measurements(
            request, prepared, first - second, corrected(step_cost, pilot), pilot, search, planned, cost,
            rehearse_page(workload, index, groupings, request.seeds),
            process_seconds(request.estimator, n, request.size, planned.runs), losses,
            sum(len(one.task) for one in index), measure_footprint(workload), before, after,
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

    def steps(self, sizes: Sequence[int], *, most: bool = False) -> list[float]:
        """Steps of trainings on so many tasks each: those of the pilot's that are like them, in turn."""
        if most:
            return [float(self.longest(size)) for size in sizes]
        known = {size: self.like(size) for size in set(sizes)}
        return [self.pilot.steps(known[size][i % len(known[size])]) for i, size in enumerate(sizes)]

    def longest(self, size: int) -> int:
        """Steps of the longest training on so many tasks in the pilot, had it gone on to the last epoch."""
        return max(self.pilot.most(done) for done in self.like(size))

    def checks(self, size: int) -> float:
        """Mean number of validation checks of a training on so many tasks."""
        like = self.like(size)
        return float(np.mean([len(done.history) * self.pilot.steps(done) / max(1, done.steps) for done in like]))

    def trained(self, sizes: Sequence[int], share: float = 1.0, *, most: bool = False, stacked: bool = True) -> Timing:
        """Time of ordinary trainings by one call, checked on a share of the validation part."""
        steps, workload, looks = self.steps(sizes, most=most), self.request.workload, 0.0
        for size, count in zip(sizes, steps, strict=True):
            like = self.like(size)
            rows = np.mean([len(workload.rows_of(done.job.subset, "validation")) for done in like])
            test = np.mean([len(workload.rows_of(done.job.subset, "test")) for done in like])
            every = Schedule(workload, like[0].job).check_every
            looks += float(rows * share * (1 + count / every) + test)
        step_cost = self.step_cost if stacked else replace(self.step_cost, stackable=False)
        return step_cost.trainings(steps, looks)

    def flops(self, sizes: Sequence[int], *, most: bool = False) -> float:
        """FLOPs of ordinary trainings."""
        workload, unit = self.request.workload, self.prepared.costs.unit
        flops = lambda done: training_flops(workload, done, unit) / max(1, done.steps)  # noqa: E731
        pilot, known = self.pilot, dict[int, float]()
        for size in set(sizes):
            like = self.like(size)
            known[size] = float(np.mean([flops(f) * (pilot.most(f) if most else pilot.steps(f)) for f in like]))
        return sum(known[size] for size in sizes)


def _jobs(request: PlanRequest) -> tuple[list[Job], int]:
    """What a run trains with its first seed: on all tasks, usual subsets of the estimate, and the comparison's."""
    n, rng = request.workload.n_tasks, np.random.default_rng(0)
    fused = request.estimator if isinstance(request.estimator, Fused) else None
    count = probes_of(fused.trainings) if fused else PROBES
    usual = different_subsets(n, count, min(max(2, request.size), n), 0)
    seed = derive(0, 71) % 2**31
    jobs = [Job(tuple(range(n)), 0)]
    jobs += [Job(tuple(np.flatnonzero(row).tolist()), seed, order_seed=seed) for row in usual]
    others = {(task,) for task in range(n)}
    for groups in request.counts:
        others |= {tuple(sorted(part.tolist())) for part in np.array_split(rng.permutation(n), groups)}
    return jobs + [Job(subset, 0) for subset in sorted(others - {tuple(range(n))})], len(usual)
