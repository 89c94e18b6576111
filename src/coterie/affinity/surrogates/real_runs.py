"""Really trained subsets, the data of a surrogate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._context import Context
from coterie._units import Payload, UnitStore, folder_of
from coterie.affinity.costs import Costs, Prepared, prepare, training_flops
from coterie.affinity.grad_tae import GradTAE
from coterie.affinity.linearize import checkpoint, secant_flops, train_full
from coterie.errors import SettingError
from coterie.training.job import Fit, Job, derive, pack_fits
from coterie.training.trainer import Trainer, make_run, names_of, train_runs
from coterie.training.units import FitUnit, UnitCost, fit_units
from coterie.workload import Workload

#: subsets in a unit of work; a killed estimate loses at most one unit
BLOCK = 30
STAGE = "real trainings of subsets"


@dataclass(frozen=True, eq=False)
class RealRuns:
    """Subsets that were trained once each.

    Attributes:
        subsets: bool (N, T).
        values: (N, T) validation losses, NaN outside the subset; lower is better.
        flops: (N,) of each training; what a trainer says that a run costs, or 1, where nobody knows them.
        steps: (N,) optimiser steps of each training.
    """

    subsets: NDArray[np.bool_]
    values: NDArray[np.float64]
    flops: NDArray[np.float64]
    steps: NDArray[np.float64]


def pack_values(workload: Workload, unit: UnitCost, fits: list[Fit]) -> Payload:
    """What a surrogate or a bank needs of trainings: ``values`` (jobs, T), validation losses; flops; steps."""
    flops = np.array([training_flops(workload, done, unit) for done in fits])
    steps = np.array([float(done.steps) for done in fits])
    return Payload({"values": np.stack([done.validation for done in fits]), "flops": flops, "steps": steps})


def real_runs(prepared: Prepared, subsets: NDArray[np.bool_], *, common_seed: int | None = None) -> RealRuns:
    """Train every subset once, all from the same initial parameters and with the same order of rows.

    Common random numbers make differences between subsets less noisy; what the seed does to all subsets alike is not
    seen. Finished blocks are in the store; a longer list that begins with the same subsets finds their blocks there.

    Args:
        prepared: the workload, the store, the costs.
        subsets: bool (N, T).
        common_seed: of all trainings; by default one that base models do not have.

    Cost: N trainings.
    """
    seed = derive(prepared.context.seed, 71) % 2**31 if common_seed is None else common_seed
    values, flops, steps = np.full(subsets.shape, np.nan), np.zeros(len(subsets)), np.zeros(len(subsets))
    workload, costs = prepared.workload, prepared.costs
    units: list[FitUnit] = []
    for start in range(0, len(subsets), BLOCK):
        rows = subsets[start : start + BLOCK]
        jobs = [Job(tuple(np.flatnonzero(row).tolist()), seed, order_seed=seed) for row in rows]
        key = {"subsets": [list(job.subset) for job in jobs], "seed": seed, "kept": ["values", "flops", "steps"]}
        units.append(FitUnit(key, jobs))
    payloads = fit_units(
        workload, "real-runs", units, partial(pack_values, workload, costs.unit), prepared.context,
        stage=STAGE, keep_states=False,
    )  # fmt: skip
    for start, payload in zip(range(0, len(subsets), BLOCK), payloads, strict=True):
        part = slice(start, start + BLOCK)
        for name, kept in (("values", values), ("flops", flops), ("steps", steps)):
            kept[part] = np.asarray(payload.arrays[name])
        costs.add(STAGE, 0.0, float(payload.meta["seconds"]))
    costs.add(STAGE, float(flops.sum()))
    return RealRuns(subsets, values, flops, steps)


def told_runs(trainer: Trainer, context: Context, subsets: NDArray[np.bool_]) -> tuple[RealRuns, Costs]:
    """Let a trainer train every subset once, all with one seed; what a run costs is what the trainer says, or 1."""
    seed, costs = derive(context.seed, 71) % 2**31, context.costs or Costs.of_runs()
    runs = [make_run(trainer, np.flatnonzero(row).tolist(), seed) for row in subsets]
    done = train_runs(trainer, runs, context, stage=STAGE)
    values = np.full(subsets.shape, np.nan)
    for row, run, (outcome, _) in zip(values, runs, done, strict=True):
        row[[trainer.tasks.index(task) for task in run.tasks]] = [outcome.mean(task) for task in run.tasks]
    spent = np.array([outcome.cost or 1.0 for outcome, _ in done])
    costs.add(STAGE, float(spent.sum()), sum(seconds for _, seconds in done))
    return RealRuns(subsets, values, spent, np.full(len(subsets), np.nan)), costs


def balanced_subsets(n_tasks: int, count: int, size: int, seed: int) -> NDArray[np.bool_]:
    """Random subsets (count, T) in which all tasks are about equally often.

    Shuffled decks of all tasks are dealt one after the other. Subsets may repeat where there are few different ones.

    Example:
        >>> balanced_subsets(6, 4, 3, seed=0).sum(0).tolist()
        [2, 2, 2, 2, 2, 2]
    """
    rng = np.random.default_rng(derive(seed, 72))
    mask = np.zeros((count, n_tasks), dtype=bool)
    deck: list[int] = []
    for row in mask:
        while row.sum() < min(size, n_tasks):
            position = next((p for p, task in enumerate(deck) if not row[task]), None)
            if position is None:
                deck += rng.permutation(n_tasks).tolist()
            else:
                row[deck.pop(position)] = True
    return mask


def different_subsets(n_tasks: int, count: int, size: int, seed: int) -> NDArray[np.bool_]:
    """Balanced random subsets without repetition; fewer than `count` where there are no more; more begin with the same.

    Trainings with common random numbers give the same result for the same subset, so a repeated one says nothing new.

    Example:
        >>> len(different_subsets(4, 50, 2, seed=0)), len(different_subsets(9, 50, 3, seed=0))
        (6, 50)
    """
    there = min(count, comb(n_tasks, min(size, n_tasks)))
    for draws in (4 * count, 16 * count, 64 * count):
        subsets = balanced_subsets(n_tasks, draws, size, seed)
        _, first = np.unique(subsets, axis=0, return_index=True)
        if len(first) >= there:
            break
    return subsets[np.sort(first)[:count]]


def balanced_runs(source: Workload | Trainer, context: Context, count: int, size: int) -> tuple[RealRuns, Costs]:
    """Train different subsets in which every task is at least twice; all there are where these are fewer than `count`.

    Of two tasks there is one such subset: each of them alone is trained beside it.

    Returns:
        The runs, and the ledger on which they are booked.

    Raises:
        SettingError: when `count` subsets of that size are too few for that, or there are not so many.
    """
    n = len(names_of(source))
    subsets = different_subsets(n, count, size, context.seed)
    if n == 2:
        subsets = np.array([[True, True], [True, False], [False, True]])
    if subsets.sum(0).min() < 2 and len(subsets) < count:
        raise SettingError(
            f"Parameter `subset_size` leaves too few different subsets: of {size} among {n} tasks there are "
            f"{len(subsets)}, in which not every task is twice. Ask for smaller subsets of at least 2 tasks, or choose "
            "another method."
        )
    if subsets.sum(0).min() < 2:
        raise SettingError(
            f"Parameter `runs` is too small: in {count} subsets of {size} tasks not every one of the {n} tasks is "
            f"twice. Use runs={-(-2 * n // min(size, n)) + 1} or more, or larger subsets."
        )
    if isinstance(source, Workload):
        prepared = prepare(source, context)
        return real_runs(prepared, subsets), prepared.costs
    return told_runs(source, context, subsets)


#: more base models than this add little
MOST_BASES = 8
#: budgets below so many trainings are small
SMALL = 20
#: trainings that say what an ordinary one costs, for small budgets and for others
PROBES = (2, 4)
#: units that planning and the estimate share; others, such as the states of short trainings, may be large
SHARED = ("full-base", "real-runs")
#: up to so many trainings go to base models first; of more, this share
FIRST, SHARE = 50, 2 / 3
#: shares of small and other budgets that are planned for, since a few trainings tell only roughly what others cost
MARGINS = (0.85, 0.95)
#: where at most that share of a budget shows every ordered pair of tasks so often, runs learn effects of partners, and
#: base models leave them room
PAIRS = 0.5
#: how far the only base model may go beyond the budget
LIMIT = 1.15
#: a fork takes at most this share of the steps of an ordinary training: where all tasks together train much longer than
#: a few of them, a share of that long training takes a single task to its end
FORK_OF_RUN = 0.15


@dataclass
class Remembered:
    """Shared units of work are remembered while an estimate is made, so that planning costs nothing twice."""

    inner: UnitStore
    units: dict[str, Payload]

    def folder(self, name: str) -> Path | None:
        """That of the store."""
        return folder_of(self.inner, name)

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The unit of that name and key."""
        if name not in SHARED:
            return self.inner.unit(name, key, compute)
        known = f"{name} {sorted(key.items())!r}"
        if known not in self.units:
            self.units[known] = self.inner.unit(name, key, compute)
        return self.units[known]


@dataclass(frozen=True)
class KnownFull:
    """A store that has the ordinary training on all tasks already, and nothing else."""

    full: Fit

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The training, or the work."""
        del key
        if name != "full-base":
            return compute()
        found = pack_fits([self.full], states=False)
        return Payload(found.arrays, {**found.meta, "seconds": 0.0})


@dataclass(frozen=True)
class BudgetSplit:
    """What a budget buys.

    Attributes:
        bases: base models, 0 to 8.
        runs: really trained subsets.
        fork: length of the short single-task trainings, as in :class:`GradTAE`.
    """

    bases: int
    runs: int
    fork: float


def probes_of(trainings: float) -> int:
    """Trainings that say what an ordinary one costs; not more than the budget has."""
    return min(PROBES[trainings >= SMALL], int(trainings))


def split_budget(prepared: Prepared, base: GradTAE, trainings: float, ordinary: RealRuns) -> BudgetSplit:
    """Base models and real runs that cost about so many ordinary trainings together.

    Base models come first, since a few of them tell more than as many real runs; what is left is spent on runs. With
    few tasks some runs already meet half of the pairs, and room is kept for these. Where
    not even one base fits, forks are made half as long; where that does not fit either (many tasks on much data that a
    single training hardly looks at) there is none.

    Args:
        prepared: the workload; its costs are not touched.
        base: settings of the base models.
        trainings: the budget, in ordinary trainings.
        ordinary: a few of these.
    """
    workload, unit, run_flops = prepared.workload, prepared.costs.unit, float(ordinary.flops.mean())
    spendable = MARGINS[trainings >= SMALL] * trainings * run_flops
    probes = probes_of(trainings)
    available = max(SHARE * spendable, min(spendable, FIRST * run_flops) - probes * run_flops)
    kept = runs_for_pairs(workload.n_tasks, float(ordinary.subsets.sum(1).mean())) * run_flops
    if kept <= SHARE * spendable:
        available = min(available, spendable - kept)
    features = _features_flops(prepared, base)
    forked = base.directions in ("secants", "task-vectors")
    # a training on all tasks is at least an ordinary one, and so are forks a share of one
    if run_flops * (1 + forked * workload.n_tasks * base.fork / 2) + features > max(
        available, (LIMIT * trainings - probes) * run_flops
    ):
        return BudgetSplit(0, int(spendable / run_flops), base.fork)
    scratch = replace(prepared, costs=Costs(unit))
    full = train_full(scratch)
    once = training_flops(workload, full, unit)
    shared = checkpoint(full, base.share)
    longest = min(base.fork, FORK_OF_RUN * float(ordinary.steps.mean()) / full.steps)
    for fork in (longest, longest / 2):
        steps = max(1, round(fork * full.steps))
        forks = sum(_steps_flops(prepared, (task,), steps) for task in prepared.everything) if forked else 0.0
        each = _steps_flops(prepared, prepared.everything, shared) + forks + features
        count = int(np.clip((available - once) // each, 0, MOST_BASES))
        if not count and once + each + probes * run_flops <= LIMIT * trainings * run_flops:
            count = 1
        if count:
            return BudgetSplit(count, max(0, int((spendable - once - count * each) / run_flops)), fork)
    prepared.costs.add("base models", once)  # spent to find out that there is no room for a base
    return BudgetSplit(0, max(0, int((spendable - once) / run_flops)), base.fork)


def runs_for_pairs(n_tasks: int, size: float, times: float = PAIRS) -> float:
    """Runs of subsets of a size in which every ordered pair of tasks is together so many times, in the mean.

    Example:
        >>> runs_for_pairs(13, 4), runs_for_pairs(500, 25)
        (6.5, 207.91666666666666)
    """
    return times * n_tasks * (n_tasks - 1) / max(1.0, size * (size - 1))


def _features_flops(prepared: Prepared, base: GradTAE) -> float:
    """FLOPs of the features of one base; those of gradients as in forward mode."""
    workload, unit = prepared.workload, prepared.costs.unit
    if base.directions == "secants":
        return secant_flops(workload, workload.n_tasks, unit)
    count = base.count if base.directions == "random" else workload.n_tasks
    rows = len(workload.split.train) + len(workload.split.validation)
    return rows * (unit.forward + count * (unit.jvp - unit.forward))


def _steps_flops(prepared: Prepared, subset: tuple[int, ...], steps: float) -> float:
    """FLOPs of so many steps on a subset, nothing checked."""
    rows, batch = len(prepared.workload.rows_of(subset, "train")), prepared.workload.recipe.batch_size
    return steps * rows / max(1, -(-rows // batch)) * prepared.costs.unit.training
