"""Losses of single time steps against the formula, image by image."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch.nn.functional import mse_loss

from coterie.diffusion.denoising import as_output, denoising_losses
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import ModelError
from reference.diffusion import TinyDenoiser, mean_loss

IMAGES, NOISE = (torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(n)) for n in range(2))
STEPS = torch.tensor([0, 3, 7, 9])


def test_losses_equal_the_formula():
    scheduler = diffusers.DDPMScheduler(10, beta_end=0.5)
    schedule, model = NoiseSchedule.from_diffusers(scheduler), TinyDenoiser(classes=3).eval()
    labels = torch.tensor([0, 1, 2, 1])
    found = denoising_losses(model, schedule, IMAGES, NOISE, STEPS, labels)
    for row, step in enumerate(STEPS.tolist()):
        one = slice(row, row + 1)
        want = mean_loss(model, scheduler.alphas_cumprod, IMAGES[one], NOISE[one], step, labels[one])
        torch.testing.assert_close(found[row], want, atol=1e-5, rtol=1e-5)
    assert found.requires_grad


def test_the_time_of_flow_matching_reaches_the_model():
    schedule, seen = NoiseSchedule.from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler(10)), []
    found = denoising_losses(lambda x, t: seen.append(t) or 0 * x, schedule, IMAGES, NOISE, STEPS)
    assert seen[0].tolist() == [1.0, 4.0, 8.0, 10.0]  # its timesteps, not our indices
    torch.testing.assert_close(found.mean(), mse_loss(NOISE, IMAGES))


def test_a_learned_variance_is_not_looked_at():
    schedule = NoiseSchedule.linear(10)
    plain = denoising_losses(lambda x, t: x, schedule, IMAGES, NOISE, STEPS)
    more = denoising_losses(lambda x, t: torch.cat([x, 9 + x], 1), schedule, IMAGES, NOISE, STEPS)
    assert torch.equal(plain, more)


def test_outputs():
    x = torch.ones(2)
    assert as_output(x) is x
    assert as_output((x, None)) is x
    assert as_output(SimpleNamespace(sample=x)) is x
    for wrong in (None, (), [x], SimpleNamespace(logits=x)):
        with pytest.raises(ModelError, match="should return a tensor"):
            as_output(wrong)
    with pytest.raises(ModelError, match="shape of its images"):
        denoising_losses(lambda x, t: x[:, :, :2], NoiseSchedule.linear(10), IMAGES, NOISE, STEPS)
