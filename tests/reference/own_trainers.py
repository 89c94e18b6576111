"""Functions that train subsets of tasks, at the top level so that workers can import them."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
from numpy.typing import NDArray

from coterie.evaluation.compare import halve_validation
from coterie.evaluation.labels import LabelIndex
from coterie.training import Outcome, fit
from coterie.training.job import Fit, Job
from coterie.workload import Workload

SLOPE = 3.0


def linear(tasks: tuple[str, ...], seed: int) -> dict[str, float]:
    return {task: 1 + SLOPE * seed / len(tasks) for task in tasks}


def failing(tasks: tuple[str, ...], seed: int) -> dict[str, float]:
    if seed == 1:
        raise RuntimeError("seed 1")
    return dict.fromkeys(tasks, 1.0)


def dying(tasks: tuple[str, ...], seed: int) -> dict[str, float]:
    os._exit(3)


def through_torch(workload: Workload, tasks: tuple[str, ...], seed: int) -> Outcome:
    """A run of a workload as a stranger's function would do it: losses of every label, NaN where there is none."""
    halved, choose = halve_validation(workload)
    subset = tuple(workload.task_names.index(task) for task in tasks)
    (done,) = fit(halved, [Job(subset, seed)])
    return Outcome(
        _losses(halved, LabelIndex.of(workload, choose), done),
        _losses(halved, LabelIndex.of(workload, workload.split.test), done),
    )


def _losses(workload: Workload, index: LabelIndex, done: Fit) -> dict[str, NDArray[np.float64]]:
    values, own = index.losses(workload, done.state, done.job.subset), index.of_tasks(done.job.subset)
    found = {workload.task_names[t]: np.full(len(index.rows), np.nan) for t in done.job.subset}
    for value, task, row in zip(values, index.task[own], index.position[own], strict=True):
        found[workload.task_names[task]][row] = value
    return found


class Ridge:
    """Shared features by principal components of the labels, in plain NumPy: tasks of one kind help each other."""

    def __init__(self, seed: int = 0, n: int = 300) -> None:
        rng = np.random.default_rng(seed)
        self.names = ("a1", "a2", "b1", "b2")
        x = rng.normal(size=(4 * n, 20))
        shared = rng.normal(size=(2, 20))
        weights = np.stack([shared[0], shared[0], shared[1], shared[1]]) + 0.1 * rng.normal(size=(4, 20))
        y = x @ weights.T + 4 * rng.normal(size=(4 * n, 4))
        self.x, self.y, self.n = x, y, n

    def __call__(self, tasks: tuple[str, ...], seed: int) -> Outcome:
        columns = [self.names.index(task) for task in tasks]
        rng = np.random.default_rng(seed)
        rows = rng.choice(2 * self.n, 30, replace=False)
        x, y = self.x[rows], self.y[rows][:, columns]
        coefficients = np.linalg.solve(x.T @ x + 10 * np.eye(20), x.T @ y)
        mean = coefficients.mean(1, keepdims=True)  # tasks in one model are drawn to each other
        fitted = 0.3 * coefficients + 0.7 * mean if len(columns) > 1 else coefficients
        parts = [slice(2 * self.n, 3 * self.n), slice(3 * self.n, 4 * self.n)]
        validation, test = ((self.x[part] @ fitted - self.y[part][:, columns]) ** 2 for part in parts)
        return Outcome(dict(zip(tasks, validation.T, strict=True)), dict(zip(tasks, test.T, strict=True)))


def means_only(train: Ridge, tasks: tuple[str, ...], seed: int) -> dict[str, float]:
    outcome = train(tasks, seed)
    return {task: outcome.mean(task) for task in tasks}


def without_examples(train: Ridge) -> partial[dict[str, float]]:
    return partial(means_only, train)
