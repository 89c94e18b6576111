"""A registered loss that computes what a built-in one does goes the same way through a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import coterie
from coterie import Task, from_arrays
from coterie.errors import CoterieError
from coterie.workload import MarginLoss, Recipe, losses, register_loss
from coterie.workload.losses import BinaryLoss, MulticlassLoss, RegressionLoss

UNITS = {"errors": "the mean of own errors", "chances": "own nats", "kinds": "own nats of kinds"}


class Errors(MarginLoss):
    """Squared errors, written down without the built-in loss."""

    default_ridge = RegressionLoss.default_ridge
    unit = UNITS["errors"]

    def value(self, margin: Tensor, labels: Tensor) -> Tensor:
        return (margin - labels) ** 2

    def first(self, margin: Tensor, labels: Tensor) -> Tensor:
        return 2 * (margin - labels)

    def second(self, margin: Tensor, labels: Tensor) -> Tensor:
        return 2 + torch.zeros_like(margin) * labels

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]


class Chances(BinaryLoss):
    unit = UNITS["chances"]


class Kinds(MulticlassLoss):
    unit = UNITS["kinds"]


BUILT_IN = {"errors": "regression", "chances": "binary", "kinds": "multiclass"}
rng = np.random.default_rng(0)
X = rng.normal(size=(150, 4))
Y = np.stack([1000 + 200 * X[:, 0] + 50 * rng.normal(size=150), X[:, 1] > 0, np.digitize(X[:, 2], [-0.5, 0.5])], 1)
Y = np.column_stack([Y, 3 * X[:, 0] - X[:, 3]])
METHODS = {"base models": {"bases": 1}, "real runs alone": {"trainings": 3}}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_LOSSES", dict(losses._LOSSES))
    for name, loss in (("errors", Errors()), ("chances", Chances()), ("kinds", Kinds())):
        register_loss(name, loss)


def work(*, own: bool) -> coterie.Workload:
    kinds = ["errors", "chances", "kinds", "errors"]
    kinds = kinds if own else [BUILT_IN[kind] for kind in kinds]
    tasks = [Task(f"t{place}", kind, classes=3 if place == 2 else None) for place, kind in enumerate(kinds)]
    recipe = Recipe(epochs=5, batch_size=32, check_every=4, learning_rate=0.02)
    return from_arrays(X, Y, tasks=tasks, hidden=(8,), recipe=recipe)


def numbers(result: dict[str, Any]) -> list[float]:
    """All numbers of the parts of a result that losses decide."""
    found: list[float] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict | list):
            for entry in value.values() if isinstance(value, dict) else value:
                walk(entry)
        elif isinstance(value, int | float):
            found.append(float(value))

    walk([result[part] for part in ("affinity", "grouping", "served", "comparison", "recommendation")])
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_same_numbers_and_words_of_its_own(method: str, tmp_path: Path) -> None:
    runs = {}
    for own in (False, True):
        runs[own] = coterie.run(work(own=own), out=tmp_path / str(own), groups=2, seeds=2, **METHODS[method])
    mine, theirs = (json.loads((tmp_path / str(own) / "result.json").read_text()) for own in (True, False))
    assert any("no base model" in note for note in mine["notes"]) == (method == "real runs alone")
    assert len(numbers(mine)) > 150
    np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=1e-4, atol=1e-6)
    # the levels that estimates and the noise of gains start from: the best constants of the training labels
    levels = {own: result.comparison.labels["validation"].level for own, result in runs.items()}
    np.testing.assert_allclose(levels[True], levels[False], rtol=1e-6)
    np.testing.assert_allclose(levels[True][[0, 3]], 1, rtol=0.05)
    predicted = {own: coterie.load(result).predict(X) for own, result in runs.items()}
    for name in predicted[True]:
        np.testing.assert_allclose(predicted[True][name], predicted[False][name], rtol=1e-5)
    assert abs(np.mean(predicted[True]["t0"]) - 1000) < 100
    page = (tmp_path / "True" / "report.html").read_text()
    assert all(f"for {kind} tasks {unit}" in page for kind, unit in UNITS.items())
    assert not any(unit in (tmp_path / "False" / "report.html").read_text() for unit in UNITS.values())


def test_a_run_is_served_only_where_its_loss_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coterie.run(work(own=True), out=tmp_path, groups=1, seeds=1, method="label-correlation")
    monkeypatch.setattr(losses, "_LOSSES", {name: losses._LOSSES[name] for name in BUILT_IN.values()})
    with pytest.raises(CoterieError, match="errors"):
        coterie.load(tmp_path)
