"""Weightings on the library's stacked models: each member takes the steps that it takes alone."""

import numpy as np
import pytest
import torch

from coterie.balancing import get_balancer, task_means
from coterie.training.evaluate import row_losses
from coterie.training.job import Job
from coterie.training.loop import build, trainable
from coterie.training.optimizer import make_optimizer
from coterie.training.stack import Architecture, masked_losses
from coterie.workload import Recipe, from_arrays

JOBS = [Job((0, 1, 2), 0), Job((1, 3, 4), 1), Job((0, 1, 2, 3, 4), 2)]
STEPS, ROWS = 12, 32


@pytest.fixture(scope="module")
def workload():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 10))
    y = (x @ rng.normal(size=(10, 5)) > 0).astype(float)
    y[rng.random(y.shape) < 0.3] = np.nan
    return from_arrays(x, y, recipe=Recipe(batch_size=ROWS, learning_rate=1e-2), hidden=(32,))


def batch(workload, job, step):
    rows = workload.rows_of(job.subset, "train")
    return rows[(torch.arange(ROWS) + ROWS * step) % len(rows)]


@pytest.mark.parametrize(
    ("name", "options"),
    [("equal", {}), ("uncertainty", {}), ("dwa", {"window": 4}), ("famo", {}), ("marigold", {"every": 2}),
     ("marigold", {"every": 2, "form": "simplex"}), ("marigold-next", {})],
)  # fmt: skip
def test_stacked_models_are_trained_as_if_alone(workload, name, options):
    architecture = Architecture(workload)
    values = architecture.stack(JOBS)
    architecture.train(True)
    subsets = torch.zeros(len(JOBS), 5, dtype=torch.bool)
    for member, job in enumerate(JOBS):
        subsets[member, list(job.subset)] = True
    optimizer = make_optimizer(workload.recipe, values.trained.values())
    balancer = get_balancer(name, 5, members=len(JOBS), **options)
    for step in range(STEPS):
        rows = torch.stack([batch(workload, job, step) for job in JOBS])
        balancer.step(
            lambda rows=rows: task_means(*masked_losses(architecture, values, rows, padded=False, subsets=subsets)),
            optimizer,
        )
    for member, job in enumerate(JOBS):
        tasks = list(job.subset)
        model = build(workload, job).train()
        single = make_optimizer(workload.recipe, trainable(model))
        alone = get_balancer(name, len(tasks), **options)
        for step in range(STEPS):

            def losses(rows=batch(workload, job, step), model=model, tasks=tasks):  # noqa: B008
                values, observed = row_losses(workload, model, rows)
                return task_means(values[:, tasks], observed[:, tasks])

            alone.step(losses, single)
        stacked = values.member(member)
        # differences of two forward passes make the rounding of float32 visible
        for key, value in model.named_parameters():
            torch.testing.assert_close(stacked[key], value.detach(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(balancer.weights[member, tasks], alone.weights, rtol=1e-2, atol=1e-3)
