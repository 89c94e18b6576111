"""Losses from functions of torch: derivatives by autograd against closed ones, and several outputs a task."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

import coterie
from coterie import Recipe, SettingError, Task, WorkloadError, from_arrays
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import FocalLoss, GaussianLoss, QuantileLoss, SmoothedLoss, TorchLoss, register_loss
from coterie.workload.losses import BinaryLoss, MulticlassLoss, RegressionLoss
from reference.training_workloads import make

NAMES = (f"test loss {number}" for number in itertools.count())
BUILT_IN = [
    (BinaryLoss(), TorchLoss(lambda h, y: binary_cross_entropy_with_logits(h, y, reduction="none"), discrete=True)),
    (RegressionLoss(), TorchLoss(lambda h, y: (h - y) ** 2)),
]


def registered(loss):
    name = next(NAMES)
    register_loss(name, loss)
    return name


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(BUILT_IN), st.floats(-8, 8), st.sampled_from([0.0, 1.0]))
def test_derivatives_by_autograd_are_the_closed_ones(pair, margin, label):
    closed, made = pair
    h, y = torch.tensor([margin, 0.1], dtype=torch.float64), torch.tensor([label, 1.0], dtype=torch.float64)
    for what in ("value", "first", "second", "curvature"):
        torch.testing.assert_close(getattr(made, what)(h, y), getattr(closed, what)(h, y), rtol=1e-9, atol=1e-9)


def test_a_function_of_torch_trains_as_the_built_in_loss_in_both_backends():
    plain = make("binary", missing=0.2)
    name = registered(TorchLoss(lambda h, y: binary_cross_entropy_with_logits(h, y, reduction="none"), discrete=True))
    made = replace(plain, tasks=tuple(Task(task.name, name) for task in plain.tasks))
    jobs = [Job((0, 1), seed, max_steps=6) for seed in (0, 1)]
    for backend in ("loop", "population"):
        for a, b in zip(fit(plain, jobs, backend=backend), fit(made, jobs, backend=backend), strict=True):
            np.testing.assert_allclose(a.validation, b.validation, rtol=1e-5)


def test_the_square_root_of_a_loss_is_a_margin_whose_square_it_is():
    loss = TorchLoss(lambda outputs, labels: (outputs.sum(-1) - labels) ** 2, outputs=2)
    outputs = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.randn(7, dtype=torch.float64)
    h = loss.margin(outputs, labels)
    torch.testing.assert_close(loss.value(h, labels), (outputs.sum(-1) - labels) ** 2)
    (through,) = torch.autograd.grad((loss.first(h.detach(), labels) * h).sum(), outputs, retain_graph=True)
    (own,) = torch.autograd.grad(((outputs.sum(-1) - labels) ** 2).sum(), outputs)
    torch.testing.assert_close(through, own)
    assert torch.autograd.gradcheck(lambda h: loss.value(h, labels), (h.detach().requires_grad_(),))


def test_quantiles_are_those_of_scikit_learn_and_of_the_sample():
    loss, rng = QuantileLoss(0.1, 0.5, 0.9), np.random.default_rng(0)
    y, q = rng.normal(size=50), rng.normal(size=(50, 3))
    found = loss.function(torch.tensor(q), torch.tensor(y)).mean()
    expected = np.mean([mean_pinball_loss(y, q[:, i], alpha=level) for i, level in enumerate(loss.levels)])
    assert float(found) == pytest.approx(expected)
    sample = np.quantile(y, loss.levels)
    best = np.mean([mean_pinball_loss(y, np.full(50, sample[i]), alpha=a) for i, a in enumerate(loss.levels)])
    assert loss.constant(torch.tensor(y)) == pytest.approx(best, rel=5e-3)


def test_the_gaussian_loss_is_the_negative_log_likelihood_of_scipy():
    loss, rng = GaussianLoss(least=0.1), np.random.default_rng(0)
    outputs, y = torch.tensor(rng.normal(size=(20, 2))), torch.tensor(rng.normal(size=20))
    mean, deviation = loss.predict(outputs).T.numpy()
    lowest = -norm.logpdf(0, 0, 0.1)
    np.testing.assert_allclose(loss.function(outputs, y).numpy(), -norm.logpdf(y, mean, deviation) - lowest)
    assert bool((loss.function(outputs, y) >= 0).all())
    served = loss.decode(outputs, 100.0, 5.0).numpy()
    np.testing.assert_allclose(served, np.stack([100 + 5 * mean, 5 * deviation], 1))
    best = -norm.logpdf(y, y.mean(), y.std(unbiased=False)).mean() - lowest
    assert loss.constant(y) == pytest.approx(best, rel=1e-4)


def test_focal_and_smoothed_losses_are_what_they_are_called():
    h, y = torch.randn(30, dtype=torch.float64), torch.tensor([0.0, 1.0] * 15, dtype=torch.float64)
    log_loss = binary_cross_entropy_with_logits(h, y, reduction="none")
    torch.testing.assert_close(FocalLoss(0.0).value(h, y), log_loss)
    torch.testing.assert_close(FocalLoss(2.0).value(h, y), (1 - torch.exp(-log_loss)) ** 2 * log_loss)
    z, c = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 4, (30,))
    expected = cross_entropy(z, c, label_smoothing=0.2, reduction="none")
    loss = SmoothedLoss(0.2)
    torch.testing.assert_close(loss.value(loss.margin(z, c.double()), c.double()), expected)
    smooth = SmoothedLoss(0.0)
    plain = MulticlassLoss()
    torch.testing.assert_close(smooth.value(smooth.margin(z, c), c), plain.value(plain.margin(z, c), c))


def quantile_work(**recipe):
    """Four tasks with quantiles and two with a normal distribution of their own width, in large units."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 4))
    noise = rng.normal(size=(240, 4)) * (0.3 + np.abs(x[:, [2]]))
    y = 1000 + 50 * (x[:, [0, 0, 1, 1]] + noise)
    quantiles, normal = registered(QuantileLoss(0.1, 0.5, 0.9)), registered(GaussianLoss())
    tasks = [Task("a", quantiles), Task("b", quantiles), Task("c", normal), Task("d", normal)]
    recipe = Recipe(**{"epochs": 12, "batch_size": 32, "learning_rate": 0.02, **recipe})
    return from_arrays(x, y, tasks=tasks, recipe=recipe, hidden=(12,)), x, y


@pytest.mark.parametrize("method", ["secants", "fused"])
def test_quantile_and_gaussian_tasks_go_through_run_report_and_serving(tmp_path, method):
    work, x, y = quantile_work()
    assert [task.width for task in work.tasks] == [3, 3, 2, 2]
    options = {"trainings": 4} if method == "fused" else {}
    result = coterie.run(
        work, groups=2, seeds=2, method=method, bases=1, metrics=["r2"], out=tmp_path / method, **options
    )
    assert np.isfinite(result.affinity.values[~np.eye(4, dtype=bool)]).all()
    served = coterie.load(tmp_path / method).predict(x)
    rows = work.split.test.numpy()
    low, middle, high = served["a"][rows].T
    assert ((low <= middle) & (middle <= high)).all()
    inside = np.mean((low < y[rows, 0]) & (y[rows, 0] < high))
    assert 0.55 < inside < 1.0  # 80 % are meant
    mean, deviation = served["c"][rows].T
    assert abs(np.mean(mean) - 1000) < 40
    assert 10 < np.mean(deviation) < 150
    page = (tmp_path / method / "report.html").read_text()
    assert "pinball" in page
    assert "negative log-likelihood" in page
    r2 = result.comparison.metric("r2").values("test")
    assert np.isfinite(r2).all()
    assert r2.mean() > 0.1


@pytest.mark.parametrize("method", ["tag", "cosine", "grad-tag", "kernel-surrogate", "label-correlation"])
def test_other_methods_take_such_losses(method):
    work, _, _ = quantile_work(epochs=2)
    affinity, _ = coterie.estimate_affinity(work, method=method)
    assert np.isfinite(affinity.values[~np.eye(4, dtype=bool)]).all()


@pytest.mark.parametrize("method", ["taxonomy", "attribution"])
def test_methods_that_look_at_one_output_say_so(method):
    work, _, _ = quantile_work(epochs=2)
    with pytest.raises(SettingError, match=f"(?s)'{method}' looks at one output.*'a' reads.*secants"):
        coterie.estimate_affinity(work, method=method)


def test_secants_predict_losses_of_subsets_from_their_square_roots():
    """Predicted losses of subsets stay above 0 and are near those of real trainings."""
    work, _, _ = quantile_work(epochs=6)
    _, model = coterie.estimate_affinity(work, method="secants", bases=2)
    subsets = [(0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (0, 1, 2), (0, 1, 2, 3)]
    predicted = model.predict_values([list(subset) for subset in subsets])
    jobs = [Job(subset, seed) for subset in subsets for seed in range(3)]
    real = np.array([one.validation for one in fit(work, jobs)]).reshape(len(subsets), 3, 4).mean(1)
    known = np.isfinite(real)
    assert (predicted[known] > 0).all()
    level = np.broadcast_to(np.nanmean(real, 0), real.shape)
    error = np.abs(predicted - real)[known] / level[known]
    assert np.median(error) < 0.15


WRONG = [
    (lambda: TorchLoss(3), SettingError, "function.*callable"),
    (lambda: TorchLoss(lambda h, y: h, outputs=0), SettingError, "outputs"),
    (lambda: TorchLoss(lambda h, y: h, lowest=float("inf")), SettingError, "lowest"),
    (lambda: QuantileLoss(0.5), SettingError, "levels"),
    (lambda: QuantileLoss(0.9, 0.1), SettingError, "levels"),
    (lambda: GaussianLoss(least=0), SettingError, "least"),
    (lambda: FocalLoss(-1), SettingError, "gamma"),
    (lambda: SmoothedLoss(1.0), SettingError, "smoothing"),
]


@pytest.mark.parametrize(("make_it", "error", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_losses_refuse(make_it, error, words):
    with pytest.raises(error, match=words):
        make_it()


def test_a_function_that_averages_is_refused_before_anything_is_trained():
    name = registered(TorchLoss(lambda outputs, labels: ((outputs[..., 0] - labels) ** 2).mean(), outputs=2))
    x = np.random.default_rng(0).normal(size=(60, 3))
    work = from_arrays(x, x[:, :2] + x[:, 1:], tasks={"a": name, "b": name}, recipe=Recipe(epochs=1))
    with pytest.raises(WorkloadError, match=r"one loss for each label.*mean over the batch"):
        coterie.run(work, seeds=1)
