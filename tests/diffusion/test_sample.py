"""Samples, against the schedulers of diffusers."""

import pytest
import torch
from torch import nn

from coterie.diffusion.sample import draw_samples, trailing
from coterie.diffusion.schedule import NoiseSchedule
from coterie.diffusion.unet import make_unet
from coterie.errors import SettingError
from reference.diffusion import check_modes_are_put_back

diffusers = pytest.importorskip("diffusers")


class Denoiser(nn.Module):
    """Depends on image and time in a way that is not linear."""

    def __init__(self, channels=1):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = nn.Conv2d(1, channels, 3, padding=1), []

    def forward(self, x, t):
        assert not self.training
        self.seen.append(float(t[0]))
        return torch.tanh(self.layer(x) + (t / 1000).view(-1, 1, 1, 1))


def theirs(model, scheduler, count, steps, timesteps=None):
    x = torch.randn((count, 1, 4, 4), generator=torch.Generator().manual_seed(3))
    if timesteps is None:
        scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t.expand(count)), t, x).prev_sample
    return x


def ddim(prediction, clip):
    return diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=clip, timestep_spacing="trailing")


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_is_that_of_diffusers(prediction, clip, steps):
    model = Denoiser().eval()
    scheduler = ddim(prediction, clip)
    schedule = NoiseSchedule.from_diffusers(scheduler)
    ours = draw_samples(model, schedule, 3, (1, 4, 4), steps=steps, seed=3, clip=clip)
    expected = theirs(model, scheduler, 3, steps)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(ours / scale, expected / scale, atol=1e-5, rtol=0)


def test_time_steps_are_those_of_diffusers():
    for steps in (1, 4, 7, 30, 999, 1000):
        scheduler = ddim("epsilon", False)
        scheduler.set_timesteps(steps)
        assert trailing(1000, steps) == scheduler.timesteps.tolist()


def test_euler_is_that_of_diffusers():
    model = Denoiser().eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    schedule = NoiseSchedule.from_diffusers(scheduler)
    ours = draw_samples(model, schedule, 3, (1, 4, 4), steps=20, seed=3)
    times = list(model.seen)
    # their default spacing is another one; with the same sigmas the steps are the same
    scheduler.set_timesteps(sigmas=schedule.noise[trailing(1000, 20)].numpy())
    expected = theirs(model, scheduler, 3, 20, timesteps="set")
    assert times == pytest.approx(scheduler.timesteps.tolist())
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["ddim", "flow"])
def test_a_scheduler_of_diffusers_takes_its_own_steps(kind):
    make = {"ddim": lambda: ddim("epsilon", True), "flow": diffusers.FlowMatchEulerDiscreteScheduler}[kind]
    model = Denoiser().eval()
    ours = draw_samples(model, make(), 3, (1, 4, 4), steps=5, seed=3, batch=3)
    torch.testing.assert_close(ours, theirs(model, make(), 3, 5), atol=1e-6, rtol=0)


def test_a_perfect_denoiser_gives_the_data():
    """All images are one image: whatever is predicted, every sample is that image."""
    image = torch.linspace(-0.9, 0.9, 16).view(1, 1, 4, 4)
    for prediction in ("epsilon", "v", "sample", "flow"):
        if prediction == "flow":
            schedule = NoiseSchedule.from_sigmas(torch.linspace(0.01, 1, 100))
        else:
            schedule = NoiseSchedule.cosine(100, prediction)

        class Perfect(nn.Module):
            def __init__(self):
                super().__init__()
                self.unused = nn.Parameter(torch.zeros(1))

            def forward(self, x, given, schedule=schedule):
                t = torch.tensor([int((schedule.given - value).abs().argmin()) for value in given])
                a, s = (values[t].view(-1, 1, 1, 1).float() for values in (schedule.signal, schedule.noise))
                return schedule.target(image.expand_as(x), (x - a * image) / s, t)

        found = draw_samples(Perfect(), schedule, 2, (1, 4, 4), steps=8)
        torch.testing.assert_close(found, image.expand_as(found), atol=1e-4, rtol=0)


def test_samples_do_not_depend_on_the_batch_and_the_model_is_left_as_it_was():
    model = Denoiser(channels=2).train()  # the second channel is a learned variance
    schedule = NoiseSchedule.cosine(50)
    together, parts = (draw_samples(model, schedule, 5, (1, 4, 4), steps=4, batch=size) for size in (5, 2))
    torch.testing.assert_close(together, parts)
    assert model.training
    other = draw_samples(model, schedule, 5, (1, 4, 4), steps=4, seed=1)
    assert not torch.allclose(together, other)
    with pytest.raises(SettingError, match="from 1 to 50"):
        draw_samples(model, schedule, 5, (1, 4, 4), steps=51)
    with pytest.raises(SettingError, match="`count`"):
        draw_samples(model, schedule, 0, (1, 4, 4))


@pytest.mark.parametrize("fails", [False, True])
def test_modes_are_put_back_one_by_one(fails):
    model, schedule = Denoiser(), NoiseSchedule.cosine(50)
    check_modes_are_put_back(
        model, model.layer, lambda: draw_samples(model, schedule, 2, (1, 4, 4), steps=2), fails=fails
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schedule": None}, "`schedule`"),
        ({"schedule": [0.1, 0.2]}, "`schedule`"),
        ({"model": None}, "`model`"),
        ({"shape": (1, 4.5, 4)}, "`shape`"),
        ({"shape": 16}, "`shape`"),
        ({"steps": 2.5}, "`steps`"),
        ({"batch": 1.5}, "`batch`"),
    ],
)
def test_wrong_arguments_are_refused(change, word):
    given = {"model": Denoiser(), "schedule": NoiseSchedule.cosine(50), "count": 2, "shape": (1, 4, 4), "steps": 2}
    with pytest.raises(SettingError, match=word):
        draw_samples(**{**given, **change})


@pytest.mark.parametrize("channels", [16, (16.0,), "16", ()])
def test_wrong_channels_are_refused(channels):
    with pytest.raises(SettingError, match="`channels`"):
        make_unet(channels)


def test_unet():
    torch.manual_seed(0)
    unet = make_unet((8, 16, 16), image_channels=3, size=8)
    found = unet(torch.randn(2, 3, 8, 8), torch.tensor([0, 7])).sample
    assert found.shape == (2, 3, 8, 8)
    assert not [name for name, _ in unet.named_parameters() if "attention" in name]
    with pytest.raises(SettingError, match="multiples of 8"):
        make_unet((12, 16))
    with pytest.raises(SettingError, match="multiple of 4"):
        make_unet((8, 8, 8), size=14)
