"""Intervals of time steps as tasks."""

import importlib.util
import inspect
import math
from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coterie.balancing import Balancing, get_balancer
from coterie.diffusion.denoising import denoising_losses
from coterie.diffusion.ema import moving_average
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.tasks import _NASH, IntervalTasks, _choice
from coterie.errors import SettingError
from coterie.grouping import Intervals
from reference.interval_training import slice_means, train

UNEVEN = Intervals((0, 3, 40, 45), 100, cost=0.0)
SCHEDULE = NoiseSchedule.cosine(100)


class Denoiser(nn.Module):
    """Small, with a dropout so that a second look needs the same random numbers."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(8, 1, 1))

    def forward(self, x, t):
        time = (t / 100).view(-1, 1, 1, 1).expand_as(x).to(x)
        return self.layers(torch.cat([x, time], 1))


def setting(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return Denoiser(dropout), torch.rand(64, 1, 4, 4) * 2 - 1


@st.composite
def intervals(draw):
    n = draw(st.integers(1, 60))
    inner = draw(st.sets(st.integers(1, n - 1), max_size=min(7, n - 1))) if n > 1 else set()
    return Intervals((0, *sorted(inner)), n, cost=0.0)


@given(intervals(), st.integers(1, 40), st.integers(0, 99))
def test_every_interval_has_its_share_of_a_batch(found, count, seed):
    t = IntervalTasks(found).sample(count, torch.Generator().manual_seed(seed))
    assert t.shape == (count,)
    assert t.dtype == torch.int64
    assert 0 <= int(t.min()) <= int(t.max()) < found.n
    counts = [sum(first <= step <= last for step in t.tolist()) for first, last in found.spans]
    assert set(counts) <= {count // found.k, count // found.k + 1}
    assert sum(count > len(t) // found.k for count in counts) == count % found.k


def test_steps_are_uniform_inside_an_interval_and_what_is_left_falls_on_any_interval():
    generator = torch.Generator().manual_seed(0)
    tasks = IntervalTasks(UNEVEN)
    t = torch.cat([tasks.sample(401, generator) for _ in range(200)])
    for first, last in UNEVEN.spans:
        counts = torch.bincount(t[(t >= first) & (t <= last)] - first, minlength=last - first + 1)
        expected = counts.sum() / len(counts)
        # chi-squared: mean is its degrees of freedom, standard deviation the root of twice that
        statistic = float(((counts - expected) ** 2 / expected).sum())
        freedom = len(counts) - 1
        assert statistic < freedom + 5 * math.sqrt(2 * freedom)
    extra = Counter(
        int((tasks.sample(5, generator).unsqueeze(1) >= torch.tensor(UNEVEN.starts)).sum(1).bincount().argmax())
        for _ in range(400)
    )
    assert min(extra[i] for i in (1, 2, 3, 4)) > 60


def test_positions_in_the_batch_say_nothing_about_the_interval():
    tasks = IntervalTasks(Intervals((0, 50), 100, cost=0.0))
    generator = torch.Generator().manual_seed(0)
    low = torch.stack([tasks.sample(4, generator) < 50 for _ in range(2000)]).double().mean(0)
    assert torch.allclose(low, torch.full((4,), 0.5, dtype=torch.float64), atol=0.06)


@given(intervals(), st.lists(st.integers(0, 59), min_size=1, max_size=30), st.integers(0, 99))
def test_means_are_those_of_a_loop(found, steps, seed):
    t = torch.tensor(steps) % found.n
    losses = torch.rand(len(t), generator=torch.Generator().manual_seed(seed), requires_grad=True)
    means = IntervalTasks(found).means(losses, t)
    torch.testing.assert_close(means, slice_means(losses, t, found.spans), equal_nan=True)
    means.nansum().backward()
    assert losses.grad.isfinite().all()


def test_uncertainty_is_that_of_the_authors():
    """s is larger by log k, the loss smaller by the factor k and a constant, and the model the same."""
    k, generator = UNEVEN.k, torch.Generator().manual_seed(0)
    model, images = setting()
    other, _ = setting()
    tasks = IntervalTasks(UNEVEN)
    batches = []
    for _ in range(120):
        clean, noise = (
            images[torch.randint(64, (10,), generator=generator)],
            torch.randn(10, 1, 4, 4, generator=generator),
        )
        batches.append(((clean, noise), tasks.sample(10, generator)))
    path, totals = train(
        model, lambda batch, t: denoising_losses(model, SCHEDULE, *batch, t), UNEVEN.spans, batches, 1e-3
    )
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.0)
    for step, ((clean, noise), t) in enumerate(batches):
        loss = tasks.loss(denoising_losses(other, SCHEDULE, clean, noise, t), t)
        assert k * loss.item() - k / 2 * math.log(k) == pytest.approx(totals[step], abs=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(tasks.balancer.log_variance - math.log(k), path[step], atol=2e-5, rtol=1e-4)
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, another, atol=1e-4, rtol=1e-3)
    assert float(path[-1].std()) > 0.1  # the tasks do differ


METHODS = {
    "equal": {}, "uncertainty": {}, "rlw": {}, "famo": {}, "marigold": {"every": 2}, "marigold-next": {}, "pcgrad": {},
    "cagrad": {}, "fairgrad": {"alpha": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_the_average_follows(name, scaled):
    """Also what the code of the authors forgets in one of its branches: the averaged weights move with every method."""
    if name in ("pcgrad", "cagrad", "fairgrad"):
        pytest.importorskip("torchjd")
    model, images = setting(dropout=0.1)
    tasks = IntervalTasks(UNEVEN, name, **METHODS[name])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    average, generator = moving_average(model, 0.5), torch.Generator().manual_seed(0)
    first, found = None, []
    noise, t = torch.randn(images.shape, generator=generator), tasks.sample(len(images), generator)
    for _ in range(30):
        losses = tasks.step(
            lambda: denoising_losses(model, SCHEDULE, images, noise, t),
            t,
            optimizer,
            model=model,
            scaler=scaler,
            max_norm=1.0,
        )
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert float(norm) < 1.0001
        average.update_parameters(model)
        state = average.module.layers[0].weight.clone()
        assert first is None or not torch.equal(state, first)
        first = state
        found.append(losses)
    assert float(found[-1].mean()) < 0.8 * float(found[0].mean())


def test_a_scaler_does_not_change_the_step():
    pytest.importorskip("torchjd")
    after = []
    for scale in (None, 4096.0):
        model, images = setting()
        tasks, generator = IntervalTasks(UNEVEN, "mgda"), torch.Generator().manual_seed(0)
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        noise, t = torch.randn(images.shape, generator=generator), tasks.sample(64, generator)
        losses = partial(denoising_losses, model, SCHEDULE, images, noise, t)
        for _ in range(3):
            tasks.step(losses, t, optimizer, scaler=scaler, max_norm=0.05)
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(after[0], after[1])


@pytest.mark.parametrize("name", ["uncertainty", "mgda"])
def test_the_parts_are_the_step(name):
    if name == "mgda":
        pytest.importorskip("torchjd")
    whole, images = setting()
    parts, _ = setting()
    generator = torch.Generator().manual_seed(0)
    noise, t = torch.randn(images.shape, generator=generator), IntervalTasks(UNEVEN).sample(64, generator)
    tasks, optimizer = IntervalTasks(UNEVEN, name), torch.optim.SGD(whole.parameters(), lr=0.1)
    tasks.step(lambda: denoising_losses(whole, SCHEDULE, images, noise, t), t, optimizer)
    own, optimizer = IntervalTasks(UNEVEN, name), torch.optim.SGD(parts.parameters(), lr=0.1)
    losses = own.backward(denoising_losses(parts, SCHEDULE, images, noise, t), t, parts.parameters())
    optimizer.step()
    assert losses.shape == (4,)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_small_batch_misses_intervals_and_still_trains():
    model, images = setting()
    tasks, t = IntervalTasks(UNEVEN), torch.tensor([1, 99])
    loss = tasks.loss(denoising_losses(model, SCHEDULE, images[:2], images[2:4], t), t)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    start = torch.tensor(math.log(4))
    assert torch.equal(tasks.balancer.log_variance != start, torch.tensor([True, False, False, True]))


def test_state_comes_back_and_renewed_tasks_start_anew():
    tasks, t = IntervalTasks(UNEVEN), torch.tensor([1, 20, 41, 99])
    weights = torch.ones(4, requires_grad=True)
    tasks.loss(weights * torch.tensor([1.0, 2.0, 3.0, 4.0]), t)
    other = IntervalTasks(UNEVEN)
    other.load_state_dict(tasks.state_dict())
    assert torch.equal(other.balancer.log_variance, tasks.balancer.log_variance)
    fresh = tasks.renewed(seed=3)
    assert fresh.name == tasks.name
    assert torch.equal(fresh.balancer.log_variance, torch.full((4,), math.log(4)))
    assert not torch.equal(tasks.balancer.log_variance, fresh.balancer.log_variance)


def test_random_weights_depend_on_the_seed():
    draws = []
    for seed in (0, 1, 0):
        tasks = IntervalTasks(UNEVEN, "rlw").renewed(seed=seed)
        tasks.loss(torch.ones(4, requires_grad=True) * 1.0, torch.tensor([1, 20, 41, 99]))
        draws.append(tasks.balancer.weights)
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_defaults_are_those_of_the_authors():
    assert dict(IntervalTasks(UNEVEN).choice.options) == {"start": math.log(4)}
    assert dict(IntervalTasks(UNEVEN, "uncertainty", start=0.0).choice.options) == {"start": 0.0}
    assert IntervalTasks(UNEVEN, Balancing("uncertainty")).choice.options == ()
    assert _NASH == {"update_weights_every": 25, "max_norm": 1.0}


def test_defaults_of_nash_are_handed_on(monkeypatch):
    """Without its solver, which is in no extra: what the method would be made with."""

    class Recorder:
        def __init__(self, name, options):
            self.name, self.options = name, options

    monkeypatch.setattr("coterie.diffusion.tasks.Balancing", Recorder)
    assert dict(_choice("nash-mtl", {}, 4).options) == _NASH
    assert dict(_choice("nash-mtl", {"max_norm": 2.0}, 4).options) == {**_NASH, "max_norm": 2.0}


def test_options_of_nash_are_those_of_its_aggregator():
    """Its solver is in no extra, so that it is seldom made in tests; a renamed option would show here all the same."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    assert set(_NASH) <= set(inspect.signature(aggregation.NashMTL.__init__).parameters)
    if importlib.util.find_spec("ecos") is not None:
        made = IntervalTasks(UNEVEN, "nash-mtl").balancer.aggregator
        assert {name: getattr(made, name) for name in _NASH} == _NASH


def test_wrong_use_is_refused():
    pytest.importorskip("torchjd")
    t, losses = torch.tensor([1, 20, 41, 99]), torch.ones(4, requires_grad=True) * 1.0
    with pytest.raises(SettingError, match=r"tasks\.backward"):
        IntervalTasks(UNEVEN, "mgda").loss(losses, t)
    for name in ("famo", "marigold", "marigold-same"):
        with pytest.raises(SettingError, match="second time"):
            IntervalTasks(UNEVEN, name).loss(losses, t)
        with pytest.raises(SettingError, match="second time"):
            IntervalTasks(UNEVEN, name).backward(losses, t, [])
    with pytest.raises(SettingError, match="averaged already"):
        IntervalTasks(UNEVEN).loss(losses.mean(), t)
    with pytest.raises(SettingError, match="0 to 99"):
        IntervalTasks(UNEVEN).loss(losses, t + 1)
    with pytest.raises(SettingError, match="4 intervals"):
        IntervalTasks(UNEVEN, get_balancer("equal", 3))
    with pytest.raises(SettingError, match="balancer is made"):
        IntervalTasks(UNEVEN, get_balancer("dwa", 4), window=3, temperature=2.0)
    with pytest.raises(SettingError, match="beside a Balancing"):
        IntervalTasks(UNEVEN, Balancing("equal"), start=1.0)
    with pytest.raises(SettingError, match="uncertainty"):
        IntervalTasks(UNEVEN, "uncertanty")
    with pytest.raises(SettingError, match="`count`"):
        IntervalTasks(UNEVEN).sample(0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["uncertainty", "pcgrad", "marigold"])
def test_on_a_device(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, images = setting()
    model, images = model.cuda(), images.cuda()
    tasks, optimizer = IntervalTasks(UNEVEN, name), torch.optim.Adam(model.parameters(), lr=1e-2)
    t = tasks.sample(64, torch.Generator().manual_seed(0), device="cuda")
    assert torch.equal(t.cpu(), IntervalTasks(UNEVEN).sample(64, torch.Generator().manual_seed(0)))
    noise = torch.randn_like(images)
    for _ in range(3):
        losses = tasks.step(lambda: denoising_losses(model, SCHEDULE, images, noise, t), t, optimizer)
    assert losses.device.type == "cuda"
    assert losses.isfinite().all()


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "uncertainty", "marigold"])
@pytest.mark.parametrize("count", [20, 3])
def test_separate_passes_give_the_same_step(name, count):
    schedule, generator = NoiseSchedule.linear(50), torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(count, 1, 4, 4, generator=generator) for _ in range(2))
    found = []
    for apart in (False, True):
        torch.manual_seed(0)  # pcgrad draws an order
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 16), torch.nn.Unflatten(1, (1, 4, 4)))
        tasks = IntervalTasks(Intervals((0, 10, 20, 35, 45), 50, cost=0.0), name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        t = tasks.sample(count, torch.Generator().manual_seed(2))

        def losses(rows=slice(None), model=model, t=t):
            return denoising_losses(lambda x, _: model(x), schedule, clean[rows], noise[rows], t[rows])

        step = tasks.step_apart if apart else tasks.step
        before = step(losses, t, optimizer, max_norm=1.0)
        found.append([before, *(p.detach().clone() for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_separate_passes_see_each_example_once():
    seen = []
    model = torch.nn.Linear(1, 1)
    tasks = IntervalTasks(Intervals((0, 10, 30), 50, cost=0.0), "pcgrad")
    t = tasks.sample(13, torch.Generator().manual_seed(0))

    def losses(rows):
        seen.append(rows)
        return model(torch.ones(len(rows), 1)).square().flatten()

    tasks.step_apart(losses, t, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [len(set(tasks.intervals.labels[t[rows]])) for rows in seen] == [1, 1, 1]
    assert sorted(torch.cat(seen).tolist()) == list(range(13))
