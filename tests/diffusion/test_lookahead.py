"""Looking ahead against its definition, its first order, and a model with known losses."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from coterie import Context
from coterie.diffusion.gradients import ProbeSettings
from coterie.diffusion.lookahead import lookahead_affinity
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import ModelError, SettingError
from reference.diffusion import TinyDenoiser, drawn, full_gradient, mean_loss

SCHEDULE = NoiseSchedule.linear(30)
ABAR = SCHEDULE.signal**2
IMAGES = torch.rand(8, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
STEPS = [0, 12, 29]


def make():
    torch.manual_seed(1)
    return TinyDenoiser().double()


def prepared():
    rows, noise = drawn(IMAGES, 6, 3)
    return make().eval(), IMAGES[rows], noise.float().double()


def test_equals_its_definition():
    rate = 0.3
    found = lookahead_affinity(
        make(), IMAGES, SCHEDULE, ProbeSettings(steps=STEPS, examples=6, batch=4), Context(seed=3), learning_rate=rate
    )
    model, images, noise = prepared()
    before = [mean_loss(model, ABAR, images, noise, t).item() for t in STEPS]
    for column, source in enumerate(STEPS):
        other = copy.deepcopy(model)
        gradient = full_gradient(other, mean_loss(other, ABAR, images, noise, source))
        start = 0
        with torch.no_grad():
            for p in other.parameters():
                p -= rate * gradient[start : start + p.numel()].view_as(p)
                start += p.numel()
        after = [mean_loss(other, ABAR, images, noise, t).item() for t in STEPS]
        np.testing.assert_allclose(found.values[:, column], 1 - np.divide(after, before), atol=1e-9)
    assert found.kind == "lookahead"


def test_first_order():
    """The error against lr <g_t, g_s> / L_t falls with the square of lr."""
    model, images, noise = prepared()
    losses = [mean_loss(model, ABAR, images, noise, t) for t in STEPS]
    gradients = torch.stack([full_gradient(model, loss) for loss in losses])
    first = (gradients @ gradients.T / torch.tensor([loss.item() for loss in losses])[:, None]).numpy()
    errors = []
    for rate in (0.02, 0.01, 0.005):
        probe = ProbeSettings(steps=STEPS, examples=6)
        found = lookahead_affinity(model, IMAGES, SCHEDULE, probe, Context(seed=3), learning_rate=rate)
        errors.append(np.abs(found.values / rate - first).max())
    assert errors[0] < 0.2 * np.abs(first).max()
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


class Scales(nn.Module):
    """Predicts w[t] x plus, at step 1 only, a little of w[0] x: step 1 moves both parameters, step 0 the first only."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, -0.3]))

    def forward(self, x, t):
        late = t.view(-1, 1, 1, 1).float()
        return (1 - late) * self.w[0] * x + late * (0.1 * self.w[0] + self.w[1]) * x


def test_rows_are_targets():
    """L_t = r_t^2 E eps^2 for images of zeros, with r_0 = 1 - s_0 w0 and r_1 = 1 - s_1 (0.1 w0 + w1)."""
    s0, s1, rate = 0.6, 0.8, 0.05
    schedule = NoiseSchedule(torch.tensor([0.8, 0.6]), torch.tensor([s0, s1]))
    images = torch.zeros(16, 1, 4, 4)
    v = float(drawn(images, 16, 0)[1].square().mean())
    found = lookahead_affinity(Scales(), images, schedule, ProbeSettings(steps=[0, 1]), learning_rate=rate).values
    r0, r1 = 1 - s0 * 0.5, 1 - s1 * (0.1 * 0.5 - 0.3)
    to_zero, to_one = rate * 2 * s0 * r0 * v, rate * 2 * s1 * r1 * v  # step 1 moves w1, and w0 by a tenth of that
    want = [
        [1 - (1 - s0 * to_zero / r0) ** 2, 1 - (1 - s0 * 0.1 * to_one / r0) ** 2],
        [1 - (1 - s1 * 0.1 * to_zero / r1) ** 2, 1 - (1 - s1 * (0.01 + 1) * to_one / r1) ** 2],
    ]
    np.testing.assert_allclose(found, want, atol=2e-6)
    assert abs(want[0][1] - want[1][0]) > 5e-3  # a swap would be seen


def test_the_asymmetry_is_that_of_the_losses():
    """A target with a larger loss has the smaller share."""
    found = lookahead_affinity(
        make(), IMAGES, SCHEDULE, ProbeSettings(steps=STEPS, examples=6), Context(seed=3), learning_rate=1e-4
    ).values
    model, images, noise = prepared()
    losses = np.array([mean_loss(model, ABAR, images, noise, t).item() for t in STEPS])
    np.testing.assert_allclose(found * losses[:, None], (found * losses[:, None]).T, rtol=5e-3, atol=1e-9)
    assert np.abs(losses[:, None] / losses[None, :] - 1).max() > 0.02


def test_parameters_come_back_bit_for_bit():
    model = make().float().train()
    before = copy.deepcopy(model.state_dict())
    lookahead_affinity(
        model, IMAGES.float(), SCHEDULE, ProbeSettings(stride=7, parameters=["first", "last"]), learning_rate=0.1
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ModelError, match="learning_rate"):
        lookahead_affinity(model, IMAGES.float(), SCHEDULE, ProbeSettings(stride=7), learning_rate=1e38)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_learning_rate(rate):
    with pytest.raises(SettingError, match="learning_rate"):
        lookahead_affinity(make(), IMAGES, SCHEDULE, learning_rate=rate)
