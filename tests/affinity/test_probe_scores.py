"""TAG, cosine and ETAP from one probe run: against plain loops, by hand, and in the limit of small steps."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coterie import Context
from coterie.affinity import get_estimator
from coterie.affinity.scores.cosine import Cosine
from coterie.affinity.scores.etap import Etap
from coterie.affinity.scores.gradient_probe import ahead
from coterie.affinity.scores.probe import Probe, run_probe
from coterie.affinity.scores.probe_score import filled_scores
from coterie.affinity.scores.tag import Tag
from coterie.errors import FallbackWarning, ModelError, ResourceError, SettingError
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.training.optimizer import make_optimizer
from coterie.workload import Recipe, Split, Task, Workload
from coterie.workload.structure import find_structure
from reference.counting_store import CountingStore
from reference.plain_training import Textbook
from reference.probe_scores import probe_scores
from reference.training_workloads import make

OFF = ~np.eye(4, dtype=bool)


def exact(workload):
    """The same workload in double precision."""
    build = workload.build_model
    return replace(
        workload,
        inputs=workload.inputs.double(),
        labels=workload.labels.double(),
        build_model=lambda seed: build(seed).double(),
    )


def trunk_of(workload):
    return find_structure(workload, workload.build_model(0)).trunk


def everything(workload, seed=0):
    return Job(tuple(range(workload.n_tasks)), seed)


def mean(run, name):
    with np.errstate(invalid="ignore"):
        return run.sums[name] / run.sums[f"n_{name}"]


class Plain(torch.autograd.Function):
    """tanh without a rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (value,) = ctx.saved_tensors
        return gradient * (1 - torch.from_numpy(value.numpy(force=True)) ** 2)


class Unstackable(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(Plain.apply(self.trunk(x)))


class Noisy(nn.Module):
    """Dropout and batch normalisation."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.trunk(x))


class Restless(nn.Module):
    """Draws random numbers in evaluation too."""

    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.trunk(x) + 0.1 * torch.randn(6))


class Scalar(nn.Module):
    """Prediction w_t theta: one shared number, one number a task."""

    def __init__(self, weights):
        super().__init__()
        self.theta = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, x):
        return x * self.theta * self.weights


def by_hand(**recipe):
    """Two regression tasks, w = (1, 2), theta = 1, labels 0: losses (1, 4), gradients (2, 8); one step."""
    rows = torch.arange(4)
    return Workload(
        name="two",
        tasks=(Task("a", "regression"), Task("b", "regression")),
        inputs=torch.ones(4, 1, dtype=torch.float64),
        labels=torch.zeros(4, 2, dtype=torch.float64),
        split=Split(rows, rows, rows),
        build_model=lambda seed: Scalar([1.0, 2.0]),
        recipe=Recipe(optimizer="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0, epochs=1, **recipe),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_look_ahead_is_the_step_of_the_optimizer_and_changes_nothing(optimizer, steps):
    recipe = Recipe(optimizer=optimizer, learning_rate=0.1, weight_decay=0.2)
    shapes = [(3, 2), (2,), ()]
    generator = torch.Generator().manual_seed(steps)

    def draw(*leading):
        return [torch.randn((*leading, *shape), generator=generator, dtype=torch.float64) for shape in shapes]

    real, plain = [nn.Parameter(v) for v in draw()], None
    plain = {str(i): nn.Parameter(p.detach().clone()) for i, p in enumerate(real)}
    used, textbook = make_optimizer(recipe, real), Textbook(recipe)
    for _ in range(steps):
        for p, q, g in zip(real, plain.values(), draw(), strict=True):
            p.grad, q.grad = g, g.clone()
        used.step()
        textbook.step(plain)
    before = [p.detach().clone() for p in real]
    memory = {(i, k): v.clone() for i, p in enumerate(real) for k, v in used.state.get(p, {}).items()}
    gradients = draw(2)
    kept = [g.clone() for g in gradients]
    found = ahead(used, real, gradients)
    assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))
    assert all(torch.equal(a, b.detach()) for a, b in zip(before, real, strict=True))
    assert all(torch.equal(v, used.state[real[i]][k]) for (i, k), v in memory.items())
    for one in range(2):
        twin, named = copy.deepcopy(textbook), {k: nn.Parameter(v.detach().clone()) for k, v in plain.items()}
        for p, g in zip(named.values(), gradients, strict=True):
            p.grad = g[one]
        twin.step(named)
        for value, p in zip(found, named.values(), strict=True):
            torch.testing.assert_close(value[one], p.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("step", ["optimizer", "sgd"])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("binary", {"optimizer": "adamw"}),
        ("mixed", {"optimizer": "adamw", "missing": 0.4, "separate": True}),
        ("mixed", {"optimizer": "sgd", "missing": 0.4}),
        ("regression", {"optimizer": "sgd", "blocks": True, "weight_decay": 0.0}),
        ("multiclass", {"optimizer": "adam"}),
    ],
)
def test_scores_are_those_of_plain_loops(kind, more, step):
    workload = exact(make(kind, **more))
    tag = Tag(every=3, step=step)
    rate = workload.recipe.learning_rate if step == "sgd" else None
    expected = probe_scores(workload, trunk_of(workload), seed=1, every=3, rate=rate)
    pairs = {"tag": tag, "etap": Etap(every=3), "cosine": Cosine(every=3), "cosine_all": Cosine(every=3, vectors=True)}
    off = ~np.eye(workload.n_tasks, dtype=bool)
    for name, method in pairs.items():
        affinity = method.estimate(workload, context=Context(seed=1)).model.affinity
        values, counts, pooled = expected[name]
        assert np.array_equal(affinity.counts, counts)
        assert counts[off].min() > 0
        np.testing.assert_allclose(affinity.values, values, rtol=1e-7, atol=1e-9)
        affinity = replace(method, average="pooled").estimate(workload, context=Context(seed=1)).model.affinity
        np.testing.assert_allclose(affinity.values, pooled, rtol=1e-7, atol=1e-9)


def test_single_precision_agrees_too():
    workload = make("mixed", missing=0.2)
    expected = probe_scores(workload, trunk_of(workload), seed=0, every=3)
    run = run_probe(workload, trunk_of(workload), everything(workload), Probe(every=3))
    for name, (values, _, _) in expected.items():
        np.testing.assert_allclose(mean(run, name), values, rtol=2e-2, atol=2e-4)


def test_rows_are_targets():
    workload = by_hand()
    tag = Tag(step="sgd").estimate(workload).model.affinity.values
    assert tag[0, 1] == pytest.approx(1 - 0.2**2)  # a step for b: theta = 1 - 0.1 * 8
    assert tag[1, 0] == pytest.approx(1 - 0.8**2)  # a step for a: theta = 1 - 0.1 * 2
    etap = Etap().estimate(workload).model.affinity.values
    assert etap[0, 1] == pytest.approx(2 * 8 / 1)
    assert etap[1, 0] == pytest.approx(2 * 8 / 4)
    # the shared numbers have no tensor of two dimensions, so all of them count
    assert Cosine().estimate(workload).model.affinity.values[0, 1] == pytest.approx(1)


def test_the_rate_scales_the_step_and_can_be_divided_out():
    workload = by_hand()
    found = Tag(step="sgd", rate=0.05, per_rate=True).estimate(workload).model.affinity.values
    assert found[1, 0] == pytest.approx((1 - 0.9**2) / 0.05)
    own = Tag(per_rate=True).estimate(workload).model.affinity.values
    assert own[1, 0] == pytest.approx((1 - 0.8**2) / 0.1)


def test_decay_and_momentum_are_part_of_the_step():
    workload = by_hand()
    decayed = replace(workload, recipe=replace(workload.recipe, weight_decay=0.5))
    assert Tag().estimate(decayed).model.affinity.values[1, 0] == pytest.approx(1 - (1 - 0.1 * (2 + 0.5)) ** 2)


def test_tag_with_small_steps_becomes_etap():
    workload = exact(make("mixed", missing=0.2))
    trunk, job = trunk_of(workload), everything(workload)
    first_order = mean(run_probe(workload, trunk, job, Probe(every=4)), "etap")
    errors = []
    for rate in (2e-3, 1e-3, 5e-4):
        tag = mean(run_probe(workload, trunk, job, Probe(every=4, rate=rate)), "tag") / rate
        errors.append((tag - first_order)[OFF])
    assert np.abs(errors[0]).max() > 1e-4  # there is something to halve
    for coarse, fine in pairwise(errors):
        assert np.linalg.norm(fine) / np.linalg.norm(coarse) == pytest.approx(0.5, abs=0.01)


@settings(max_examples=4)
@given(order=st.permutations(range(4)), seed=st.integers(0, 3), optimizer=st.sampled_from(["adamw", "sgd"]))
def test_renaming_tasks_renames_scores(order, seed, optimizer):
    workload = exact(make("mixed", missing=0.2, separate=True, optimizer=optimizer, epochs=2))

    class Reordered(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            found = self.model(x)
            return [found[task] for task in order]

    renamed = replace(
        workload,
        tasks=tuple(workload.tasks[task] for task in order),
        labels=workload.labels[:, order],
        build_model=lambda seed: Reordered(workload.build_model(seed)),
    )
    where = np.ix_(order, order)
    for method in (Tag(every=2), Etap(every=2), Cosine(every=2)):
        first = method.estimate(workload, context=Context(seed=seed)).model.affinity
        second = method.estimate(renamed, context=Context(seed=seed)).model.affinity
        np.testing.assert_allclose(second.values, first.values[where], rtol=1e-6, atol=1e-9)
        if method.name == "cosine":
            assert np.abs(first.values).max() <= 1 + 1e-9
            np.testing.assert_allclose(first.values[OFF], first.values.T[OFF])


@pytest.mark.parametrize("build", [None, Noisy, Restless])
def test_measuring_does_not_disturb_training(build):
    workload = make("binary", missing=0.2, build=build, patience=2, epochs=6)
    job, trunk = everything(workload, 3), trunk_of(workload)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    plain = fit_one(workload, job)
    run = run_probe(workload, trunk, job, Probe(every=1))
    assert torch.equal(state, torch.get_rng_state())
    assert run.work["measurements"] == plain.steps
    assert run.fit.history == plain.history
    assert (run.fit.steps, run.fit.best_step) == (plain.steps, plain.best_step)
    assert np.array_equal(run.fit.validation, plain.validation)
    assert all(torch.equal(value, run.fit.state[name]) for name, value in plain.state.items())


def test_batch_normalisation_is_measured_with_its_running_statistics():
    workload = exact(make("binary", build=lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))))
    expected = probe_scores(workload, trunk_of(workload), seed=0, every=2)
    run = run_probe(workload, trunk_of(workload), everything(workload), Probe(every=2))
    for name, (values, _, _) in expected.items():
        np.testing.assert_allclose(mean(run, name), values, rtol=1e-6, atol=1e-8)


def test_models_that_cannot_be_stacked_are_measured_task_by_task():
    workload = make("binary", build=Unstackable)
    expected = probe_scores(workload, trunk_of(workload), seed=0, every=3)
    with pytest.warns(FallbackWarning, match="one after the other"):
        run = run_probe(workload, trunk_of(workload), everything(workload), Probe(every=3))
    for name, (values, _, _) in expected.items():
        np.testing.assert_allclose(mean(run, name), values, rtol=1e-3, atol=1e-4)


def test_little_memory_gives_the_same_and_too_little_is_refused():
    workload = exact(make("mixed", missing=0.3))
    trunk, job = trunk_of(workload), everything(workload)
    whole = run_probe(workload, trunk, job, Probe())
    for memory in (4_000, 25_000):
        parts = run_probe(workload, trunk, job, Probe(), memory=memory)
        for name in ("tag", "etap", "cosine"):
            np.testing.assert_allclose(mean(parts, name), mean(whole, name), rtol=1e-8, atol=1e-10)
    with pytest.raises(ResourceError, match="gradients of 4 tasks"):
        run_probe(workload, trunk, job, Probe(), memory=1_000)


def test_three_scores_share_one_run_and_each_books_what_it_costs_alone():
    workload, store = make("mixed"), CountingStore()
    alone, shared = {}, {}
    for name in ("tag", "cosine", "etap"):
        alone[name] = get_estimator(name, every=2).estimate(workload)
        shared[name] = get_estimator(name, every=2).estimate(workload, context=Context(store=store))
        assert shared[name].costs.flops == alone[name].costs.flops
        assert np.array_equal(shared[name].model.affinity.values, alone[name].model.affinity.values)
    assert len(store.computed) == 1
    assert alone["tag"].costs.flops > alone["cosine"].costs.flops == alone["etap"].costs.flops
    assert {row["stage"] for row in shared["tag"].costs.rows()} - {
        row["stage"] for row in shared["etap"].costs.rows()
    } == {"look ahead"}
    Tag(every=2, step="sgd").estimate(workload, context=Context(store=store))
    Tag(every=3).estimate(workload, context=Context(store=store))
    assert len(store.computed) == 3


@pytest.mark.parametrize("method", [Tag(every=1), Etap(every=1)])
def test_booked_flops_are_those_that_are_counted(method):
    def build():
        return nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 4))

    # batches of 12 divide the 36 training rows, so that no batch is smaller than is booked
    workload = make("binary", batch_size=12, build=build)
    trunk, lookahead = trunk_of(workload), method.name == "tag"
    counter = FlopCounterMode(display=False)
    with counter:
        run_probe(
            workload,
            trunk,
            everything(workload),
            Probe(every=1, gram=not lookahead, lookahead=lookahead),
        )
    # booked is the whole backward pass of a task, of which the head's weights are not needed
    assert 0.95 < counter.get_total_flops() / method.estimate(workload).costs.flops <= 1


def test_several_runs_are_averaged():
    workload = exact(make("binary"))
    trunk = trunk_of(workload)
    runs = [run_probe(workload, trunk, everything(workload, seed), Probe(every=2)) for seed in (4, 5)]
    pooled = sum(run.sums["tag"] for run in runs) / sum(run.sums["n_tag"] for run in runs)
    estimate = Tag(every=2, runs=2).estimate(workload, context=Context(seed=4))
    np.testing.assert_allclose(estimate.model.affinity.values[OFF], pooled[OFF])
    one = Tag(every=2).estimate(workload, context=Context(seed=4))
    assert estimate.costs.flops > 1.5 * one.costs.flops


def test_pairs_that_were_never_measured_get_the_mean_of_their_target():
    nan = np.nan
    filled, missing = filled_scores(np.array([[9.0, 1.0, 2.0], [nan, nan, 4.0], [nan, nan, nan]]))
    assert filled.tolist() == [[9.0, 1.0, 2.0], [4.0, 4.0, 4.0], [7 / 3] * 3]
    assert missing == 3
    lonely = make("regression", rows=90, blocks=True, batch_size=2, epochs=1)
    estimate = Tag(every=5).estimate(lonely)
    assert (estimate.model.affinity.counts[OFF] == 0).any()
    assert "never measured together" in estimate.notes[0]
    assert np.isfinite(estimate.model.affinity.values).all()


def test_a_loss_of_zero_is_no_denominator():
    workload = by_hand()
    workload = replace(workload, labels=torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(4, 2).clone())
    run = run_probe(workload, trunk_of(workload), everything(workload), Probe())
    assert run.sums["n_tag"].tolist() == [[0, 0], [1, 1]]
    assert run.sums["n_etap"].tolist() == [[0, 0], [1, 1]]
    assert run.sums["n_cosine"].tolist() == [[0, 0], [0, 1]]  # a gradient of 0 has no direction


def test_a_look_ahead_that_diverges_is_an_error():
    workload = make("regression")
    with pytest.raises(ModelError, match="step for one task alone"):
        run_probe(workload, trunk_of(workload), everything(workload), Probe(rate=1e38))


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        (Tag, {"every": 0}, "every"),
        (Etap, {"runs": 0}, "runs"),
        (Tag, {"step": "newton"}, "step"),
        (Etap, {"average": "median"}, "average"),
        (Tag, {"rate": 0.1}, "rate.*sgd"),
        (Tag, {"step": "sgd", "rate": -1.0}, "rate"),
        (Cosine, {"vectors": "no"}, "vectors"),
    ],
)
def test_settings_are_checked(method, options, match):
    with pytest.raises(SettingError, match=match):
        method(**options)
