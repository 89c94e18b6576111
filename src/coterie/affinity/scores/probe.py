"""A probe run: one training on all tasks that measures, every few steps, what a step for one task does to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coterie._progress import Progress, silent
from coterie._random import random_numbers, seed_numbers
from coterie.affinity.scores.gradient_probe import GradientProbe
from coterie.errors import ModelError
from coterie.training.job import Fit, Job, derive
from coterie.training.loop import PlainRun, build
from coterie.workload import Workload


@dataclass(frozen=True)
class Probe:
    """What a probe run does.

    Args:
        every: steps from one measurement to the next; the first is at the first step.
        rate: None for the optimiser's own step in the look ahead, or the step size of a plain one.
        gram: whether inner products of gradients are measured (cosine, ETAP).
        lookahead: whether the look ahead is measured (TAG).
    """

    every: int = 10
    rate: float | None = None
    gram: bool = True
    lookahead: bool = True


@dataclass(frozen=True, eq=False)
class ProbeRun:
    """What a probe run leaves behind.

    Attributes:
        fit: the training; its test losses are NaN, as the test part is not looked at.
        sums: (targets, sources) sums over the measurements, and under ``n_...`` their counts.
        work: what the measurements took, see ``gradient_probe.WORK``.
    """

    fit: Fit
    sums: dict[str, NDArray[np.float64]]
    work: dict[str, float]


def run_probe(
    workload: Workload,
    trunk: Sequence[str],
    job: Job,
    probe: Probe,
    *,
    memory: int = 2**30,
    progress: Progress | None = None,
) -> ProbeRun:
    """Train as :func:`coterie.training.loop.fit_one` does, and measure on the way.

    The measurements change nothing: parameters, checks and the kept checkpoint are those of the ordinary training.

    Args:
        workload: tasks, data, model and recipe.
        trunk: names of the shared parameters.
        job: subset (all tasks), seed and limits.
        probe: what is measured, and how often.
        memory: bytes that a measurement may take.
        progress: called with the steps done and the steps at most, at every check.

    Raises:
        ModelError: when training or a look ahead diverges.
        ResourceError: when the gradients of all tasks do not fit the memory.
        WorkloadError: when there is no label in the training or validation part.

    Cost: a training; every measurement takes n + 1 forward passes and n backward passes over its batch.
    """
    device, told = workload.labels.device, progress or silent
    with random_numbers(device):
        model = build(workload, job)
        gradient_probe = GradientProbe(
            workload, model, trunk, rate=probe.rate, memory=memory, gram=probe.gram, lookahead=probe.lookahead
        )
        seed_numbers(derive(job.seed, 2), device)

        def watch(step: int, rows: Tensor) -> None:
            if step % probe.every == 0:
                gradient_probe.measure(rows, training.optimizer)

        training = PlainRun(workload, job, model, watch=watch, tests=False)
        fit = training.train(lambda stage, done, total: told("probe run", done, total), keep_states=True)
    if not all(np.isfinite(total).all() for total in gradient_probe.sums.values()):
        raise ModelError(
            "A step for one task alone makes a loss NaN or infinite, so the probe run has no affinities. The likely "
            f"cause is too large a learning rate ({workload.recipe.learning_rate:g}). Try one ten times smaller."
        )
    return ProbeRun(fit, gradient_probe.sums, gradient_probe.work)
