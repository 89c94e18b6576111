"""Every piece of a recipe against a loop written by hand, in both backends; and what a recipe refuses."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR, ReduceLROnPlateau

from coterie import Recipe, SettingError, Task, WorkloadError, from_arrays
from coterie.errors import FallbackWarning
from coterie.training import fit
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.training.optimizer import make_optimizer, make_scheduler
from coterie.training.population import fit_population
from coterie.training.stackable import is_stackable
from coterie.workload.fingerprint import fingerprint
from reference.hand_written import train_by_hand, validation_losses
from reference.training_workloads import make

STEPS = 9
EVERYTHING = (0, 1, 2, 3)


def nadam(parameters):
    return torch.optim.NAdam(parameters, lr=5e-3)


def two_groups(parameters):
    return torch.optim.RMSprop([{"params": parameters[:2], "lr": 1e-3}, {"params": parameters[2:]}], lr=4e-3)


def one_cycle(optimizer, steps):
    return OneCycleLR(optimizer, 0.05, total_steps=steps)


decaying = partial(ExponentialLR, gamma=0.9)


def adamw(named, lr=0.02):
    return torch.optim.AdamW(named.values(), lr=lr, weight_decay=0.05)


def apart(named):
    trunk = [p for name, p in named.items() if name.startswith("trunk.")]
    first = [p for name, p in named.items() if name == "trunk.0.weight"]
    rest = [p for name, p in named.items() if not name.startswith("trunk.")]
    trunk = [p for p in trunk if p is not first[0]]
    groups = [{"params": first, "lr": 0.01}, {"params": trunk, "lr": 0.002}, {"params": rest}]
    return torch.optim.AdamW(groups, lr=0.02, weight_decay=0.05)


PIECES = {
    "factory": ({"optimizer": nadam}, {"optimizer_of": lambda named: nadam(list(named.values()))}),
    "groups": ({"optimizer": two_groups}, {"optimizer_of": lambda named: two_groups(list(named.values()))}),
    "schedule": (
        {"schedule": one_cycle},
        {"schedule_of": lambda optimizer: OneCycleLR(optimizer, 0.05, total_steps=STEPS)},
    ),
    "clip": ({"clip_norm": 0.3}, {"clip": 0.3}),
    "accumulate": ({"accumulate": 3}, {"pieces": 3}),
    "ema": ({"ema": 0.8}, {"ema": 0.8}),
    "rates": ({"rates": {"trunk": 0.1, "trunk.0.weight": 0.5}}, {"optimizer_of": apart}),
    "together": (
        {"optimizer": nadam, "schedule": decaying, "clip_norm": 0.5, "ema": 0.7, "accumulate": 2},
        {
            "optimizer_of": lambda named: nadam(list(named.values())),
            "schedule_of": decaying,
            "clip": 0.5,
            "ema": 0.7,
            "pieces": 2,
        },
    ),
}  # fmt: skip


def assert_equal_to_hand(workload, fitted, by_hand):
    states = train_by_hand(workload, fitted.job, **{"optimizer_of": adamw, **by_hand})
    for name, value in fitted.state.items():
        torch.testing.assert_close(value, states[-1][name], rtol=0, atol=1e-6)
    expected = validation_losses(workload, fitted.job, states)
    for step, loss in fitted.history:
        if step:
            assert abs(loss - expected[step - 1]) < 1e-6


@pytest.mark.parametrize("backend", ["loop", "population"])
@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_equals_a_loop_written_by_hand(piece, backend):
    settings_, by_hand = PIECES[piece]
    workload = make("mixed", missing=0.2, rows=80, **settings_)
    jobs = [Job(EVERYTHING, seed, max_steps=STEPS, early_stopping=False) for seed in (0, 1)]
    for fitted in fit(workload, jobs, backend=backend):
        assert_equal_to_hand(workload, fitted, by_hand)


def test_weights_of_classes_and_examples_equal_torch_in_both_backends():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(120, 5))
    y = np.column_stack([x[:, 0] > 0.8, np.digitize(x[:, 1], [-0.4, 0.4]), x[:, 2] + x[:, 3]]).astype(float)
    y[rng.random(y.shape) < 0.2] = np.nan
    own = rng.random(120).astype(np.float32) * (rng.random(120) > 0.2)
    recipe = Recipe(batch_size=16, learning_rate=0.02, weight_decay=0.05, class_weights={"a": [1, 4], "b": [1, 2, 3]})
    tasks = [Task("a"), Task("b", "multiclass", classes=3), Task("c", "regression")]
    workload = from_arrays(x, y, tasks=tasks, weights=own, hidden=(6,), recipe=recipe)
    labels, weights = workload.labels, np.repeat(own[:, None], 3, 1)
    weights[:, 0] *= np.where(y[:, 0] == 1, 4.0, 1.0)
    weights[:, 1] *= np.nan_to_num(y[:, 1]) + 1
    jobs = [Job((0, 1, 2), seed, max_steps=STEPS, early_stopping=False) for seed in (0, 1)]
    for backend in ("loop", "population"):
        for fitted in fit(workload, jobs, backend=backend):
            assert_equal_to_hand(workload, fitted, {"weights": torch.tensor(weights)})
    # torch's own weighted cross-entropy on a batch of one task
    rows = workload.rows_of([1], "train")[:20]
    one = replace(workload, weights=None)
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    outputs = torch.cat([torch.zeros(20, 1), logits, torch.zeros(20, 1)], 1)
    losses, share = one.losses(one.margins(outputs, one.targets[rows]), one.targets[rows]), one.label_weights[rows, 1]
    found = (losses[:, 1] * share).sum() / share.sum()
    torch.testing.assert_close(
        found, nn.functional.cross_entropy(logits, labels[rows, 1].long(), weight=torch.tensor([1.0, 2.0, 3.0]))
    )


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_sample_weight

    workload = make("mixed", rows=90, missing=0.1, class_weights="balanced")
    train = workload.split.train
    for task in (0, 2, 3):
        known = workload.observed[train, task]
        expected = compute_sample_weight("balanced", workload.targets[train, task][known].numpy())
        np.testing.assert_allclose(workload.label_weights[train, task][known].numpy(), expected, rtol=1e-6)
    assert bool((workload.label_weights[:, 1] == 1).all())  # no classes


def test_weights_go_with_balancing_in_both_backends():
    workload = make("mixed", missing=0.2, class_weights="balanced", patience=None)
    jobs = [Job(EVERYTHING, seed, max_steps=7, early_stopping=False, balancing="dwa") for seed in (0, 1)]
    loop, population = (fit(workload, jobs, backend=backend) for backend in ("loop", "population"))
    plain = fit(replace(workload, recipe=replace(workload.recipe, class_weights=None)), jobs, backend="loop")
    for a, b, c in zip(loop, population, plain, strict=True):
        np.testing.assert_allclose(a.validation, b.validation, rtol=1e-5)
        assert not np.allclose(a.validation, c.validation, rtol=1e-4)


@pytest.mark.parametrize("piece", ["schedule", "clip", "ema", "together"])
def test_the_population_with_members_that_leave_equals_the_loop(piece):
    workload = make("mixed", blocks=True, rows=96, separate=True, epochs=2, **PIECES[piece][0])
    jobs = [Job(subset, seed, max_steps=most) for seed, (subset, most) in enumerate(
        [((0,), None), ((1, 2), None), (EVERYTHING, None), ((3,), 5), ((0, 2), 5), ((1,), 0), ((2,), None)]
    )]  # fmt: skip
    for a, b in zip(fit_population(workload, jobs), [fit_one(workload, job) for job in jobs], strict=True):
        assert (a.steps, a.best_step) == (b.steps, b.best_step)
        np.testing.assert_allclose(a.validation, b.validation, rtol=2e-5)
        for name, value in b.state.items():
            torch.testing.assert_close(a.state[name], value, rtol=1e-4, atol=1e-6)


def test_bfloat16_equals_autocast_by_hand_and_is_trained_alone():
    workload = make("mixed", autocast="bfloat16")
    with pytest.warns(FallbackWarning, match="autocast"):
        fitted = fit(workload, [Job(EVERYTHING, seed, max_steps=STEPS, early_stopping=False) for seed in (0, 1)])
    for one in fitted:
        assert_equal_to_hand(workload, one, {"autocast": True})
    full = fit_one(make("mixed"), fitted[0].job)
    assert not np.allclose(full.validation, fitted[0].validation, rtol=1e-6)


def test_compiled_passes_change_nothing():
    workload = make("mixed", compile="eager")
    job = Job(EVERYTHING, 0, max_steps=5, early_stopping=False)
    a, b = fit_one(workload, job), fit_one(make("mixed"), job)
    assert all(torch.equal(a.state[name], value) for name, value in b.state.items())
    assert not is_stackable(workload)[0]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["cosine", "linear", "constant"]), st.integers(0, 30), st.integers(1, 80))
def test_named_schedules_are_those_of_transformers(name, warmup, steps):
    transformers = pytest.importorskip("transformers")
    optimizers = [torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5) for _ in range(2)]
    own = make_scheduler(Recipe(schedule=name, warmup=warmup), optimizers[0], steps)
    kind = "constant_with_warmup" if name == "constant" else name
    theirs = transformers.get_scheduler(kind, optimizers[1], num_warmup_steps=warmup, num_training_steps=steps)
    for _ in range(steps):
        assert own.get_last_lr() == pytest.approx(theirs.get_last_lr(), abs=1e-12)
        for optimizer, scheduler in zip(optimizers, (own, theirs), strict=True):
            optimizer.step()
            scheduler.step()


def test_a_share_of_warm_up_is_of_the_steps():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(Recipe(schedule="constant", warmup=0.25), optimizer, 16)
    rates = []
    for _ in range(6):
        rates += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    assert rates == [0, 0.25, 0.5, 0.75, 1, 1]


class Lookaround(torch.optim.SGD):
    """An optimiser that nobody knows."""


def by_dimension(parameters):
    return torch.optim.Adam([{"params": [p for p in parameters if p.dim() == d]} for d in (1, 2)], lr=0.01)


@pytest.mark.parametrize(("optimizer", "reason"), [(Lookaround, "Lookaround"), (by_dimension, "groups")])
def test_an_optimiser_that_stacking_would_change_is_used_in_the_loop(optimizer, reason):
    workload = make("mixed", optimizer=optimizer)
    with pytest.warns(FallbackWarning, match=reason):
        fitted = fit(workload, [Job(EVERYTHING, seed, max_steps=4, early_stopping=False) for seed in (0, 1)])
    for one in fitted:
        assert_equal_to_hand(workload, one, {"optimizer_of": lambda named: optimizer(list(named.values()))})


WRONG = [
    ({"optimizer": lambda parameters: None}, "optimizer.*NoneType.*missing return"),
    ({"optimizer": lambda parameters: 1 / 0}, "optimizer.*ZeroDivisionError"),
    ({"optimizer": lambda parameters: torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "optimizer.*1 of 1"),
    ({"optimizer": lambda parameters: torch.optim.LBFGS(list(parameters))}, "LBFGS.*several times"),
    ({"schedule": lambda optimizer: None}, "schedule.*NoneType.*missing return"),
    ({"schedule": CosineAnnealingLR}, "schedule.*failed with TypeError.*steps"),
    ({"schedule": ReduceLROnPlateau}, "schedule.*without a loss.*ReduceLROnPlateau"),
    ({"schedule": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=5)}, "schedule.*OneCycleLR.*up to 20 steps"),
    ({"rates": {"trunk": 0.5, "encoder": 0.1}}, "rates.*'encoder'"),
    ({"class_weights": {"a": [1.0]}}, "class_weights.*'a'.*2 classes"),
    ({"class_weights": {"b": [1.0, 2.0]}}, "class_weights.*'b'.*no classes"),
    ({"class_weights": {"z": [1.0, 2.0]}}, "class_weights.*'z'.*no task"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_cannot_be_used_is_said_before_anything_is_trained(wrong, words, monkeypatch):
    module = sys.modules["coterie.training.fit"]
    for name in ("fit_one", "train_chunk"):
        monkeypatch.setattr(module, name, lambda *a, **k: pytest.fail("trained"))
    workload = make("mixed", **wrong)
    with pytest.raises(SettingError, match=f"(?s){words}"):
        fit(workload, [Job((0,), 0), Job((1,), 0)])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"warmup": 3}, "warmup"),
        ({"warmup": 1.5, "schedule": "cosine"}, "warmup"),
        ({"warmup": -1, "schedule": "cosine"}, "warmup"),
        ({"schedule": "cosin"}, "schedule"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"accumulate": 0}, "accumulate"),
        ({"autocast": "float16"}, "autocast.*scaled"),
        ({"ema": 1.0}, "ema"),
        ({"rates": {"trunk": -1.0}}, "rates"),
        ({"rates": {}}, "rates"),
        ({"class_weights": "even"}, "class_weights"),
        ({"compile": 3}, "compile"),
    ],
)
def test_a_recipe_refuses(wrong, words):
    with pytest.raises(SettingError, match=words):
        Recipe(**wrong)


def test_accumulation_does_not_go_with_balancing():
    workload = make("mixed", accumulate=2)
    with pytest.raises(SettingError, match=r"accumulate.*balancing='dwa'"):
        fit(workload, [Job((0, 1), 0, balancing="dwa")])


@pytest.mark.parametrize("weights", [np.ones(59), np.ones((60, 2)), -np.ones(60), np.full(60, np.nan), ["x"] * 60])
def test_weights_of_another_shape_or_without_sense_are_refused(weights):
    x = np.random.default_rng(0).normal(size=(60, 4))
    with pytest.raises(WorkloadError, match="weights"):
        from_arrays(x, x[:, :3] + x[:, 3:], weights=weights)


def test_a_recipe_without_new_pieces_is_told_as_before():
    assert list(Recipe().to_dict()) == [
        "optimizer", "learning_rate", "weight_decay", "momentum", "epochs", "batch_size", "check_every", "patience",
    ]  # fmt: skip
    known = Recipe(schedule="cosine", warmup=3, rates={"trunk": 0.5}, class_weights={"a": (1.0, 2.0)}, ema=0.5)
    assert Recipe.from_dict(known.to_dict()).to_dict() == known.to_dict()
    assert "ema=0.5" in repr(known)
    assert "clip_norm" not in repr(known)


def factory_of(rate):
    return lambda parameters: torch.optim.NAdam(parameters, lr=rate)


def test_functions_of_the_recipe_count_for_the_fingerprint():
    def mark(**recipe):
        return fingerprint(make("mixed", **recipe))

    assert mark(optimizer=factory_of(1e-3)) == mark(optimizer=factory_of(1e-3))
    assert len({mark(), mark(optimizer=factory_of(1e-3)), mark(optimizer=factory_of(1e-2)), mark(ema=0.5)}) == 4
    assert mark(schedule=one_cycle) != mark(
        schedule=lambda optimizer, steps: OneCycleLR(optimizer, 0.1, total_steps=steps)
    )
    heavy = make("mixed")
    assert fingerprint(heavy) != fingerprint(replace(heavy, weights=torch.ones(60, 1)))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 6)

    def forward(self, x):
        return self.head(self.trunk(x))


def test_no_piece_of_a_batch_has_a_single_row():
    workload = make("mixed", build=Normed, accumulate=8, batch_size=7)
    assert np.isfinite(fit_one(workload, Job(EVERYTHING, 0, max_steps=6)).validation).all()


def test_named_optimisers_take_rates():
    parameters = {"trunk.a": nn.Parameter(torch.zeros(2)), "head": nn.Parameter(torch.zeros(2))}
    optimizer = make_optimizer(Recipe(optimizer="sgd", learning_rate=0.5, rates={"trunk": 0.1}), parameters)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]
