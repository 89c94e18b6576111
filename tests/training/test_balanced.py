"""Jobs with a balancing: the loop against a hand-written one, the population against the loop, costs, messages."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from coterie import Context
from coterie.affinity.costs import training_flops
from coterie.balancing import Balancing, get_balancer, task_means
from coterie.balancing.methods import AGGREGATIONS, WEIGHTINGS
from coterie.errors import FallbackWarning, ModelError, SettingError
from coterie.training import fit, measure_cost
from coterie.training.evaluate import row_losses
from coterie.training.job import BatchStream, Job, derive
from coterie.training.loop import batch_loss, fit_one, trainable, trunk_names
from coterie.training.optimizer import make_optimizer
from coterie.training.population import fit_population
from reference.training_workloads import make

OPTIONS = {"marigold": {"every": 2}, "dwa": {"window": 3}}
WEIGHTED = [
    *(Balancing(name, OPTIONS.get(name, {})) for name in WEIGHTINGS),
    Balancing("marigold", {"every": 1, "form": "simplex"}),
]


def jobs_for(balancing):
    subsets = [(0, 1, 2, 3), (0, 2), (1, 2, 3), (0, 1, 2, 3)]
    jobs = [Job(subset, seed, balancing=balancing) for seed, subset in enumerate(subsets)]
    return [*jobs, Job((1, 3), 0, order_seed=2, max_steps=5, balancing=balancing), Job((2,), 1, balancing=balancing)]


def by_hand(workload, job, step_once):
    """State after `max_steps` steps of a plain loop; `step_once(model, optimizer, rows)` makes each."""
    model = workload.build_model(job.seed).train()
    optimizer = make_optimizer(workload.recipe, trainable(model))
    stream = BatchStream(workload.rows_of(job.subset, "train"), workload.recipe.batch_size, job.order)
    torch.manual_seed(derive(job.seed, 2))
    for step in range(job.max_steps):
        step_once(model, optimizer, stream.batch(step))
    return {name: value.detach() for name, value in model.state_dict().items()}


def test_without_a_balancing_nothing_has_changed():
    """The plain loop, written out: bit for bit, with missing labels."""
    workload = make("mixed", missing=0.3, separate=True, weight_decay=0.0)
    job = Job((0, 1, 3), 4, max_steps=12, early_stopping=False)

    def step_once(model, optimizer, rows):
        loss = batch_loss(workload, model, rows, [0, 1, 3])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    expected = by_hand(workload, job, step_once)
    assert all(torch.equal(value, expected[name]) for name, value in fit_one(workload, job).state.items())


@pytest.mark.parametrize("name", ["equal", "uncertainty", "dwa", "famo", "marigold", "marigold-next", "mgda", "upgrad"])
@pytest.mark.parametrize("separate", [True, False])
def test_the_loop_equals_one_written_by_hand(name, separate):
    if name in AGGREGATIONS:
        pytest.importorskip("torchjd")
    workload = make("mixed", missing=0.3, separate=separate, weight_decay=0.0)
    tasks, options = [0, 1, 3], OPTIONS.get(name, {})
    job = Job(tuple(tasks), 4, max_steps=12, early_stopping=False, balancing=Balancing(name, options))
    balancer = get_balancer(name, len(tasks), **options)

    def step_once(model, optimizer, rows):
        def losses():
            values, observed = row_losses(workload, model, rows)
            return task_means(values[:, tasks], observed[:, tasks])

        shared = [value for key, value in model.named_parameters() if key.startswith("trunk")]
        balancer.step(losses, optimizer, model=model, shared=shared)

    expected = by_hand(workload, job, step_once)
    plain = fit_one(workload, Job(job.subset, 4, max_steps=12, early_stopping=False)).state
    found = fit_one(workload, job).state
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)
    assert max(float((value - plain[key]).abs().max()) for key, value in found.items()) > 1e-3


def test_equal_is_the_mean_of_task_means():
    workload = make("regression", missing=0.5, weight_decay=0.0)
    job = Job((0, 1, 2, 3), 1, max_steps=10, early_stopping=False, balancing="equal")

    def step_once(model, optimizer, rows):
        values, observed = row_losses(workload, model, rows)
        means = [values[observed[:, task], task].mean() for task in range(4) if observed[:, task].any()]
        optimizer.zero_grad()
        torch.stack(means).mean().backward()
        optimizer.step()

    expected = by_hand(workload, job, step_once)
    for name, value in fit_one(workload, job).state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("balancing", WEIGHTED, ids=str)
@pytest.mark.parametrize("settings", [{"missing": 0.3}, {"blocks": True, "rows": 90, "separate": True}], ids=str)
def test_the_population_equals_the_loop(balancing, settings):
    """Members leave the stack at different steps, and their batches miss tasks."""
    workload = make("mixed", patience=1, **settings)
    jobs = jobs_for(balancing)
    for one, many in zip([fit_one(workload, job) for job in jobs], fit_population(workload, jobs), strict=True):
        assert one.job == many.job
        assert (one.steps, one.best_step) == (many.steps, many.best_step)
        # the difference of two forward passes makes the rounding of float32 visible
        np.testing.assert_allclose(many.validation, one.validation, rtol=2e-3)
        for name, value in one.state.items():
            torch.testing.assert_close(many.state[name], value, rtol=2e-2, atol=2e-3)


def test_members_with_other_balancings_do_not_matter():
    workload = make("mixed", missing=0.2)
    jobs = [job for name in ("famo", None, "rlw") for job in jobs_for(name)]
    together = dict(zip(jobs, fit_population(workload, jobs), strict=True))
    for name in ("famo", "rlw"):
        own = [job for job in jobs_for(name) if job.balancing]
        for job, fitted in zip(own, fit_population(workload, own), strict=True):
            assert all(torch.equal(together[job].state[key], value) for key, value in fitted.state.items())


def test_gradients_are_combined_in_the_loop_and_others_stay_stacked():
    pytest.importorskip("torchjd")
    workload = make("mixed")
    jobs = [Job((0, 1, 2), seed, balancing=name) for seed in (0, 1) for name in ("mgda", "famo", None)]
    steps = []
    with pytest.warns(FallbackWarning, match=r"mgda combines the gradients of tasks"):
        fits = fit(workload, jobs, context=Context(progress=lambda stage, done, total: steps.append((done, total))))
    assert [found.job for found in fits] == jobs
    for job, found in zip(jobs, fits, strict=True):
        np.testing.assert_allclose(found.test, fit_one(workload, job).test, rtol=1e-3)
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    with pytest.raises(ModelError, match="mgda combines the gradients"):
        fit(workload, jobs, backend="population")
    with pytest.raises(SettingError, match="combines gradients"):
        fit_population(workload, jobs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(workload, jobs, backend="loop")


def test_one_task_has_nothing_to_balance():
    assert Job((1,), 0, balancing="uncertainty") == Job((1,), 0)
    assert Job((1, 2), 0, balancing="famo") != Job((1, 2), 0)
    assert Job((1, 2), 0, balancing="famo") == Job((1, 2), 0, balancing=Balancing("famo"))
    assert len({Job((1, 2), 0, balancing=name) for name in (None, "famo", "equal", "famo")}) == 3


def test_the_trunk_is_what_tasks_share():
    assert set(trunk_names(make("mixed", separate=True))) == {"trunk.0.weight", "trunk.0.bias"}
    assert all(name.startswith("trunk") for name in trunk_names(make("mixed")))


class Noisy(nn.Module):
    """A model with dropout and BatchNorm, which cannot be stacked."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.trunk(x))


def test_dropout_and_batch_norm():
    """A second look at a batch leaves running statistics and random numbers alone: with shares that do not move, probes
    at every step change nothing."""
    workload = make("binary", build=Noisy)
    states = [
        fit_one(
            workload,
            Job((0, 1, 2), 3, balancing=Balancing("marigold", {"phi": "identity", "learning_rate": 1e-30, **more})),
        ).state
        for more in ({"every": 1}, {"every": 10**6})
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_every_pass_is_counted():
    workload = make("mixed")
    unit = measure_cost(workload)
    fitted = fit(workload, [Job((0, 1, 2), 0, max_steps=6, early_stopping=False)])[0]
    plain = training_flops(workload, fitted, unit)
    rows = fitted.steps * len(workload.split.train) / math.ceil(len(workload.split.train) / 8)

    def more(name, **options):
        object.__setattr__(fitted.job, "balancing", Balancing(name, options))
        return (training_flops(workload, fitted, unit) - plain) / rows

    assert more("equal") == pytest.approx(0, abs=1e-9)
    assert more("famo") == pytest.approx(unit.forward)
    assert more("marigold", every=4) == pytest.approx(unit.forward / 4)
    assert more("marigold", every=4, fresh=True) == pytest.approx(unit.forward / 2)
    pytest.importorskip("torchjd")
    assert more("mgda") == pytest.approx(2 * (unit.training - unit.forward))


@pytest.mark.parametrize("name", ["equal", "famo", "mgda"])
def test_divergence_is_named(name):
    if name in AGGREGATIONS:
        pytest.importorskip("torchjd")
    workload = make("regression", learning_rate=1e18, optimizer="sgd", check_every=50)
    jobs = [Job((0, 1, 2), 7, early_stopping=False, balancing=name)] * 2
    for backend in ("loop", "auto"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            with pytest.raises(ModelError, match=r"(?s)diverged.*learning rate"):
                fit(workload, jobs, backend=backend)


def test_unknown_names_are_refused_at_once():
    with pytest.raises(SettingError, match="Did you mean 'famo'"):
        Job((0, 1), 0, balancing="fam")
    with pytest.raises(SettingError, match="should be None, the name of a method"):
        Job((0, 1), 0, balancing=3)
