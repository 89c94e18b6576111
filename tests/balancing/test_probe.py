"""The probe's slopes are MGDA's gradient, within the bound; it leaves no trace."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.balancing.balancer import Replay
from coterie.balancing.marigold import Marigold, length
from coterie.balancing.methods import get_balancer
from coterie.errors import SettingError
from reference.balancing_problems import Quadratics, setting
from reference.task_weights import min_norm_weights


def slopes(balancer, values, again, parameters):
    return balancer.probe(values, torch.ones(balancer.shape, dtype=torch.bool), again, parameters)[0]


def slopes_and_exact(problem, distance, phi="identity", logits=None):
    """Slopes by the probe, by the formula, mu, and the gradient d."""
    balancer = Marigold(problem.tasks, phi=phi, distance=distance, tolerance=None).double()
    if logits is not None:
        balancer.lower.shares.logits.copy_(torch.tensor(logits, dtype=torch.float64))
    problem.x.grad = None
    values = problem.losses()
    balancer.backward(values)
    d = problem.x.grad.clone()
    found = slopes(balancer, values.detach(), lambda: problem.losses().detach(), [problem.x])
    gradients = problem.gradients()
    if phi == "log":
        gradients = gradients / values.detach()[:, None]
    mu = float(distance * length([problem.x.detach()], False) / length([d], False))
    return found, gradients @ d, mu, d


@settings(max_examples=60)
@given(
    tasks=st.integers(1, 7),
    size=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    distance=st.sampled_from([1e-4, 1e-3, 1e-2, 1e-1]),
    logits=st.lists(st.floats(-3, 3), min_size=7, max_size=7),
)
def test_slopes_equal_the_gram_gradient_within_the_bound(tasks, size, seed, distance, logits):
    problem = Quadratics(tasks, size, seed)
    found, exact, mu, d = slopes_and_exact(problem, distance, logits=logits[:tasks])
    # d is the shares' combination of the gradients, so `exact` is the Gram matrix times the shares
    shares = torch.softmax(torch.tensor(logits[:tasks], dtype=torch.float64), 0)
    gram = problem.gradients() @ problem.gradients().T
    torch.testing.assert_close(exact, gram @ shares, rtol=1e-9, atol=1e-9)
    bound = problem.smoothness * mu / 2 * float(d @ d)
    rounding = 1e-14 * float(problem.losses().detach().max()) / mu
    assert float((found - exact).abs().max()) <= bound * (1 + 1e-9) + rounding


def test_the_bound_is_reached():
    """One task: the error of the forward difference is exactly d' A d mu / 2, so the bound cannot be lowered."""
    problem = Quadratics(1, 1, 3)
    found, exact, mu, d = slopes_and_exact(problem, 0.1)
    assert float(exact - found) == pytest.approx(problem.smoothness * mu / 2 * float(d @ d), rel=1e-9)


@pytest.mark.parametrize("phi", ["identity", "log"])
def test_error_falls_with_the_distance(phi):
    errors = []
    for distance in (1e-2, 1e-3, 1e-4):
        found, exact, *_ = slopes_and_exact(Quadratics(4), distance, phi)
        errors.append(float((found - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def measured_and_exact(balancer, losses, parameters):
    """Slopes of the logarithms by the probe and by one backward pass a task, and what the probe thinks of itself."""
    for p in parameters:
        p.grad = None
    values = losses()
    balancer.backward(values)
    d = [p.grad.clone() for p in parameters]
    rows = [torch.autograd.grad(losses()[t].log(), parameters) for t in range(len(values))]
    exact = torch.stack([sum((g * h).sum() for g, h in zip(row, d, strict=True)) for row in rows])
    everyone = torch.ones(balancer.shape, dtype=torch.bool)
    found, off = balancer.probe(values.detach(), everyone, lambda: losses().detach(), parameters)
    return found, exact, float(off)


def error(found, exact):
    """Relative to what matters for the shares: the differences between tasks."""
    return float((found - exact).abs().max() / (exact - exact.mean()).abs().max())


def test_float32_slopes_of_a_network_stay_accurate_through_training():
    """Against one backward pass a task; the move is fitted to the curvature."""
    model, losses, _ = setting(4, width=64)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    balancer, errors = Marigold(4, phi="log"), []
    for step in range(201):
        if step % 5 == 0:
            errors.append(error(*measured_and_exact(balancer, losses, parameters)[:2]))
        optimizer.zero_grad()
        losses().mean().backward()
        optimizer.step()
    assert np.median(errors) < 0.06
    assert np.mean(np.array(errors[5:]) < 0.2) > 0.9


def test_a_move_of_fixed_length_is_far_off_near_the_end_and_a_fitted_one_is_not():
    """Close to a Pareto point the gradient is short, so the same relative length is a large multiple of it."""
    off = []
    for tolerance in (None, 0.03):
        problem = Quadratics(3, seed=1)
        balancer = Marigold(3, every=1, phi="identity", tolerance=tolerance, learning_rate=1e-9)
        optimizer = torch.optim.SGD([problem.x], lr=0.3)
        for _ in range(140):
            balancer.step(problem.losses, optimizer)
        problem.x.grad = None
        balancer.backward(values := problem.losses())
        everyone = torch.ones(3, dtype=torch.bool)
        off.append(float(balancer.probe(values.detach(), everyone, problem.losses, [problem.x])[1]))
    assert off[0] > 1
    assert off[1] < 0.06


def test_the_probe_knows_how_far_it_is_off():
    """Equal weights on quadratics: the sum of slopes misses |d|^2 by mu d' A d / 2 exactly."""
    problem = Quadratics(3, seed=1)
    balancer = Marigold(3, phi="identity", distance=0.02, tolerance=None).double()
    values = problem.losses()
    balancer.backward(values)
    d = problem.x.grad
    mu = 0.02 * problem.x.detach().norm() / d.norm()
    _, off = balancer.probe(
        values.detach(), torch.ones(3, dtype=torch.bool), lambda: problem.losses().detach(), [problem.x]
    )
    assert float(off) == pytest.approx(float(mu * (d @ problem.A.mean(0) @ d) / 2 / (d @ d)), rel=1e-6)


def test_the_move_settles_at_the_tolerance():
    problem = Quadratics(3, seed=1)
    balancer = Marigold(3, every=1, phi="identity", tolerance=0.05, learning_rate=1e-9)
    still = torch.optim.SGD([problem.x], lr=0.0)
    for _ in range(20):
        balancer.step(problem.losses, still)
    _, off = balancer.probe(
        problem.losses().detach(), torch.ones(3, dtype=torch.bool), lambda: problem.losses().detach(), [problem.x]
    )
    assert float(off) == pytest.approx(0.05, rel=1e-3)


def test_a_probe_that_is_far_off_is_not_used():
    problem = Quadratics(3, seed=1)
    balancer = Marigold(3, every=1, phi="identity", distance=100.0)
    balancer.step(problem.losses, torch.optim.SGD([problem.x], lr=0.0))
    assert torch.equal(balancer.lower.shares.logits, torch.zeros(3, dtype=torch.float64))
    first = float(balancer.mu)
    for _ in range(20):
        balancer.step(problem.losses, torch.optim.SGD([problem.x], lr=0.0))
    assert float(balancer.mu) < 0.1 * first
    assert float(balancer.lower.shares.logits.abs().max()) > 0


def test_a_first_step_that_overflows_does_not_end_probing():
    x = torch.ones(3, requires_grad=True)
    balancer = Marigold(2, every=1, phi="log")
    optimizer = torch.optim.SGD([x], lr=0.0)
    for factor in (1e38, 1.0, 1.0):
        balancer.step(lambda factor=factor: torch.stack([(x * factor).square().sum(), x.sum()]), optimizer)
    assert float(balancer.mu) > 0
    assert float(balancer.lower.shares.logits.abs().max()) > 0


def test_mixed_precision_with_losses_of_the_probe_in_full_precision():
    """Slopes in bfloat16 are lost in rounding late in training; with `fresh` they are as good as without autocast."""
    model, losses, _ = setting(4, width=64)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        losses().mean().backward()
        optimizer.step()

    def mixed():
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
            return losses()

    def low():
        with torch.autocast("cpu", torch.bfloat16):
            return losses()

    _, exact, _ = measured_and_exact(Marigold(4, tolerance=None, phi="log"), losses, parameters)
    logits = []
    for function, fresh in ((losses, False), (mixed, True), (low, False)):
        options = {"adaptive": False, "decay": 0.0, "learning_rate": 1.0, "distance": 1e-5}
        balancer = Marigold(4, every=1, phi="log", fresh=fresh, **options)
        balancer.step(function, torch.optim.SGD(parameters, lr=0.0))
        logits.append(balancer.lower.shares.logits * -4)
    wanted = (exact - exact.mean()).detach()
    scale = float(wanted.abs().max())
    assert float((logits[0] - wanted).abs().max()) < 0.1 * scale
    assert float((logits[1] - wanted).abs().max()) < 0.2 * scale
    assert float((logits[2] - wanted).abs().max()) > 0.5 * scale


@pytest.mark.parametrize("members", [None, 3])
def test_parameters_come_back_bit_for_bit(members):
    parameters = [torch.randn(3, 4, 2, requires_grad=True), torch.randn(3, 5, requires_grad=True)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    parameters.append(torch.randn(3, 2, requires_grad=True))  # without a gradient
    before = [p.detach().clone() for p in parameters]
    moved = []
    shape = (4,) if members is None else (members, 4)

    def again():
        moved.extend(p.detach().clone() for p in parameters)
        return torch.ones(shape)

    slopes(Marigold(4, members=members), torch.ones(shape), again, parameters)
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    assert not torch.equal(moved[0], before[0])
    assert torch.equal(moved[2], before[2])


def test_an_error_in_the_probe_leaves_parameters_alone():
    x = torch.ones(3, requires_grad=True)
    x.grad = torch.ones(3)

    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        slopes(Marigold(2), torch.ones(2), fails, [x])
    assert torch.equal(x.detach(), torch.ones(3))


def test_a_probe_leaves_no_trace_in_the_training():
    """Same parameters, statistics and random numbers as without probes while the weights are held at their start."""

    def train(every):
        model, losses, optimizer = setting(3, dropout=0.3, norm=True)
        balancer = Marigold(3, every=every, learning_rate=1e-30, phi="identity")
        for _ in range(6):
            balancer.step(losses, optimizer, model=model)
        return model.state_dict(), torch.rand(2)

    (probed, random), (plain, other) = train(1), train(1000)
    # the first step has a probe in both
    assert all(torch.equal(probed[name], plain[name]) for name in plain)
    assert torch.equal(random, other)


def test_the_probe_sees_the_same_dropout_mask_and_batch_statistics():
    model, losses, _ = setting(3, dropout=0.5, norm=True)
    replay = Replay(losses, model)
    first = replay().detach()
    before = copy.deepcopy(model.state_dict())
    torch.rand(7)
    assert torch.equal(replay(), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.trunk[1].track_running_stats
    assert not torch.equal(losses(), first), "another pass has another mask"


def test_probes_come_every_so_many_steps():
    _model, losses, optimizer = setting(3)
    calls = []
    balancer = Marigold(3, every=4)

    def counted():
        calls.append(balancer.steps)
        return losses()

    for _ in range(9):
        balancer.step(counted, optimizer)
    assert len(calls) == 9 + 3
    assert balancer.steps == 9


def test_simplex_weights_converge_to_the_minimum_norm_weights():
    """Held at one point: projected gradient on the probe's slopes against all supports, and against TorchJD's MGDA."""
    mgda = pytest.importorskip("torchjd.aggregation").MGDAWeighting(epsilon=1e-6, max_iters=1000)
    sizes = set()
    for seed in range(6):
        problem = Quadratics(4, 12, seed=seed, spread=0.5)
        gradients = problem.gradients().numpy()
        exact = min_norm_weights(gradients @ gradients.T)
        step = 1.0 / np.linalg.eigvalsh(gradients @ gradients.T)[-1]
        balancer = Marigold(
            4,
            every=1,
            phi="identity",
            form="simplex",
            adaptive=False,
            learning_rate=step,
            tolerance=None,
            distance=1e-5,
        )
        still = torch.optim.SGD([problem.x], lr=0.0)
        for _ in range(400):
            balancer.step(problem.losses, still)
        assert np.abs(balancer.weights.numpy() - exact).max() < 2e-3
        gram = torch.tensor(gradients @ gradients.T)
        assert float((mgda(gram) - torch.tensor(exact)).abs().max()) < 0.01
        sizes.add(int((exact > 0).sum()))
    assert len(sizes) > 1, "some tasks should drop out in some of the problems"


@pytest.mark.parametrize("form", ["softmax", "simplex"])
def test_training_ends_at_a_pareto_stationary_point_with_its_weights(form):
    problem = Quadratics(4, 20, seed=1, spread=0.0)
    optimizer = torch.optim.SGD([problem.x], lr=0.1)
    rate = 0.02 if form == "simplex" else 0.3
    balancer = Marigold(4, every=1, phi="identity", form=form, adaptive=False, learning_rate=rate, decay=0.0)
    for _ in range(1500):
        balancer.step(problem.losses, optimizer)
    gradients = problem.gradients().numpy()
    gram = gradients @ gradients.T
    weights = balancer.weights.numpy()
    assert weights @ gram @ weights < 1e-6 * gram.max()


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("form", ["softmax", "simplex"])
def test_a_large_rho_means_equal_weights(form, adaptive):
    def spread(rho):
        problem = Quadratics(3, seed=2)
        balancer = Marigold(
            3, every=1, phi="identity", form=form, adaptive=adaptive, learning_rate=2e-4, rho=rho, decay=0.0
        )
        optimizer = torch.optim.SGD([problem.x], lr=1e-3)
        for _ in range(150):
            balancer.step(problem.losses, optimizer)
        return float((balancer.weights - 1 / 3).abs().max())

    assert spread(5000.0) < 0.4 * spread(0.0)


def test_smoothing_is_a_running_mean_of_the_slopes():
    balancer = Marigold(2, smoothing=0.75, phi="identity", adaptive=False).double()
    everyone = torch.tensor([True, True])
    balancer.lower.descend(torch.tensor([4.0, 8.0], dtype=torch.float64), everyone)
    balancer.lower.descend(torch.tensor([0.0, torch.nan], dtype=torch.float64), everyone)
    assert balancer.lower.mean.tolist() == [3.0, 8.0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"every": 0}, "every"),
        ({"distance": 0.0}, "distance"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"form": "ball"}, "form"),
        ({"phi": "exp"}, "phi"),
        ({"rho": -1.0}, "rho"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"form": "simplex", "decay": 0.1}, "decay"),
    ],
)
def test_bad_settings_are_named(options, match):
    with pytest.raises(SettingError, match=match):
        Marigold(3, **options)


def test_losses_below_the_floor_are_refused():
    x = torch.tensor([1.0, -0.5], requires_grad=True)
    with pytest.raises(SettingError, match="floor"):
        Marigold(2, phi="log").total(x * 1)
    assert torch.isfinite(Marigold(2, phi="log", floor=-1.0).total(x * 1))


@pytest.mark.parametrize("name", ["marigold", "marigold-same", "marigold-next"])
def test_losses_are_taken_as_they_are_by_default(name):
    """Negative ones too; and shares are the weights, whatever the scale of a loss."""
    x = torch.tensor([1.0, -0.5], requires_grad=True)
    balancer = get_balancer(name, 2)
    assert torch.isfinite(balancer.total(x * 1))
    torch.testing.assert_close(balancer.weights, torch.tensor([0.5, 0.5]))
