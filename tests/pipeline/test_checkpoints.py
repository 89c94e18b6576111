"""Estimates around checkpoints of one's own are those of the method that trained them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import coterie
from coterie import Context, GradTAE, Recipe, estimate_from_checkpoints
from coterie.affinity.costs import prepare
from coterie.affinity.grad_tae import GRAD_TAG, SECANTS
from coterie.affinity.linearize import train_bases
from coterie.errors import SettingError

SUBSETS = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 1]], dtype=bool)


@pytest.fixture(scope="module")
def work():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6))
    y = x[:, [0, 0, 1, 2]] + x[:, [1, 2, 2, 3]] + rng.normal(size=(200, 4)) > 0
    recipe = Recipe(epochs=4, batch_size=40, learning_rate=0.02, check_every=2)
    return coterie.from_arrays(x, y.astype(float), tasks=list("abcd"), recipe=recipe, hidden=(7,))


def trained(work, settings):
    """What a method trains: checkpoints and branches."""
    prepared = prepare(work, Context())
    bases = train_bases(prepared, settings.bases, settings.share)
    ends = [dict(zip("abcd", states, strict=True)) for states in settings._forks(prepared, bases)]
    return [fit.state for fit in bases.fits], ends


def test_secants_are_those_of_the_method(work):
    settings = replace(SECANTS, bases=2)
    wanted = settings.estimate(work, Context(), 2)
    states, ends = trained(work, settings)
    affinity, gains = estimate_from_checkpoints(work, states, ends, order="pairwise")
    np.testing.assert_allclose(gains.predict(SUBSETS), wanted.model.predict(SUBSETS), atol=1e-6)
    np.testing.assert_allclose(affinity.values, wanted.model.pairwise().values, atol=1e-6)
    assert affinity.method == "secants, pairs"


@pytest.mark.parametrize(
    "settings",
    [
        replace(GRAD_TAG, count=12),
        GradTAE(directions="random", count=12, bases=2),
        GradTAE(directions="task-gradients"),
    ],
)
def test_gradients_are_those_of_the_method(work, settings):
    wanted = settings.estimate(work, Context(), 2).model.predict(SUBSETS)
    states = [fit.state for fit in train_bases(prepare(work, Context()), settings.bases, settings.share).fits]
    _, gains = estimate_from_checkpoints(work, states, method=settings)
    np.testing.assert_allclose(gains.predict(SUBSETS), wanted, atol=1e-6)


def test_modules_states_and_files_are_the_same(work, tmp_path):
    model = work.build_model(3)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    settings = GradTAE(directions="random", count=10)
    every = [
        estimate_from_checkpoints(work, [one], method=settings)[1].predict(SUBSETS)
        for one in (model, model.state_dict(), tmp_path / "model.pt", str(tmp_path / "model.pt"))
    ]
    assert all(np.array_equal(every[0], other, equal_nan=True) for other in every)
    other = estimate_from_checkpoints(work, [work.build_model(4)], method=settings)[1].predict(SUBSETS)
    assert not np.allclose(every[0], other, equal_nan=True)


def test_nothing_is_trained(work, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a training was started")

    for place in ("affinity.linearize.fit_units", "training.units.fit"):
        monkeypatch.setattr(f"coterie.{place}", refused)
    ends = [{name: work.build_model(number) for number, name in enumerate("abcd")}]
    assert estimate_from_checkpoints(work, [work.build_model(9)], ends)[0].values.shape == (4, 4)
    few = GradTAE(directions="random", count=10)
    assert estimate_from_checkpoints(work, [work.build_model(9)], method=few)[0].values.shape == (4, 4)


def test_what_does_not_fit_is_refused(work, tmp_path):
    model = work.build_model(0)
    branch = dict.fromkeys("abcd", model)
    prefixed = {f"module.{name}": value for name, value in model.state_dict().items()}
    broken = {name: value * float("nan") for name, value in model.state_dict().items()}
    (tmp_path / "odd.pt").write_text("no parameters")
    for arguments, match in [
        (([],), "is empty"),
        ((model,), r"a list of models. Found MlpModel|a list of models. Found"),
        (([prefixed],), r"checkpoints\[0\]` does not fit.*module\."),
        (([broken],), "is not finite"),
        (([3],), "Found int"),
        (([tmp_path / "odd.pt"],), "cannot be read"),
        (([tmp_path / "none.pt"],), "cannot be read"),
        (([model], [branch, branch]), "each of 1 checkpoints. Found 2"),
        (([model], [{"a": model}]), "Missing or unknown: 'b', 'c', 'd'"),
        (([model], [branch | {"z": model}]), "unknown: 'z'"),
        (([model], [branch | {"a": torch.nn.Linear(2, 2)}]), r"branches\[0\]\['a'\]` does not fit"),
    ]:
        with pytest.raises(SettingError, match=match):
            estimate_from_checkpoints(work, *arguments)
    for more, match in [
        ({"method": "tag"}, "with base models"),
        ({"method": "secants"}, "Give `branches`"),
        ({"method": "task-vectors", "branches": [branch]}, "ridge='matched' trains"),
        ({"method": "grad-tag", "branches": [branch]}, "Leave `branches` out"),
        ({"order": "none"}, "`order` should be"),
    ]:
        with pytest.raises(SettingError, match=match):
            estimate_from_checkpoints(work, [model], **more)
