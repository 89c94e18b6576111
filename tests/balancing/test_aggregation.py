"""The adapter gives what TorchJD gives when it is called directly."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.balancing import get_balancer
from coterie.balancing.aggregation import Aggregation
from coterie.balancing.projector import make_projector, project
from coterie.errors import MissingDependencyError, SettingError
from reference.balancing_problems import Quadratics, setting
from reference.task_weights import min_norm_weights

torchjd = pytest.importorskip("torchjd.aggregation")
autojac = pytest.importorskip("torchjd.autojac")
DIRECT = {
    "aligned-mtl": lambda: torchjd.AlignedMTL(),
    "cagrad": lambda: torchjd.CAGrad(c=0.4),
    "config": lambda: torchjd.ConFIG(),
    "dualproj": lambda: torchjd.DualProj(projector=make_projector()),
    "excess-mtl": lambda: torchjd.ExcessMTL(),
    "fairgrad": lambda: torchjd.FairGrad(alpha=2.0),
    "graddrop": lambda: torchjd.GradDrop(),
    "gradvac": lambda: torchjd.GradVac(),
    "imtl-g": lambda: torchjd.IMTLG(),
    "krum": lambda: torchjd.Krum(n_byzantine=1),
    "mgda": lambda: torchjd.MGDA(),
    "nash-mtl": lambda: torchjd.NashMTL(n_tasks=4),
    "pcd": lambda: torchjd.PCD(),
    "pcgrad": lambda: torchjd.PCGrad(),
    "trimmed-mean": lambda: torchjd.TrimmedMean(trim_number=1),
    "upgrad": lambda: torchjd.UPGrad(projector=make_projector()),
}


def direct(aggregator, model, losses, optimizer, shared, steps=5):
    """TorchJD's own way: backward for the Jacobian, then its aggregator; heads get their plain gradients."""
    parameters = list(model.parameters())
    shared = parameters if shared is None else shared
    ids = {id(p) for p in shared}
    own = [p for p in parameters if id(p) not in ids]
    for _ in range(steps):
        optimizer.zero_grad()
        values = losses()
        autojac.backward(values, inputs=shared, retain_graph=True)
        autojac.jac_to_grad(shared, aggregator)
        if own:
            for p, gradient in zip(own, torch.autograd.grad(values.sum(), own), strict=True):
                p.grad = gradient
        optimizer.step()
    return parameters


@pytest.mark.parametrize("part", ["all", "trunk"])
@pytest.mark.parametrize("name", list(DIRECT))
def test_equals_torchjd_called_directly(name, part):
    try:
        balancer, aggregator = get_balancer(name, 4), DIRECT[name]()
    except ImportError as error:
        pytest.skip(str(error)[:80])
    model, losses, optimizer = setting(4)
    twin, same, other = setting(4)
    torch.manual_seed(1)
    for _ in range(5):
        balancer.step(losses, optimizer, shared=list(model.trunk.parameters()) if part == "trunk" else None)
    torch.manual_seed(1)
    theirs = direct(aggregator, twin, same, other, list(twin.trunk.parameters()) if part == "trunk" else None)
    for p, q in zip(model.parameters(), theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_every_aggregator_of_torchjd_has_a_name_or_is_trivial():
    kinds = {
        name
        for name in torchjd.__all__
        if isinstance(getattr(torchjd, name), type) and issubclass(getattr(torchjd, name), torchjd.Aggregator)
    }
    bases = {"Aggregator", "WeightedAggregator", "GramianWeightedAggregator"}
    ours = {type(make()).__name__ for name, make in DIRECT.items() if name != "nash-mtl"} | {"NashMTL"}
    # Mean, Sum, Random and Constant weight losses; the first three are there as `equal` and `rlw`
    assert kinds - bases - {"Mean", "Sum", "Random", "Constant"} == ours


def test_an_own_aggregator_can_be_given():
    model, losses, optimizer = setting(4)
    twin, same, other = setting(4)
    balancer = Aggregation(4, torchjd.Constant(torch.tensor([1.0, 0.0, 2.0, 0.0])), chunk=1)
    balancer.step(losses, optimizer)
    values = same()
    other.zero_grad()
    (values[0] + 2 * values[2]).backward()
    other.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_one_at_a_time_is_the_same():
    ends = []
    for chunk in (None, 1):
        model, losses, optimizer = setting(4)
        balancer = get_balancer("mgda", 4, chunk=chunk)
        for _ in range(3):
            balancer.step(losses, optimizer)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*ends)


def test_mgda_has_the_shortest_gradient():
    problem = Quadratics(4, 12, seed=3, spread=0.5)
    gradients = problem.gradients().numpy()
    weights = min_norm_weights(gradients @ gradients.T)
    get_balancer("mgda", 4, epsilon=1e-8, max_iters=10000).backward(problem.losses(), [problem.x])
    np.testing.assert_allclose(problem.x.grad.numpy(), weights @ gradients, atol=0.02 * np.abs(gradients).max())


def test_gradients_are_added_up():
    problem = Quadratics(3)
    balancer = get_balancer("mgda", 3)
    balancer.backward(problem.losses(), [problem.x])
    once = problem.x.grad.clone()
    balancer.backward(problem.losses(), [problem.x])
    torch.testing.assert_close(problem.x.grad, 2 * once)


def test_parameters_are_needed():
    problem = Quadratics(3)
    with pytest.raises(SettingError, match="parameters"):
        get_balancer("mgda", 3).backward(problem.losses())


def test_unknown_options_are_named():
    with pytest.raises(SettingError, match="`k` of CAGrad does not exist"):
        get_balancer("cagrad", 3, k=2)
    assert get_balancer("cagrad", 3, c=0.1).aggregator.c == 0.1


def test_without_torchjd_the_extra_is_named(monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "torchjd":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(MissingDependencyError, match=r"coterie\[balancing\]"):
        get_balancer("mgda", 3)


def test_what_a_method_needs_beyond_the_extra_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ecos", None)
    with pytest.raises(MissingDependencyError, match="FairGrad with alpha=1"):
        get_balancer("nash-mtl", 3)


@settings(max_examples=50)
@given(tasks=st.integers(1, 6), size=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_projection_meets_the_optimality_conditions(tasks, size, seed):
    """min v' G v with v >= u: the slope G v is at least 0, and 0 where v is above u."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(tasks, size))
    gram = rows @ rows.T
    weights = rng.random(tasks)
    found = project(torch.tensor(weights), torch.tensor(gram)).numpy()
    slope = (gram / np.trace(gram) + 1e-4 * np.eye(tasks)) @ found
    assert (found >= weights - 1e-12).all()
    assert (slope >= -1e-9 * max(1, np.abs(found).max())).all()
    assert abs(slope @ (found - weights)) < 1e-9 * max(1, np.abs(found).max()) ** 2


def test_projection_of_nothing():
    assert torch.equal(project(torch.eye(2), torch.zeros(2, 2)), torch.eye(2))


def test_upgrad_does_not_conflict():
    """The update lowers every loss to first order."""
    for seed in range(5):
        problem = Quadratics(4, 8, seed=seed)
        get_balancer("upgrad", 4).backward(problem.losses(), [problem.x])
        slopes = problem.gradients() @ problem.x.grad
        assert float(slopes.min()) > -1e-2 * float(slopes.abs().max())
