"""Metrics that fail, have no value, or are named wrongly."""

import math

import numpy as np
import pytest
import torch

from coterie import Recipe, SettingError, Task, from_arrays
from coterie.errors import ModelError
from coterie.evaluation import Metric, compare
from coterie.evaluation.metrics import measure
from coterie.workload import TorchLoss, register_loss


def made(rare=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (x[:, :2] + rng.normal(size=(200, 2)) > 0).astype(float)
    work = from_arrays(x, y, tasks=[Task("a"), Task("b")], hidden=(4,), recipe=Recipe(epochs=1))
    if rare is not None:
        y[getattr(work.split, rare).numpy(), 1] = 0
        work = from_arrays(x, y, tasks=[Task("a"), Task("b")], hidden=(4,), recipe=Recipe(epochs=1), split=work.split)
    return work


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_deciding_metric_without_a_value_is_refused(part):
    with pytest.raises(SettingError, match=f"'auroc' has no value for task 'b' on {part} data: all .* are 0"):
        compare(made(part), {}, seeds=1, decide_by="auroc")
    nothing = Metric(lambda y, p: math.nan, name="v")
    with pytest.raises(SettingError, match=r"'v' has no value for task 'a'.*NaN"):
        compare(made(), {}, seeds=1, metrics=[nothing], decide_by="v")


def test_a_deciding_metric_is_found_by_its_name():
    right = Metric(lambda y, p: float(((p > 0.5) == y).mean()), name="v")
    comparison = compare(made(), {}, seeds=1, metrics=[right], decide_by="v").comparison
    assert comparison.decided_by == "v"
    for candidate, part in ((99, "test"), (0, "tst")):
        with pytest.raises(SettingError, match=r"candidate|part"):
            comparison.metric("v").interval(candidate, part)
    with pytest.raises(SettingError, match="decide_by"):
        compare(made(), {}, seeds=1, metrics=[right], decide_by="w")
    with pytest.raises(SettingError, match=r"No metric was asked for.*metrics="):
        compare(made(), {}, seeds=1).comparison.metric("x")


def test_a_failure_on_a_draw_with_all_classes_is_told_with_its_task():
    labels, scores = np.array([0.0, 1.0, 0.0, 1.0]), np.full(4, 0.5)
    weights = np.array([[1.0, 1, 1, 1], [2, 2, 0, 0]])

    with pytest.raises(SettingError, match=r"IndexError.*task 'a'"):
        measure(Metric(lambda y, p: [0.5][0 if y[1] else 1], name="v"), labels, scores, weights, "a")
    lacking = np.array([[1.0, 1, 1, 1], [4, 0, 0, 0]])
    assert np.isnan(measure(Metric(lambda y, p: [0.5][0 if y[1] else 1]), labels, scores, lacking)[1])


def test_names_are_words():
    for make in (lambda: Metric(len, name=""), lambda: register_loss("", TorchLoss(lambda o, y: o - y))):
        with pytest.raises(SettingError, match="name"):
            make()


@pytest.mark.parametrize("function", [lambda o, y: None, lambda o, y: o.numpy(), lambda o: o])
def test_a_loss_that_returns_no_tensor_is_named(function):
    with pytest.raises(ModelError, match="'<lambda>' of a loss"):
        TorchLoss(function).value(torch.zeros(3), torch.zeros(3))
