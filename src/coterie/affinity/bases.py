"""Base models: trained on all tasks until a stated share of the loss drop is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.affinity.context import Prepared
from coterie.affinity.costs import training_flops
from coterie.affinity.digest import digest
from coterie.training.job import Fit, Job, pack_fits, unpack_fits
from coterie.training.units import FitUnit, fit_units


@dataclass(frozen=True, eq=False)
class Bases:
    """Base models around which Grad-TAE linearises.

    Attributes:
        fits: one a base, at its checkpoint.
        full: an ordinary early-stopped training with the first base's seed: where that base would have gone.
        share: share of the drop of the validation loss that was to be left.
    """

    fits: tuple[Fit, ...]
    full: Fit
    share: float


def train(prepared: Prepared, jobs: Sequence[Job], *, stage: str, name: str) -> list[Fit]:
    """Train jobs as one unit of the store and book their cost on a stage."""
    return train_all(prepared, [jobs], stage=stage, name=name)[0]


def train_all(prepared: Prepared, several: Sequence[Sequence[Job]], *, stage: str, name: str) -> list[list[Fit]]:
    """Train lists of jobs, each as one unit of the store, and book their cost on a stage."""
    workload, costs = prepared.workload, prepared.costs
    payloads = fit_units(
        workload, name, [FitUnit(_key(jobs), jobs) for jobs in several], pack_fits,
        prepared.context, stage=stage,
    )  # fmt: skip
    found: list[list[Fit]] = []
    for jobs, payload in zip(several, payloads, strict=True):
        fits = unpack_fits(jobs, payload)
        flops = sum(training_flops(workload, done, costs.unit) for done in fits)
        costs.add(stage, flops, float(payload.meta["seconds"]))
        found.append(fits)
    return found


def _key(jobs: Sequence[Job]) -> dict[str, object]:
    facts = ("subset", "seed", "order_seed", "max_steps", "stop_below", "early_stopping", "checks")
    starts = {id(job.start): digest(job.start) for job in jobs}
    return {"jobs": [[*(getattr(job, fact) for fact in facts), starts[id(job.start)]] for job in jobs]}


def train_full(prepared: Prepared) -> Fit:
    """An ordinary training on all tasks, to its early stop: it says how far the loss falls, and when."""
    (full,) = train(
        prepared, [Job(subset=prepared.everything, seed=prepared.context.seed)], stage="base models", name="full-base"
    )
    return full


def checkpoint(full: Fit, share: float) -> int:
    """Step of the first check at which at most a share of the drop of the validation loss is left; all for share 0."""
    if share == 0:
        return full.steps
    losses = np.array([loss for _, loss in full.history])
    target = losses.min() + share * (losses[0] - losses.min())
    return next(step for step, loss in full.history if loss <= target)


def train_bases(prepared: Prepared, count: int, share: float) -> Bases:
    """Train `count` base models on all tasks.

    The first is trained to its early stop once, to learn how far the loss falls. The first validation check at which at
    most `share` of that drop is left is the checkpoint; the other bases are trained for as many steps, and look at no
    validation data. ``share=0`` keeps the early-stopped models, as published.
    """
    seeds = range(prepared.context.seed, prepared.context.seed + count)
    if share == 0:
        jobs = [Job(subset=prepared.everything, seed=seed) for seed in seeds]
        fits = train(prepared, jobs, stage="base models", name="bases")
        return Bases(tuple(fits), fits[0], share)
    full = train_full(prepared)
    steps = checkpoint(full, share)
    jobs = [
        Job(subset=prepared.everything, seed=seed, max_steps=steps, early_stopping=False, checks=False)
        for seed in seeds
    ]
    return Bases(tuple(train(prepared, jobs, stage="base models", name="bases")), full, share)
