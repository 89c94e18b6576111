"""Really trained subsets, the data of a surrogate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import comb

import numpy as np
from numpy.typing import NDArray

from coterie._context import Context
from coterie._units import Payload
from coterie.affinity.context import Prepared, prepare
from coterie.affinity.costs import Costs, training_flops
from coterie.errors import SettingError
from coterie.training.job import Fit, Job, derive
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

    Returns:
        The runs, and the ledger on which they are booked.

    Raises:
        SettingError: when `count` subsets of that size are too few for that, or there are not so many.
    """
    n = len(names_of(source))
    subsets = different_subsets(n, count, size, context.seed)
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
