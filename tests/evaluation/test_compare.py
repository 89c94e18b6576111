"""Candidates trained for real: what is said about their losses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.errors import CoterieWarning, DataWarning
from coterie.evaluation import compare
from coterie.workload import Recipe, Task, Workload, from_arrays, losses
from coterie.workload.losses import MarginLoss, RegressionLoss


class Likelihood(RegressionLoss):
    """Negative log-likelihood of a normal distribution, below 0 where the prediction is good."""

    standardize = False

    def __init__(self, spread: float) -> None:
        self.spread = spread

    def value(self, margin: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * ((margin - labels) / self.spread) ** 2 + float(np.log(2.5066 * self.spread))

    def first(self, margin: Tensor, labels: Tensor) -> Tensor:
        return (margin - labels) / self.spread**2

    def second(self, margin: Tensor, labels: Tensor) -> Tensor:
        return torch.ones_like(margin - labels) / self.spread**2

    def constant(self, labels: Tensor) -> float:
        return MarginLoss.constant(self, labels)


def work_for(monkeypatch: pytest.MonkeyPatch, loss: MarginLoss) -> Workload:
    monkeypatch.setitem(losses._LOSSES, "own", loss)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 3)).astype("float32")
    y = 0.1 * x[:, :2] + 0.01 * rng.normal(size=(160, 2))
    recipe = Recipe(epochs=20, learning_rate=0.02, check_every=5)
    return from_arrays(x, y, tasks=[Task("a", "own"), Task("b", "regression")], hidden=(8,), recipe=recipe)


def test_losses_below_zero_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(DataWarning, match=r"Mean losses of 'a' are below 0\. .*lowest value"):
        found = compare(work_for(monkeypatch, Likelihood(0.1)), {}, seeds=1).comparison
    assert found.test[:, :, 0].min() < -0.5


@pytest.mark.parametrize("loss", [Likelihood(1.0), RegressionLoss()])
def test_other_losses_pass_silently(monkeypatch: pytest.MonkeyPatch, loss: MarginLoss) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CoterieWarning)
        compare(work_for(monkeypatch, loss), {}, seeds=1)
