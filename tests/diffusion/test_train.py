"""The training loop of denoisers."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from coterie import Context
from coterie.balancing import get_balancer
from coterie.datasets.images import load_images
from coterie.diffusion.denoising import denoising_losses
from coterie.diffusion.ema import moving_average
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.tasks import IntervalTasks
from coterie.diffusion.train import DenoiserRecipe, batches, train_denoiser
from coterie.diffusion.unet import make_unet
from coterie.errors import NumericsWarning, SettingError
from coterie.grouping import Intervals
from coterie.store import MemoryRun, open_run

SCHEDULE = NoiseSchedule.cosine(100)
INTERVALS = Intervals((0, 30, 60), 100, cost=0.0)


class Denoiser(nn.Module):
    """Small; remembers the images and times that it saw."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(8, 1, 1))
        self.seen = []

    def forward(self, x, t):
        self.seen.append((x.detach().clone(), t.clone()))
        return self.layers(torch.cat([x, (t / 100).view(-1, 1, 1, 1).expand_as(x)], 1))


IMAGES = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def run(model=None, **options):
    tasks = options.pop("tasks", None)
    context = Context(**{name: options.pop(name) for name in ("seed", "store", "progress") if name in options})
    recipe = DenoiserRecipe(**{"steps": 12, "batch": 9, **options})
    return train_denoiser(model or Denoiser(), IMAGES, SCHEDULE, recipe, context, tasks=tasks)


def test_vanilla_is_the_plain_loop():
    """Against a loop that draws from the same streams."""
    model = Denoiser()
    seeds = np.random.SeedSequence(5).generate_state(4)
    rows, noises, steps = (torch.Generator().manual_seed(int(seed)) for seed in seeds[:3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    order = torch.cat([torch.randperm(50, generator=rows) for _ in range(3)])
    average = {name: value.clone() for name, value in model.state_dict().items()}
    losses = []
    for step in range(12):
        clean = IMAGES[order[9 * step : 9 * step + 9]]
        noise = torch.randn(clean.shape, generator=noises)
        t = torch.randint(0, 100, (9,), generator=steps)
        loss = denoising_losses(model, SCHEDULE, clean, noise, t).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        decay = 0.0 if step == 0 else min(0.995, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value
    trained = run(seed=5)
    np.testing.assert_allclose(trained.losses[:, 0], losses, rtol=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained.raw[name], value)
        torch.testing.assert_close(trained.state[name], average[name])


def test_the_given_model_is_left_alone_and_the_seed_determines_all():
    model = Denoiser(dropout=0.3)
    before = copy.deepcopy(model.state_dict())
    one = run(model)
    torch.rand(7)  # what is drawn elsewhere does not matter
    other, third = run(model), run(model, seed=1)
    assert same(model.state_dict(), before)
    assert same(one.state, other.state)
    assert same(one.raw, other.raw)
    np.testing.assert_array_equal(one.losses, other.losses)
    assert not same(one.state, third.state)
    assert one.seconds > 0
    assert (one.steps, one.seed, one.balancing) == (12, 0, None)


def seen_by(**options):
    """Images and noise of the first batch, from what the model saw."""
    model = Denoiser()
    deep = model.seen
    model.__deepcopy__ = lambda memo: model
    run(model, steps=3, **options)
    return deep


def together(passes, batches):
    """Batches whose intervals were seen one after the other, in the order of the same batches seen at once."""
    found, labels = [], torch.from_numpy(INTERVALS.labels)
    for number, (_, t) in enumerate(batches):
        x, times = (torch.cat(part) for part in zip(*passes[number * 3 : number * 3 + 3], strict=True))
        order = labels[t].argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        torch.testing.assert_close(times[inverse], t)
        found.append((x[inverse], t))
    return found


def test_methods_see_the_same_images_and_noise():
    pytest.importorskip("torchjd")
    schedule = SCHEDULE
    firsts = []
    for options in (
        {},
        {"span": (30, 59)},
        {"tasks": IntervalTasks(INTERVALS)},
        {"tasks": IntervalTasks(INTERVALS, "pcgrad")},
    ):
        parts = []
        batches = seen_by(**options)
        if len(firsts) == 3:  # one pass an interval: back into the order of the batch
            batches = together(batches, seen_by(tasks=IntervalTasks(INTERVALS)))
        for x, t in batches:
            a, s = (values[t].float().view(-1, 1, 1, 1) for values in (schedule.signal, schedule.noise))
            parts.append((x, a, s))
        firsts.append(parts)
    # x = a clean + s noise: two steps of the same image and noise give both
    for one, other in itertools.combinations(firsts, 2):
        for (x, a, s), (y, b, r) in zip(one, other, strict=True):
            if torch.equal(a, b):  # two methods with intervals have the same time steps too
                torch.testing.assert_close(x, y)
                continue
            apart = ((a * r - b * s).abs() > 0.2).flatten()
            clean = ((r * x - s * y) / (a * r - b * s))[apart]
            assert apart.any()
            nearest = (clean.unsqueeze(1) - IMAGES.unsqueeze(0)).abs().flatten(2).amax(2).min(1).values
            assert float(nearest.max()) < 1e-4


def test_time_steps_of_vanilla_expert_and_tasks():
    vanilla = torch.cat([t for _, t in seen_by(batch=200)])
    assert (int(vanilla.min()), int(vanilla.max())) == (0, 99)
    expert = torch.cat([t for _, t in seen_by(batch=200, span=(30, 59))])
    assert (int(expert.min()), int(expert.max())) == (30, 59)
    for _, t in seen_by(tasks=IntervalTasks(INTERVALS)):
        assert [int(((t >= first) & (t <= last)).sum()) for first, last in INTERVALS.spans] == [3, 3, 3]


@pytest.mark.parametrize("name", [None, "uncertainty", "marigold", "pcgrad"])
def test_weights_are_averaged_with_every_method(name):
    """The code of the authors forgets it in one branch."""
    if name == "pcgrad":
        pytest.importorskip("torchjd")
    trained = run(tasks=None if name is None else IntervalTasks(INTERVALS, name), steps=30, learning_rate=1e-2)
    start = Denoiser().state_dict()
    for key, value in trained.state.items():
        assert not torch.equal(value, start[key])
        assert not torch.equal(value, trained.raw[key])


def test_losses_of_intervals():
    trained = run(tasks=IntervalTasks(INTERVALS), batch=2)
    assert trained.losses.shape == (12, 3)
    assert (np.isnan(trained.losses).sum(1) == 1).all()
    assert trained.balancing.startswith("uncertainty")


def test_tasks_start_anew_in_every_training():
    tasks = IntervalTasks(INTERVALS)
    one = run(tasks=tasks)
    assert tasks.balancer.steps == 0
    assert same(one.state, run(tasks=tasks).state)


def test_checkpoints_are_weights_on_the_way():
    trained = run(checkpoints=(4, 12))
    assert list(trained.checkpoints) == [4, 12]
    assert same(trained.checkpoints[4], run(steps=4).raw)
    assert same(trained.checkpoints[12], trained.raw)


def test_a_finished_training_is_found_again(tmp_path):
    options = {"tasks": IntervalTasks(INTERVALS), "checkpoints": (5,)}
    calls = []
    with open_run(tmp_path / "run", fingerprint="f", settings={}) as store:
        one = run(store=store, progress=lambda *call: calls.append(call), **options)
    assert calls == [("train", 12, 12)]
    with open_run(tmp_path / "run", fingerprint="f", settings={}) as store:
        other = run(store=store, progress=lambda *call: calls.append(call), **options)
        assert len(calls) == 1
        assert same(one.state, other.state)
        assert same(one.raw, other.raw)
        assert same(one.checkpoints[5], other.checkpoints[5])
        np.testing.assert_array_equal(one.losses, other.losses)
        assert one.seconds == other.seconds
        changed = [{"seed": 1}, {"learning_rate": 2e-3}, {"batch": 8}, {"ema": 0.9}, {"max_norm": None}, {"steps": 11}]
        changed += [
            {"tasks": IntervalTasks(INTERVALS, "equal")},
            {"tasks": IntervalTasks(Intervals((0, 31, 60), 100, 0.0))},
        ]
        changed += [{"model": Denoiser(dropout=0.3)}]  # the same weights, another network
        changed += [{"tasks": None}, {"tasks": None, "span": (0, 9)}, {"tasks": IntervalTasks(INTERVALS, start=0.0)}]
        for number, change in enumerate(changed):
            run(store=store, progress=lambda *call: calls.append(call), **{**options, **change})
            assert len(calls) == 2 + number, change
    with pytest.raises(SettingError, match="written down"):
        run(store=MemoryRun(), tasks=IntervalTasks(INTERVALS, get_balancer("equal", 3)))


def test_batches_go_round():
    stream = batches(5, 3, torch.Generator().manual_seed(0))
    rows = torch.cat([next(stream) for _ in range(10)])
    for part in rows.split(5):
        assert sorted(part.tolist()) == list(range(5))
    assert sorted(next(batches(2, 6, torch.Generator())).tolist()) == [0, 0, 0, 1, 1, 1]


def test_wrong_settings_are_refused():
    for options, match in [
        ({"tasks": IntervalTasks(INTERVALS), "span": (0, 9)}, "exclude"),
        ({"span": (5, 100)}, "0..99"),
        ({"span": (9, 5)}, "0..99"),
        ({"tasks": IntervalTasks(Intervals((0, 5), 10, 0.0))}, "100 time steps"),
        ({"steps": 0}, "`steps`"),
        ({"batch": 0}, "`batch`"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"max_norm": -1.0}, "max_norm"),
        ({"ema": 1.0}, "`ema`"),
        ({"checkpoints": (13,)}, "checkpoints"),
        ({"checkpoints": (2.5,)}, "checkpoints"),
        ({"span": (3,)}, "`span`"),
        ({"span": ()}, "`span`"),
        ({"span": 3}, "`span`"),
        ({"span": (0.0, 3.0)}, "`span`"),
        ({"learning_rate": "1e-3"}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"learning_rate": None}, "learning_rate"),
        ({"max_norm": "1"}, "max_norm"),
        ({"ema": "x"}, "`ema`"),
        ({"ema": math.nan}, "`ema`"),
        ({"steps": 1.5}, "`steps`"),
    ]:
        with pytest.raises(SettingError, match=match):
            run(**options)
    with pytest.raises(SettingError, match="`images`"):
        train_denoiser(Denoiser(), IMAGES[:, 0], SCHEDULE, DenoiserRecipe(steps=1))
    with pytest.raises(SettingError, match=r"`images`.*ndarray.*from_numpy"):
        train_denoiser(Denoiser(), IMAGES.numpy(), SCHEDULE, DenoiserRecipe(steps=1))
    with pytest.raises(SettingError, match="`model`"):
        train_denoiser(lambda x, t: x, IMAGES, SCHEDULE, DenoiserRecipe(steps=1))


def test_no_other_generator_is_seeded(monkeypatch):
    """torch.manual_seed would seed all CUDA devices, and nobody would put them back."""

    def refuse(*_):
        raise AssertionError("seeded")

    model = Denoiser()  # seeds for itself
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    before = torch.get_rng_state()
    run(model, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_diverged_training_is_said():
    with pytest.warns(NumericsWarning, match="diverged"):
        run(learning_rate=1e30, max_norm=None)


def test_moving_average_of_a_constant_is_the_constant():
    model = nn.Linear(2, 2)
    average = moving_average(nn.Linear(2, 2), 0.9)
    for _ in range(3):
        average.update_parameters(model)
    torch.testing.assert_close(average.module.weight, model.weight)


@pytest.mark.slow
def test_the_loss_falls_on_the_digits():
    pytest.importorskip("diffusers")
    images = load_images("digits")
    torch.manual_seed(0)
    trained = train_denoiser(
        make_unet((16, 16), size=8),
        images.train,
        SCHEDULE,
        DenoiserRecipe(steps=250, learning_rate=2e-3),
        tasks=IntervalTasks(INTERVALS),
    )
    first, last = trained.losses[:10].mean(0), trained.losses[-30:].mean(0)
    assert (last < 0.6 * first).all()


@pytest.mark.gpu
def test_on_a_device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here, there = run(tasks=IntervalTasks(INTERVALS)), run(Denoiser().cuda(), tasks=IntervalTasks(INTERVALS))
    np.testing.assert_allclose(here.losses, there.losses, rtol=1e-3)
    assert all(value.device.type == "cpu" for value in there.state.values())
    torch.cuda.manual_seed(7)
    want = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(7)
    first = run(Denoiser(dropout=0.3).cuda(), steps=3)
    assert torch.equal(torch.rand(3, device="cuda"), want)
    again = run(Denoiser(dropout=0.3).cuda(), steps=3)
    np.testing.assert_allclose(first.losses, again.losses, rtol=1e-4)
