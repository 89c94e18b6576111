import warnings

import numpy as np
import pytest
import torch
from torch import nn

from coterie import Context
from coterie.errors import FallbackWarning, ModelError, ResourceError, SettingError, WorkloadError
from coterie.training import fit
from coterie.training.evaluate import evaluate
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.training.population import fit_population
from coterie.training.stackable import is_stackable
from reference.training_workloads import make


def test_jobs_are_checked():
    for wrong in ((), (0, 0), (-1,), (0.5,), (True,)):
        with pytest.raises(SettingError, match="subset"):
            Job(wrong, 0)
    with pytest.raises(SettingError, match="max_steps"):
        Job((0,), 0, max_steps=-1)
    with pytest.raises(SettingError, match="seed"):
        Job((0,), "0")
    assert Job(np.array([2, 0]), np.int64(3)) == Job((0, 2), 3)
    assert Job((0,), 0) != Job((0,), 1)
    assert len({Job((0, 1), 0), Job((1, 0), 0)}) == 1
    state = {"a": torch.zeros(2)}
    assert Job((0,), 0, start=state) == Job((0,), 0, start=state) != Job((0,), 0, start={"a": torch.zeros(2)})


@pytest.mark.parametrize("backend", ["population", "loop"])
def test_early_stopping_keeps_the_best_and_the_last(backend):
    workload = make("regression", learning_rate=0.1, epochs=30, check_every=2, patience=3)
    best, last, below = fit(
        workload,
        [Job((0, 1), 0), Job((0, 1), 0, early_stopping=False, max_steps=60), Job((0, 1), 0, stop_below=0.6)],
        backend=backend,
    )
    steps, values = zip(*best.history, strict=True)
    assert best.best_step == steps[int(np.argmin(values))]
    assert best.loss == pytest.approx(min(values))
    assert best.steps == best.best_step + 3 * 2 < 30 * 5
    assert last.steps == last.best_step == 60
    assert last.loss == pytest.approx(last.history[-1][1])
    assert below.loss <= 0.6 < min(value for _, value in below.history[:-1])
    assert below.steps == below.best_step == below.history[-1][0]


@pytest.mark.parametrize("backend", ["population", "loop"])
def test_kept_losses_are_those_of_the_kept_state(backend):
    workload = make("mixed", missing=0.3, learning_rate=0.1)
    for fitted in fit(workload, [Job((0, 2), 0), Job((1, 2, 3), 1)], backend=backend):
        np.testing.assert_allclose(
            evaluate(workload, fitted.state, "validation", fitted.job.subset), fitted.validation, 1e-5
        )
        np.testing.assert_allclose(evaluate(workload, fitted.state, "test", fitted.job.subset), fitted.test, 1e-5)
        assert np.isnan(fitted.test).sum() == 4 - len(fitted.job.subset)
        workload.build_model(0).load_state_dict(fitted.state)


@pytest.mark.parametrize("backend", ["population", "loop"])
def test_states_can_be_dropped(backend):
    fitted = fit(make("binary"), [Job((0,), 0), Job((1,), 0)], backend=backend, keep_states=False)
    assert all(f.state == {} and f.test[f.job.subset[0]] > 0 for f in fitted)


@pytest.mark.parametrize("backend", ["population", "loop"])
def test_divergence_is_named(backend):
    workload = make("regression", optimizer="sgd", learning_rate=1e6, patience=None)
    with pytest.raises(ModelError, match=r"NaN or infinite at step \d+ .*tasks 'c'.*learning rate"):
        fit(workload, [Job((2,), 0, max_steps=0), Job((2,), 0)], backend=backend)


def test_divergence_names_the_member_and_the_step_of_the_loop():
    workload = make("regression", optimizer="sgd", learning_rate=1e6, patience=None, check_every=50, epochs=50)
    jobs = [Job((2,), 0, max_steps=1), Job((1,), 3)]
    with pytest.raises(ModelError) as one:
        fit_one(workload, jobs[1])
    with pytest.raises(ModelError, match="job 1, ") as all_of_them:
        fit_population(workload, jobs)
    assert str(all_of_them.value).replace("job 1, ", "") == str(one.value)


@pytest.mark.parametrize("backend", ["population", "loop"])
def test_progress_ends_at_the_total(backend):
    seen = []
    fit(
        make("binary", patience=2, learning_rate=0.1, epochs=20),
        [Job((t % 4,), t) for t in range(4)],
        backend=backend,
        context=Context(progress=lambda *report: seen.append(report)),
    )
    done = [report[1] for report in seen]
    assert {report[0] for report in seen} == {"training"}
    assert done == sorted(done)
    assert len(done) > 4
    assert seen[-1][1] == seen[-1][2]


def test_wrong_settings():
    workload = make("binary")
    with pytest.raises(SettingError, match="backend"):
        fit(workload, [], backend="fast")
    with pytest.raises(SettingError, match="below 4"):
        fit(workload, [Job((4,), 0)])
    with pytest.raises(SettingError, match="memory"):
        fit_population(workload, [Job((1,), 0)], memory=0)
    with pytest.raises(ResourceError, match="memory"):
        fit_population(workload, [Job((1,), 0)], memory=100)
    with pytest.warns(FallbackWarning, match="memory"):
        assert len(fit(workload, [Job((1,), 0), Job((2,), 0)], context=Context(memory=100))) == 2
    assert fit(workload, []) == []
    for backend in ("population", "loop"):
        start = {k: v for k, v in workload.build_model(0).state_dict().items() if k != "head.weight"}
        with pytest.raises(SettingError, match=r"head\.weight"):
            fit(workload, [Job((0,), 0, start=start)], backend=backend)


def test_tasks_without_labels():
    workload = make("binary")
    workload.labels[workload.split.validation, 1] = torch.nan
    for backend in ("population", "loop"):
        with pytest.raises(WorkloadError, match="validation part for tasks 'b'"):
            fit(workload, [Job((1,), 0)], backend=backend)
        both = fit(workload, [Job((0, 1), 0)], backend=backend)[0]
        assert both.loss == both.validation[0]
        assert np.isnan(both.validation[1])


class Odd(nn.Module):
    """A model around one odd layer."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(5, 6), layer, nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.layer(self.first(x)))


class Centre(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Count(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x


class Noise(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


class Branch(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else 2 * x


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.BatchNorm1d(6), "BatchNorm1d"),
        (lambda: nn.BatchNorm1d(6, track_running_stats=False), "BatchNorm1d"),
        (lambda: nn.Dropout(0.3), "Dropout"),
        (Centre, "other rows"),
        (Count, "'layer.seen' changes"),
        (Noise, "randomness"),
        (Branch, "vmap|other rows"),
    ],
)
def test_models_that_cannot_be_stacked_are_trained_in_the_loop(layer, reason):
    workload = make("binary", build=lambda: Odd(layer()), epochs=1, rows=50)
    stackable, why = is_stackable(workload)
    assert not stackable
    jobs = [Job((0, 1), 0), Job((2,), 0)]
    import re

    assert re.search(reason, why)
    with pytest.raises(ModelError, match="cannot be trained as a population"):
        fit(workload, jobs, backend="population")
    with pytest.warns(FallbackWarning, match=reason):
        fitted = fit(workload, jobs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(workload, jobs[:1])[0].history == fitted[0].history
        assert fit(workload, jobs, backend="loop")[1].history == fitted[1].history


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x.unflatten(-1, (2, 3))).flatten(-2)


@pytest.mark.parametrize(
    "layer", [Encoder, lambda: nn.LayerNorm(6), nn.GELU, lambda: nn.Dropout(0.0), lambda: nn.PReLU(1)]
)
def test_models_that_can_be_stacked(layer):
    workload = make("binary", build=lambda: Odd(layer()), epochs=1)
    assert is_stackable(workload) == (True, "")
    jobs = [Job((0, 1), 0), Job((2,), 1)]
    for a, b in zip(fit(workload, jobs), fit(workload, jobs, backend="loop"), strict=True):
        np.testing.assert_allclose(a.validation, b.validation, rtol=1e-5)


def test_batch_norm_survives_a_last_batch_of_one_row():
    workload = make("binary", build=lambda: Odd(nn.BatchNorm1d(6)), rows=55, batch_size=8, epochs=3)
    assert len(workload.split.train) % 8 == 1
    fitted = fit_one(workload, Job((0, 1, 2, 3), 0))
    assert fitted.state["layer.num_batches_tracked"] > 0
    # nothing but the batches decides: statistics are kept with the checkpoint
    np.testing.assert_allclose(evaluate(workload, fitted.state), fitted.validation, rtol=1e-6)


def test_dropout_depends_on_the_seed_of_the_job_alone():
    workload = make("binary", build=lambda: Odd(nn.Dropout(0.5)), epochs=2)
    start = workload.build_model(0).state_dict()
    torch.manual_seed(1)
    one = fit_one(workload, Job((0, 1), 0, order_seed=0, start=start))
    torch.manual_seed(2)
    assert fit_one(workload, Job((0, 1), 0, order_seed=0, start=start)).history == one.history
    assert fit_one(workload, Job((0, 1), 1, order_seed=0, start=start)).history != one.history


class Tied(nn.Module):
    """Tied weights, a frozen parameter, a buffer drawn at random, one that all share, a scalar, inputs by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight = self.a.weight
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.heads = nn.Parameter(torch.zeros(5, 4))
        self.register_buffer("noise", torch.randn(5))
        self.register_buffer("count", torch.arange(5))
        self.register_buffer("hidden", torch.linspace(-1, 1, 5), persistent=False)

    def forward(self, left, right):
        h = torch.tanh(self.a(left) * self.frozen + self.b(torch.tanh(right)) + self.noise + self.hidden)
        return self.gain * (h + self.count) @ self.heads


def test_unusual_models_are_the_same_in_both_backends():
    from dataclasses import replace

    workload = make("binary", build=Tied, weight_decay=0.3, missing=0.2)
    x = workload.inputs
    workload = replace(workload, inputs={"left": x, "right": x.flip(1)})
    assert is_stackable(workload) == (True, "")
    jobs = [Job((0, 1), 0), Job((2,), 1), Job((3,), 1, order_seed=0)]
    jobs = [replace(job, early_stopping=False) for job in jobs]
    initial = [workload.build_model(job.seed).state_dict() for job in jobs]
    for a, b, start in zip(fit(workload, jobs), fit(workload, jobs, backend="loop"), initial, strict=True):
        assert a.state.keys() == b.state.keys() == start.keys()
        for name, value in a.state.items():
            torch.testing.assert_close(value, b.state[name], rtol=1e-5, atol=1e-6)
        for name in ("frozen", "noise", "count"):
            assert torch.equal(a.state[name], start[name])
        for task in range(4):  # heads are columns here, and start at 0
            assert bool(a.state["heads"][:, task].any()) == (task in a.job.subset)
        assert not torch.equal(a.state["gain"], start["gain"])


def test_nothing_to_train():
    def frozen():
        return nn.Linear(5, 4).requires_grad_(False)

    workload = make("binary", build=frozen)
    for backend in ("population", "loop"):
        with pytest.raises(ModelError, match="nothing to train"):
            fit(workload, [Job((0,), 0), Job((1,), 0)], backend=backend)


def test_evaluate():
    workload = make("mixed", missing=0.2)
    model = workload.build_model(0)
    model.train()
    every = evaluate(workload, model, "train")
    assert model.training
    some = evaluate(workload, model.state_dict(), "train", [1, 2])
    np.testing.assert_allclose(some[[1, 2]], every[[1, 2]], rtol=1e-6)
    assert np.isnan(some[[0, 3]]).all()
    states = [workload.build_model(seed).state_dict() for seed in (0, 1)]
    assert evaluate(workload, states, "test").shape == (2, 4)
    from reference.plain_training import task_losses

    expected = task_losses(workload, model, "train", range(4))
    np.testing.assert_allclose(every, [expected[t] for t in range(4)], rtol=1e-5)
    with pytest.raises(SettingError, match="part"):
        evaluate(workload, model, "valid")
    with pytest.raises(SettingError, match="trunk"):
        evaluate(workload, {"head.weight": model.head.weight})


@pytest.mark.slow
def test_the_population_is_faster_than_the_loop():
    import time

    from torch.nn import Linear, ReLU, Sequential

    def build():
        return Sequential(Linear(103, 64), ReLU(), Linear(64, 32), ReLU(), Linear(32, 4))

    from dataclasses import replace

    workload = make("binary", rows=1000, build=build, batch_size=50, check_every=10, patience=None)
    workload = replace(workload, inputs=torch.randn(1000, 103))
    jobs = [Job((index % 4, (index + 1) % 4), index, max_steps=100) for index in range(48)]
    fit(workload, jobs[:2])
    seconds = {}
    for backend in ("loop", "population"):
        started = time.perf_counter()
        fit(workload, jobs, backend=backend)
        seconds[backend] = time.perf_counter() - started
    assert seconds["loop"] > 2 * seconds["population"]
