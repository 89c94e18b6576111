"""Population training: many small models at once.

The members' parameters are stacked, the forward pass is vmapped, the members' losses are added up, and one ordinary
torch optimiser steps the stacked tensors. As no loss depends on another member's parameters and all optimisers here
work element by element, each member takes exactly the steps that it would take alone, up to rounding. Where jobs have
a balancing, the weights of the tasks are stacked as well; members with the same one are trained together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie._progress import Progress, silent
from coterie.balancing import Balancer, Balancing, Weighting, task_means
from coterie.errors import ModelError, ResourceError, SettingError
from coterie.training.evaluate import Footprint, load_state
from coterie.training.heads import OtherHeads
from coterie.training.job import Fit, Job, Schedule, diverged
from coterie.training.loop import Tracker, Windows, build, trunk_names
from coterie.training.optimizer import Stepper
from coterie.training.stack import Architecture, PartLosses, Values, inside, label_weights, masked_losses
from coterie.training.stackable import architecture_of, population_footprint
from coterie.training.weights import weighted
from coterie.workload.initial import check_kept
from coterie.workload.workload import Workload

_FINISHED_SHARE = 0.1
#: told positions of jobs, their step, and which of them are finished
Tell = Callable[[np.ndarray, int, np.ndarray], None]


def fit_population(
    workload: Workload,
    jobs: Sequence[Job],
    *,
    memory: int = 2**30,
    progress: Progress | None = None,
    keep_states: bool = True,
) -> list[Fit]:
    """Train many models of one architecture at once.

    The model must be stackable (:func:`coterie.training.stackable.is_stackable`). Members are trained in chunks that
    fit the memory; finished members leave the stack. Results equal those of :func:`coterie.training.loop.fit_one` up
    to rounding, whatever else is trained beside them, and are the same bit for bit when the same call is repeated.

    Args:
        workload: tasks, data, model and recipe.
        jobs: what to train.
        memory: bytes that a chunk of members may take.
        progress: called with steps done and steps at most, added up over the jobs.
        keep_states: False leaves `Fit.state` empty.

    Returns:
        One fit a job, in the order of `jobs`.

    Raises:
        SettingError: when the balancing of a job combines gradients, which stacked models cannot do.
        ModelError: when a loss becomes NaN or infinite; names the job by its position.
        ResourceError: when a single member does not fit the memory.
        WorkloadError: when a subset has no label in the training or validation part.
    """
    schedules = [Schedule(workload, job) for job in jobs]
    tell = ProgressReporter(progress or silent, [schedule.max_steps for schedule in schedules])
    fits: dict[int, Fit] = {}
    for chunk in plan_population(workload, jobs, memory=memory, keep_states=keep_states):
        fits.update(zip(chunk.positions, train_chunk(workload, chunk, tell), strict=True))
    return [fits[position] for position in range(len(jobs))]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Jobs that are trained together. What comes out depends on it to the last bit, so it never depends on workers.

    Attributes:
        jobs: the jobs; they have the same balancing and, where the recipe has a schedule, as many steps at most.
        positions: their positions in the list that was asked for.
        cells: (member, row) pairs that are evaluated at once.
        keep_states: False leaves `Fit.state` empty.
        memory: bytes that it may take.
    """

    jobs: tuple[Job, ...]
    positions: tuple[int, ...]
    cells: int
    keep_states: bool
    memory: int = 2**30


def plan_population(workload: Workload, jobs: Sequence[Job], *, memory: int, keep_states: bool = True) -> list[Chunk]:
    """Who is trained together with whom; see :func:`fit_population`."""
    if not jobs:
        return []
    footprint = population_footprint(workload, memory)
    at_once = min(members_at_once(footprint, memory), footprint.enough)
    steps = [Schedule(workload, job).max_steps for job in jobs]
    # neighbours that share an order of rows can share their inputs; a fixed order makes results independent of the
    # order of `jobs`
    ranked = sorted(range(len(jobs)), key=lambda i: (jobs[i].order, steps[i], jobs[i].seed, jobs[i].subset))
    chunks: list[Chunk] = []
    # one optimiser has one rate: members whose rate depends on the number of their steps need the same number
    kinds = [(job.balancing, most if workload.recipe.schedule else 0) for job, most in zip(jobs, steps, strict=True)]
    for kind in dict.fromkeys(kinds):
        alike = np.array([i for i in ranked if kinds[i] == kind])
        for part in np.array_split(alike, -(-len(alike) // at_once)):
            positions = tuple(part.tolist())
            chosen = tuple(jobs[i] for i in positions)
            chunks.append(Chunk(chosen, positions, footprint.cells(memory), keep_states, memory))
    return chunks


def train_chunk(workload: Workload, chunk: Chunk, tell: Tell | None = None) -> list[Fit]:
    """Train the jobs of a chunk, in their order.

    Args:
        workload: tasks, data, model and recipe.
        chunk: from :func:`plan_population`.
        tell: called with positions of jobs, their step and whether they are finished.
    """
    architecture = architecture_of(workload, chunk.memory)
    if not architecture.trained:
        raise ModelError("The model has no parameters with requires_grad=True, so there is nothing to train.")
    schedules = [Schedule(workload, job) for job in chunk.jobs]
    members = _Chunk(architecture, schedules, np.array(chunk.positions), chunk.cells, chunk.jobs[0].balancing)
    return members.train(tell or _silent, chunk.keep_states)


def _silent(positions: np.ndarray, step: int, finished: np.ndarray) -> None:
    del positions, step, finished


def members_at_once(footprint: Footprint, memory: int) -> int:
    """How many members fit the memory.

    Raises:
        SettingError: when `memory` is no positive number.
        ResourceError: when not even one fits.
    """
    if not memory > 0:
        raise SettingError(f"Parameter `memory` should be a positive number of bytes. Found {memory!r}.")
    at_once = footprint.members(memory)
    if not at_once:
        raise ResourceError(
            f"One member of the population takes about {footprint.member / 2**20:.0f} MiB, but `memory` allows "
            f"{memory / 2**20:.0f} MiB. Raise `memory`, lower the batch size, or train with backend='loop'."
        )
    return at_once


class ProgressReporter:
    """Adds up the progress of members."""

    def __init__(self, progress: Progress, max_steps: Sequence[int]) -> None:
        self._progress = progress
        self._max_steps = max_steps
        self._done = np.zeros(len(max_steps), int)

    def __call__(self, positions: np.ndarray, step: int, finished: np.ndarray) -> None:
        """So far have the jobs at these positions come."""
        self._done[positions] = np.where(finished, [self._max_steps[i] for i in positions], step)
        self._progress("training", int(self._done.sum()), sum(self._max_steps))


class _Chunk:
    """Members that are trained together.

    Members are numbered in the order of `schedules`; `self.ids` are the numbers of those still in the stack.
    """

    def __init__(
        self,
        architecture: Architecture,
        schedules: Sequence[Schedule],
        positions: np.ndarray,
        cells: int,
        balancing: Balancing | None,
    ) -> None:
        self.architecture, self.workload = architecture, architecture.workload
        self.schedules, self.positions = schedules, positions
        self.jobs = [schedule.job for schedule in schedules]
        self.device = self.workload.labels.device
        self.trackers = [Tracker(schedule, self.workload.recipe.patience) for schedule in schedules]
        self.last = np.array([schedule.max_steps for schedule in schedules])
        self.every = np.array([schedule.check_every for schedule in schedules])
        subsets = [job.subset for job in self.jobs]
        self.validation = PartLosses(self.workload, "validation", subsets, cells)
        self.test = PartLosses(self.workload, "test", subsets, cells)
        self.values = architecture.stack(self.jobs)
        everyone = torch.arange(len(schedules), device=self.device)
        self.best = self.values.select(everyone)
        self.losses = np.full((len(schedules), self.workload.n_tasks), np.nan)
        self.steps = np.zeros(len(schedules), int)
        # what follows shrinks with the stack
        self.ids = np.arange(len(schedules))
        self.bad = torch.full((len(schedules),), -1, device=self.device)
        self.subsets = inside(self.workload, subsets)
        most = int(self.last.max())
        self.stepper = Stepper(self.workload.recipe, self.values.trained, most, stacked=True)
        self.optimizer = self.stepper.optimizer
        self.others = OtherHeads(self.workload, subsets, self.values.trained, self.optimizer, stacked=True)
        self.balancer = None if balancing is None else self.balance(balancing)

    def balance(self, balancing: Balancing) -> Balancer:
        """A balancer for all members."""
        return balancing.make(
            self.workload.n_tasks,
            seeds=[job.seed for job in self.jobs],
            windows=[schedule.stream.steps_per_epoch for schedule in self.schedules],
            members=len(self.jobs),
        )

    def train(self, tell: Tell, keep_states: bool) -> list[Fit]:
        """Run to the end."""
        windows = Windows([schedule.stream for schedule in self.schedules], self.device)
        step = 0
        while True:
            due = (step % self.every[self.ids] == 0) | (step == self.last[self.ids])
            due &= ~self.finished(self.ids)
            if due.any():
                self.check(step, np.flatnonzero(due))
                tell(self.positions[self.ids[due]], step, self.finished(self.ids[due]))
                self.compact()
            if not len(self.ids):
                return self.collect(keep_states)
            rows, padded = windows.rows(step, self.ids)
            step += 1
            self.step(step, rows, padded)

    def finished(self, ids: np.ndarray) -> np.ndarray:
        """Which of these members are through."""
        return np.array([self.trackers[i].finished for i in ids], bool)

    def step(self, step: int, rows: Tensor, padded: bool) -> None:
        """One step of every member in the stack."""
        self.architecture.train(True)
        if self.balancer is None:
            self.optimizer.zero_grad()
            means = self.architecture.descend(self.values, rows, padded=padded, subsets=self.subsets)
            self.optimizer.step()
            finite = torch.isfinite(means)
        else:
            finite = self.balanced_step(self.balancer, rows, padded)
        self.stepper.stepped()
        # looked at when a member is checked, so that devices need not wait for each other at every step
        self.bad = torch.where((self.bad < 0) & ~finite, step, self.bad)

    def balanced_step(self, balancer: Balancer, rows: Tensor, padded: bool) -> Tensor:
        """One balanced step of every member; (members,) whether its losses before the step were finite."""
        finite: list[Tensor] = []

        def losses() -> Tensor:
            values, mask = masked_losses(self.architecture, self.values, rows, padded=padded, subsets=self.subsets)
            finite.append(values.detach().isfinite().flatten(1).all(1))
            if (weights := label_weights(self.workload, rows)) is not None:
                values = weighted(values, mask, weights)
            return task_means(values, mask)

        shared = [self.values.trained[name] for name in trunk_names(self.workload)]
        balancer.step(losses, self.optimizer, shared=shared)
        return finite[0]

    def check(self, step: int, due: np.ndarray) -> None:
        """Evaluate the members at the given places of the stack, and keep those that are the best so far."""
        self.others.put_back()
        with self.stepper.averaged():
            self.others.put_back()
            self.look(step, due)

    def look(self, step: int, due: np.ndarray) -> None:
        """The check itself, at the present parameters."""
        ids = self.ids[due]
        for member, bad in zip(ids, self.bad.cpu().numpy()[due], strict=True):
            if bad >= 0:
                raise diverged(self.workload, self.jobs[member], int(bad), "training loss", int(self.positions[member]))
        some = len(due) < len(self.ids)
        values = self.values.select(torch.from_numpy(due).to(self.device)) if some else self.values
        losses = self.evaluate(self.validation, values, ids)
        keep: list[int] = []
        for place, member in enumerate(ids):
            if not self.jobs[member].checks:
                keep += [place] if self.trackers[member].reach(step) else []
                continue
            loss = np.nanmean(losses[place])
            if not loss < np.inf:
                raise diverged(self.workload, self.jobs[member], step, "validation loss", int(self.positions[member]))
            if self.trackers[member].observe(step, float(loss)):
                keep.append(place)
        self.losses[ids[keep]] = losses[keep]
        self.steps[ids] = step
        target, source = (torch.tensor(index, dtype=torch.int64, device=self.device) for index in (ids[keep], keep))
        for name, best in self.best.trained.items():
            best.index_copy_(0, target, values.trained[name].detach().index_select(0, source))

    def evaluate(self, part: PartLosses, values: Values, ids: np.ndarray) -> np.ndarray:
        """(members, tasks) losses of the members that want to be checked, NaN for the others."""
        wanted = np.flatnonzero([self.jobs[member].checks for member in ids])
        losses = np.full((len(ids), self.workload.n_tasks), np.nan)
        if len(wanted):
            some = len(wanted) < len(ids)
            chosen = values.select(torch.from_numpy(wanted).to(self.device)) if some else values
            losses[wanted] = part(self.architecture, chosen, ids[wanted])
        return losses

    def compact(self) -> None:
        """Drop finished members from the stack once there are enough of them."""
        finished = self.finished(self.ids)
        if finished.sum() < max(1.0, _FINISHED_SHARE * len(self.ids)) and not finished.all():
            return
        stay = np.flatnonzero(~finished)
        index = torch.from_numpy(stay).to(self.device)
        self.ids, self.bad, self.subsets = self.ids[stay], self.bad[index], self.subsets[index]
        if isinstance(self.balancer, Weighting):
            self.balancer.select(index)
        self.others.select(index)
        self.values.fixed = {name: value[index] for name, value in self.values.fixed.items()}
        self.stepper.select(index)

    def collect(self, keep_states: bool) -> list[Fit]:
        """The fits of all members."""
        everyone = np.arange(len(self.jobs))
        test = self.evaluate(self.test, self.best, everyone)
        # all members were trained through one module, which may have kept something beside their tensors
        load_state(self.architecture.model, self.state(0))
        check_kept(self.workload, self.architecture.model, "after training")
        for member, job in enumerate(self.jobs if self.architecture.loses else []):
            model = build(self.workload, job)
            load_state(model, self.state(member))
            check_kept(self.workload, model, "after training")
        return [
            Fit(
                job=job,
                state=self.state(member) if keep_states else {},
                steps=int(self.steps[member]),
                best_step=self.trackers[member].best_step,
                history=tuple(self.trackers[member].history),
                validation=self.losses[member].copy(),
                test=test[member].copy(),
            )
            for member, job in enumerate(self.jobs)
        ]

    def state(self, member: int) -> dict[str, Tensor]:
        """The kept checkpoint of one member."""
        return self.architecture.state(self.best.member(member))
