"""Weights from losses against references written from the equations, and against TorchJD's scalarizers."""

import math

import numpy as np
import pytest
import torch

from coterie.balancing import get_balancer
from coterie.balancing.shares import SoftmaxShares, complete, everyone
from coterie.errors import SettingError
from reference.balancing_problems import Quadratics, setting
from reference.famo import NaiveFamo
from reference.task_weights import dynamic_weights, random_weights


def moving(losses):
    """Losses with a graph, so that a balancer learns from them."""
    return torch.tensor(losses, dtype=torch.float64, requires_grad=True) * 1


def famo_run(balancer, steps=40, **options):
    """Losses before, losses after, and weights of each step of a training."""
    problem = Quadratics(4, seed=3)
    optimizer = torch.optim.SGD([problem.x], lr=0.02)
    rows = []
    for _ in range(steps):
        before = balancer.step(problem.losses, optimizer, **options)
        rows.append((before, problem.losses().detach(), balancer.weights.clone(), problem.x.detach().clone()))
    return rows


def test_famo_equals_the_reference_step_for_step():
    naive = NaiveFamo(4, decay=0.01, floor=0.05)
    for before, after, weights, _ in famo_run(get_balancer("famo", 4, decay=0.01, floor=0.05)):
        np.testing.assert_allclose(weights.numpy(), naive.weights(before.tolist()), rtol=1e-10)
        naive.update(before.tolist(), after.tolist())
    assert max(naive.logits) - min(naive.logits) > 0.1


def test_famo_equals_torchjd():
    scalarization = pytest.importorskip("torchjd.scalarization")
    other = scalarization.FAMO(4).double()
    problem = Quadratics(4, seed=3)
    optimizer = torch.optim.SGD([problem.x], lr=0.02)
    for *_, x in famo_run(get_balancer("famo", 4)):
        optimizer.zero_grad()
        other(problem.losses()).backward()
        optimizer.step()
        other.update(problem.losses())
        torch.testing.assert_close(problem.x.detach(), x, rtol=1e-10, atol=1e-12)


def test_the_amortised_form_on_the_same_batch_with_log_is_famo():
    same = get_balancer("marigold-same", 4, phi="log")
    for ours, famo in zip(famo_run(same), famo_run(get_balancer("famo", 4)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, famo, strict=True))
    identity = famo_run(get_balancer("marigold-same", 4))
    assert not torch.equal(identity[-1][3], famo[3])


def test_the_amortised_slopes_are_those_of_the_step():
    """Plain gradient descent: the change over the step, divided by the rate, is the probe's slope at mu = rate."""
    problem = Quadratics(3, seed=5)
    rate = 1e-5
    balancer = get_balancer(
        "marigold-same", 3, phi="identity", form="simplex", adaptive=False, learning_rate=1e-3, rate=rate
    )
    gradients = problem.gradients()
    slopes = gradients @ gradients.mean(0)
    balancer.step(problem.losses, torch.optim.SGD([problem.x], lr=rate))
    moved = balancer.lower.shares.shares - 1 / 3
    torch.testing.assert_close(moved, -1e-3 * (slopes - slopes.mean()), rtol=1e-3, atol=1e-9)


def test_the_next_batch_is_compared_with_a_running_mean():
    rng = np.random.default_rng(0)
    rows = np.exp(rng.normal(size=(20, 3)))
    rows[rng.random(rows.shape) < 0.3] = math.nan
    rows[:, 0] = 1.0
    options = {"adaptive": False, "learning_rate": 0.01, "memory": 0.8, "rate": 0.5}
    balancer = get_balancer("marigold-next", 3, phi="log", form="simplex", **options)
    shares, mean = np.full(3, 1 / 3), np.full(3, math.nan)
    for row in rows:
        balancer.total(moving(row.tolist()))
        with np.errstate(invalid="ignore"):
            fell = (mean - np.log(row + 1e-8)) / 0.5
        use = np.isfinite(fell)
        if use.any():
            # far from the border of the simplex the projection takes away the mean
            shares[use] -= shares[use].sum() * 0.01 * (fell[use] - fell[use].mean())
        mean = np.where(np.isnan(mean), np.log(row + 1e-8), np.where(use, 0.8 * mean + 0.2 * np.log(row + 1e-8), mean))
        np.testing.assert_allclose(balancer.lower.shares.shares.numpy(), shares, atol=1e-12)
        factors = np.where(np.isnan(row), 0, shares / (row + 1e-8))
        np.testing.assert_allclose(balancer.weights.numpy(), factors / np.nansum(factors), atol=1e-12)
    assert shares.min() > 0.01


def test_uncertainty_equals_a_trained_parameter():
    """The same as a log variance in an ordinary torch Adam, and as TorchJD's scalarizer."""
    scalarization = pytest.importorskip("torchjd.scalarization")
    ours, theirs = Quadratics(4, seed=2), Quadratics(4, seed=2)
    balancer = get_balancer("uncertainty", 4, learning_rate=0.05)
    other = scalarization.UW(4).double()
    first, second = torch.optim.SGD([ours.x], lr=0.05), torch.optim.SGD([theirs.x], lr=0.05)
    adam = torch.optim.Adam(other.parameters(), lr=0.05)
    for _ in range(30):
        balancer.step(ours.losses, first)
        second.zero_grad()
        adam.zero_grad()
        total = other(theirs.losses()) / 4
        total.backward()
        second.step()
        adam.step()
        torch.testing.assert_close(balancer.log_variance, other.log_var.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.x, theirs.x, rtol=1e-10, atol=1e-12)
    assert float(balancer.log_variance.abs().max()) > 0.1


def test_uncertainty_settles_at_the_logarithm_of_the_loss():
    balancer = get_balancer("uncertainty", 3, learning_rate=0.05)
    for _ in range(400):
        total = balancer.total(moving([0.5, 1.0, 4.0]))
    np.testing.assert_allclose(balancer.log_variance.numpy(), np.log([0.5, 1.0, 4.0]), atol=0.02)
    assert float(total.detach()) == pytest.approx(np.mean(0.5 + 0.5 * np.log([0.5, 1.0, 4.0])), abs=1e-3)


@pytest.mark.parametrize("window", [1, 4])
def test_dwa_equals_the_reference(window):
    rng = np.random.default_rng(window)
    rows = np.exp(rng.normal(size=(21, 3)))
    rows[rng.random(rows.shape) < 0.3] = math.nan
    rows[:, 0] = np.exp(rng.normal(size=21))
    rows[8:16, 1] = math.nan  # two windows without a label
    balancer = get_balancer("dwa", 3, window=window, temperature=1.5)
    for step, row in enumerate(rows):
        balancer.total(moving(row.tolist()))
        wanted = (
            np.array(dynamic_weights(rows[:step].tolist(), window, 1.5)) if step else np.full(3, 1 / 3)
        ) * ~np.isnan(row)
        np.testing.assert_allclose(balancer.weights.numpy(), wanted / wanted.sum(), rtol=1e-10)


def test_dwa_equals_torchjd():
    other = pytest.importorskip("torchjd.scalarization").DWA()
    balancer = get_balancer("dwa", 3, window=2)
    for step in range(10):
        losses = torch.linspace(1, 3, 3, dtype=torch.float64).mul(0.9**step).requires_grad_()
        torch.testing.assert_close(balancer.total(losses), other(losses) / 3)
        if step % 2:
            other.step()


def test_rlw_equals_the_reference_and_looks_at_nothing_else():
    balancer = get_balancer("rlw", 4, seed=7)
    for step in range(130):
        torch.manual_seed(step)
        balancer.total(moving([1.0, 2.0, 3.0, math.nan]))
        wanted = np.array(random_weights(4, 7, step)) * [1, 1, 1, 0]
        np.testing.assert_allclose(balancer.weights.numpy(), wanted / wanted.sum(), rtol=1e-6)
    assert torch.equal(torch.rand(3), torch.manual_seed(129) and torch.rand(3))


def test_equal_weights_are_the_mean():
    model, losses, optimizer = setting(5)
    twin, same, other = setting(5)
    balancer = get_balancer("equal", 5)
    for _ in range(3):
        balancer.step(losses, optimizer)
        other.zero_grad()
        same().mean().backward()
        other.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(("name", "options", "match"), [
    ("dwa", {"window": 0}, "window"),
    ("dwa", {"temperature": 0.0}, "temperature"),
    ("rlw", {"seed": [1, 2]}, "seed"),
    ("marigold-next", {"memory": 1.0}, "memory"),
    ("marigold-next", {"rate": 0.0}, "rate"),
])  # fmt: skip
def test_bad_settings_are_named(name, options, match):
    with pytest.raises(SettingError, match=match):
        get_balancer(name, 3, **options)


def test_the_losses_of_the_amortised_form_are_named():
    from coterie.balancing.amortised import MarigoldAmortised

    with pytest.raises(SettingError, match="next"):
        MarigoldAmortised(3, losses="last")


def test_the_short_way_without_missing_tasks_gives_the_same_numbers():
    """`everyone` is recognised by identity; any other tensor goes through the masks."""
    torch.manual_seed(0)
    short, masked = SoftmaxShares((7,), 0.025, 1e-3), SoftmaxShares((7,), 0.025, 1e-3)
    for _ in range(12):
        gradient = torch.randn(7)
        short.descend(gradient, everyone((7,)))
        masked.descend(gradient, torch.ones(7, dtype=torch.bool))
        torch.testing.assert_close(short.logits, masked.logits, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(short(everyone((7,))), masked(torch.ones(7, dtype=torch.bool)))
    assert not complete(torch.tensor([1.0, torch.nan]))
    assert complete(torch.tensor([1.0, 2.0], requires_grad=True))


def test_steps_are_counted_from_the_state_when_it_came_from_elsewhere():
    """Numbers are remembered in place of tensors; after loading, or a step without some tasks, they are read again."""
    torch.manual_seed(1)
    one, other = SoftmaxShares((5,), 0.025, 1e-3), SoftmaxShares((5,), 0.025, 1e-3)
    every, some = torch.ones(5, dtype=torch.bool), torch.tensor([True, True, False, True, True])
    for step in range(9):
        gradient = torch.randn(5)
        one.descend(gradient, some if step == 5 else everyone((5,)))
        other.descend(gradient, some if step == 5 else every)
        if step in (2, 7):  # the counts of a younger model, then this model's own
            young = SoftmaxShares((5,), 0.025, 1e-3)
            state = {name: value.clone() for name, value in one.state_dict().items()}
            one.load_state_dict(young.state_dict())
            one.descend(gradient, everyone((5,)))
            one.load_state_dict(state)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-5, atol=1e-7)
