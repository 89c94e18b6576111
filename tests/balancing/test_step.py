"""What holds for every method: missing losses, state, mixed precision, clipping, order and scale of the tasks."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.balancing import METHODS, Balancer, Weighting, get_balancer, task_means
from coterie.balancing.methods import AGGREGATIONS, WEIGHTINGS
from coterie.balancing.shares import Moments, project_to_simplex
from coterie.errors import MissingDependencyError, SettingError
from reference.balancing_problems import Quadratics, setting

#: methods that remember something about each task and cannot do without one
STATEFUL = {"excess-mtl", "gradvac", "pcd", "nash-mtl"}
VARIANTS = [
    *[(name, {}) for name in WEIGHTINGS if name != "marigold"],
    ("marigold", {"every": 1}),
    ("marigold", {"every": 3, "form": "simplex", "phi": "identity", "rho": 0.1, "smoothing": 0.5}),
    ("marigold", {"every": 1, "adaptive": False, "learning_rate": 0.01}),
    ("marigold-same", {"form": "simplex"}),
    ("marigold-next", {"form": "simplex", "smoothing": 0.9}),
]
IDS = [name + "".join(f" {key}={value}" for key, value in options.items()) for name, options in VARIANTS]
every_weighting = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
every_method = pytest.mark.parametrize(
    ("name", "options"), VARIANTS + [(name, {}) for name in AGGREGATIONS], ids=IDS + list(AGGREGATIONS)
)


def make(name, tasks, **options):
    if name in AGGREGATIONS:
        pytest.importorskip("torchjd")
    try:
        return get_balancer(name, tasks, **options)
    except MissingDependencyError as error:
        pytest.skip(str(error)[:80])


def train(balancer, steps=8, tasks=4, seed=0, hide=None, **options):
    """Parameters after some steps of a small network."""
    model, losses, optimizer = setting(tasks, seed)

    def shown():
        values = losses()
        return values if hide is None else values.masked_fill(hide, torch.nan)

    torch.manual_seed(1)
    for _ in range(steps):
        balancer.step(shown, optimizer, model=model, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@every_method
def test_losses_fall(name, options):
    _model, losses, optimizer = setting(4)
    balancer = make(name, 4, **options)
    torch.manual_seed(1)
    before = losses().detach()
    for _ in range(30):
        found = balancer.step(losses, optimizer)
    assert found.shape == (4,)
    assert not found.requires_grad
    assert float((losses().detach() / before).log().mean()) < 0
    assert balancer.steps == 30


@every_method
def test_state_goes_on_where_it_was(name, options):
    """Through a file that holds nothing but tensors and numbers."""
    model, losses, optimizer = setting(4)
    balancer = make(name, 4, **options)
    for _ in range(5):
        balancer.step(losses, optimizer)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = make(name, 4, **options)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    ends = []
    for one in (balancer, fresh):
        model.load_state_dict(start[0])
        optimizer.load_state_dict(start[1])
        torch.manual_seed(3)
        for _ in range(7):
            one.step(losses, optimizer)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)
    assert fresh.steps == balancer.steps == 12


@every_weighting
def test_state_of_double_precision_is_kept(name, options):
    problem = Quadratics(3)
    optimizer = torch.optim.SGD([problem.x], lr=0.01)
    balancer = make(name, 3, **options)
    for _ in range(4):
        balancer.step(problem.losses, optimizer)
    fresh = make(name, 3, **options)
    fresh.load_state_dict(balancer.state_dict())
    assert fresh.state_dict().keys() == balancer.state_dict().keys()
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(
        fresh.state_dict().values(), balancer.state_dict().values(), strict=True
    ))  # fmt: skip


@every_method
def test_a_missing_task_counts_for_nothing(name, options):
    """Four tasks of which one never has a label are trained as the other three alone."""
    if name in STATEFUL | {"rlw", "krum"}:
        pytest.skip("remembers each task, draws other numbers, or is told how many tasks there are")
    model, losses, optimizer = setting(4)
    twin, same, other = setting(4)
    hide = torch.tensor([False, True, False, False])
    ours, three = make(name, 4, **options), make(name, 3, **options)
    for _ in range(6):
        torch.manual_seed(1)
        found = ours.step(lambda: losses().masked_fill(hide, torch.nan), optimizer)
        torch.manual_seed(1)
        three.step(lambda: same()[~hide], other)
    assert found.isnan().tolist() == hide.tolist()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@every_weighting
def test_tasks_may_come_and_go(name, options):
    """Weights stay finite, are 0 where missing, and add up to one."""
    model, losses, optimizer = setting(4)
    balancer = make(name, 4, **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        hide = torch.rand(4, generator=generator) < 0.5
        hide[int(torch.randint(4, (), generator=generator))] = False
        balancer.step(lambda hide=hide: losses().masked_fill(hide, torch.nan), optimizer)
        assert bool(((balancer.weights == 0) | ~hide).all())
        assert bool(balancer.weights.isfinite().all())
        if name != "uncertainty":
            assert float(balancer.weights.sum()) == pytest.approx(1, rel=1e-5)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_stateful_aggregators_say_that_tasks_are_missing():
    with pytest.raises(SettingError, match="every batch"):
        train(make("pcd", 4), hide=torch.tensor([False, True, False, False]))


@every_method
def test_no_task_at_all_or_a_diverged_one_is_not_excused(name, options):
    if name in STATEFUL:
        pytest.skip("asks for all tasks")
    for factors in ([torch.nan] * 3, [torch.inf, 1.0, 1.0]):
        x = torch.ones(5, requires_grad=True)
        make(name, 3, **options).backward(torch.stack([(factor * x).sum() for factor in factors]), [x])
        assert not bool(x.grad.isfinite().all())
    balancer = make(name, 3, **options)
    if isinstance(balancer, Weighting):
        assert bool(balancer.total(torch.full((3,), torch.nan, requires_grad=True)).isnan())


@every_method
def test_bfloat16_autocast(name, options):
    """Losses come in low precision from autocast; weights are kept in float32."""
    _model, losses, optimizer = setting(4)

    def low():
        with torch.autocast("cpu", torch.bfloat16):
            return losses().bfloat16()

    balancer = make(name, 4, **options)
    torch.manual_seed(1)
    before = losses().detach()
    for _ in range(30):
        balancer.step(low, optimizer)
    assert float((losses().detach() / before).log().mean()) < 0
    if isinstance(balancer, Weighting):
        assert all(value.dtype == torch.float32 for value in balancer.buffers())
        assert balancer.total(losses()).dtype == torch.float32


@every_method
def test_a_scaler_changes_nothing_but_skips_bad_steps(name, options):
    if name == "dualproj":
        pytest.skip("covered by upgrad")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = train(make(name, 4, **options), scaler=scaler, steps=5)
    torch.testing.assert_close(scaled, train(make(name, 4, **options), steps=5), rtol=1e-3, atol=1e-4)
    # a step whose gradient overflows is skipped, shares do not move on what is not finite, and the scale goes down
    model, losses, optimizer = setting(4)
    balancer = make(name, 4, **options)
    overflow = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = [p.detach().clone() for p in model.parameters()]
    balancer.step(lambda: losses() * 1e6, optimizer, scaler=overflow)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert overflow.get_scale() < 2.0**127
    assert all(bool(value.isfinite().all()) or value.isnan().any() for value in balancer.buffers())
    balancer.step(losses, optimizer)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@every_method
def test_clipping_bounds_the_step(name, options):
    model, losses, optimizer = setting(4)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    make(name, 4, **options).step(losses, optimizer, max_norm=0.01)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm()) <= 0.05 * 0.01 * 1.001


def test_slopes_are_measured_before_clipping():
    """Clipping changes the step, not what the probe sees."""
    logits = []
    for max_norm in (None, 1e-3):
        _model, losses, optimizer = setting(4)
        balancer = get_balancer("marigold", 4, every=1, adaptive=False)
        balancer.step(losses, optimizer, max_norm=max_norm)
        logits.append(balancer.lower.shares.logits)
    assert torch.equal(*logits)


@every_method
def test_order_of_tasks_does_not_matter(name, options):
    if name in ("rlw", "pcgrad", "gradvac", "graddrop", "nash-mtl", "krum", "pcd"):
        pytest.skip("depends on the order of tasks by its definition")
    order = torch.tensor([2, 0, 3, 1])
    first, second = Quadratics(4, seed=4), Quadratics(4, seed=4)
    ours, theirs = make(name, 4, **options), make(name, 4, **options)
    a, b = torch.optim.SGD([first.x], lr=0.02), torch.optim.SGD([second.x], lr=0.02)
    for _ in range(10):
        torch.manual_seed(0)
        ours.step(first.losses, a)
        torch.manual_seed(0)
        theirs.step(lambda: second.losses()[order], b)
        torch.testing.assert_close(first.x, second.x, rtol=1e-6, atol=1e-8)
    if isinstance(ours, Weighting):
        torch.testing.assert_close(ours.weights[order], theirs.weights)


@settings(max_examples=20)
@given(scales=st.lists(st.floats(0.05, 20), min_size=3, max_size=3))
@pytest.mark.parametrize("name", ["famo", "marigold", "marigold-same", "marigold-next"])
def test_log_methods_do_not_see_the_scale_of_a_loss(name, scales):
    scale = torch.tensor(scales, dtype=torch.float64)
    first, second = Quadratics(3, seed=4), Quadratics(3, seed=4)
    options = {} if name == "famo" else {"phi": "log"}
    ours, theirs = get_balancer(name, 3, **options), get_balancer(name, 3, **options)
    logits = []
    for balancer, problem, factor in ((ours, first, torch.ones(3)), (theirs, second, scale)):
        optimizer = torch.optim.SGD([problem.x], lr=0.0)
        for _ in range(4):
            balancer.step(lambda problem=problem, factor=factor: factor * problem.losses(), optimizer)
            with torch.no_grad():
                problem.x -= 0.01  # both move alike
        shares = balancer.shares if name == "famo" else balancer.lower.shares
        logits.append(shares.logits)
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-5)


@every_weighting
def test_members_are_trained_as_if_alone(name, options):
    """Three stacked models with own weights take the steps of three single ones; one of them lacks a task."""
    if name == "rlw":
        options = {"seed": [3, 1, 4]}
    problems = [Quadratics(4, seed=seed) for seed in range(3)]
    stacked = torch.stack([problem.x.detach() for problem in problems]).requires_grad_()
    hide = torch.tensor([[False] * 4, [False, True, False, False], [False] * 4])
    together = make(name, 4, members=3, **options)

    def all_losses():
        rows = [problem.losses(stacked[i]) for i, problem in enumerate(problems)]
        return torch.stack(rows).masked_fill(hide, torch.nan)

    optimizer = torch.optim.SGD([stacked], lr=0.02)
    for _ in range(12):
        together.step(all_losses, optimizer)
    for i, problem in enumerate(problems):
        alone = make(name, 4, **(options if name != "rlw" else {"seed": options["seed"][i]}))
        single = torch.optim.SGD([problem.x], lr=0.02)
        for _ in range(12):
            alone.step(lambda i=i, p=problem: p.losses().masked_fill(hide[i], torch.nan), single)
        torch.testing.assert_close(stacked[i], problem.x)
        torch.testing.assert_close(together.weights[i], alone.weights)


@every_weighting
def test_members_can_be_taken_out(name, options):
    options = {**options, **({"seed": [3, 1, 4]} if name == "rlw" else {})}
    balancer = make(name, 2, members=3, **options)
    x = torch.ones(3, 2, requires_grad=True)
    balancer.step(lambda: (x + torch.arange(6).view(3, 2)).square(), torch.optim.SGD([x], lr=0.0))
    weights = balancer.weights
    balancer.select(torch.tensor([2, 0]))
    assert balancer.shape == (2, 2)
    assert torch.equal(balancer.weights, weights[[2, 0]])
    y = torch.ones(2, 2, requires_grad=True)
    balancer.step(lambda: y.square(), torch.optim.SGD([y], lr=0.0))
    assert balancer.weights.shape == (2, 2)


@every_weighting
def test_nothing_is_learnt_without_a_graph(name, options):
    _model, losses, optimizer = setting(4)
    balancer = make(name, 4, **options)
    for _ in range(3):
        balancer.step(losses, optimizer)
    before = {key: value.clone() for key, value in balancer.state_dict().items()}
    with torch.no_grad():
        total = balancer.total(losses() * 3)
    assert torch.isfinite(total)
    for key, value in balancer.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
@every_method
def test_on_a_device(name, options):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    problem = Quadratics(4)
    problem.A, problem.c = problem.A.cuda(), problem.c.cuda()
    problem.x = problem.x.detach().cuda().requires_grad_()
    balancer = make(name, 4, **options)
    before = problem.losses().detach()
    for _ in range(5):
        balancer.step(problem.losses, torch.optim.SGD([problem.x], lr=0.02))
    assert float((problem.losses().detach() / before).log().mean()) < 0


@pytest.mark.parametrize("name", ["equal", "mgda"])
def test_losses_of_another_shape_are_refused(name):
    balancer = make(name, 3)
    x = torch.ones(4, requires_grad=True)
    with pytest.raises(SettingError, match=r"shape \(3,\)"):
        balancer.backward(x * 1, [x])
    with pytest.raises(SettingError, match="floating"):
        balancer.backward(torch.ones(3, dtype=torch.int64), [x])


def test_numbers_of_tasks_and_members_are_checked():
    with pytest.raises(SettingError, match="tasks"):
        get_balancer("equal", 0)
    with pytest.raises(SettingError, match="members"):
        get_balancer("equal", 2, members=0)


def test_names_and_options_are_checked():
    with pytest.raises(SettingError, match="Did you mean 'marigold'"):
        get_balancer("marigod", 3)
    with pytest.raises(SettingError, match="every"):
        get_balancer("marigold", 3, evry=2)
    with pytest.raises(SettingError, match="Known"):
        get_balancer("marigold-next", 3, losses="same")
    assert len(set(METHODS)) == len(METHODS)
    assert all(isinstance(get_balancer(name, 2), Balancer) for name in WEIGHTINGS)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_moments_are_those_of_adam(decay):
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(5, generator=generator, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    moments = Moments((5,), 0.03, decay).double()
    adam = torch.optim.Adam([theirs], lr=0.03, weight_decay=decay)
    for _ in range(20):
        gradient = torch.randn(5, generator=generator, dtype=torch.float64)
        moments.step(ours, gradient, torch.ones(5, dtype=torch.bool))
        theirs.grad = gradient
        adam.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_projection_is_the_nearest_point(values):
    x = torch.tensor(values, dtype=torch.float64)
    found = project_to_simplex(x)
    assert float(found.min()) >= 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-9)
    # nearest: entries inside all moved by the same amount, those at 0 by no more
    level = (x - found)[found > 1e-9]
    if len(level):
        assert float(level.max() - level.min()) < 1e-9
        assert bool((x[found <= 1e-9] <= level.max() + 2e-9).all())


def test_task_means_have_no_poisonous_derivative():
    rows = torch.ones(4, 3, requires_grad=True)
    observed = torch.tensor([[True, False, True]] * 2 + [[True, False, False]] * 2)
    means = task_means(rows * torch.tensor([1.0, 2.0, 3.0]), observed)
    np.testing.assert_allclose(means.detach().numpy(), [1.0, np.nan, 3.0])
    get_balancer("equal", 3).backward(means)
    np.testing.assert_allclose(rows.grad.numpy()[:, 2], [0.75, 0.75, 0, 0])
    assert bool(rows.grad.isfinite().all())


@pytest.mark.parametrize("name", ["equal", "uncertainty", "dwa", "rlw", "famo", "marigold", "marigold-next"])
def test_a_batch_without_labels_changes_nothing(name):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    balancer = get_balancer(name, 2)
    before = [p.detach().clone() for p in model.parameters()]
    x = torch.ones(4, 3)
    found = balancer.step(lambda: model(x).mean(0) * torch.nan, optimizer)
    assert found.isnan().all()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    balancer.step(lambda: model(x).square().mean(0), optimizer)
    assert all(p.isfinite().all() for p in model.parameters())


def test_losses_are_a_function_of_a_tensor():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    balancer = get_balancer("equal", 2)
    with pytest.raises(SettingError, match="lambda"):
        balancer.step(model(torch.ones(4, 3)).mean(0), optimizer)
    with pytest.raises(SettingError, match=r"torch\.stack"):
        balancer.step(lambda: dict(enumerate(model(torch.ones(4, 3)).mean(0))), optimizer)


@pytest.mark.parametrize("name", ["equal", "famo", "mgda", "pcgrad"])
def test_losses_may_be_scalars_with_graphs_of_their_own(name):
    found = []
    for apart in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(2, 5, 3)

        def losses(model=model, x=x, apart=apart):
            each = [model(rows)[:, task].square().mean() for task, rows in enumerate(x)]
            return each if apart else torch.stack(each)

        before = get_balancer(name, 2).step(losses, optimizer)
        found.append([before, *(p.detach() for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
