"""Validation losses, and gaps between models."""

import numpy as np
import pytest
import torch
from torch import nn

from coterie.diffusion.evaluate import mean_difference, negative_transfer_gap, step_losses
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import SettingError
from coterie.grouping import Intervals
from reference.diffusion import check_modes_are_put_back

SCHEDULE = NoiseSchedule.cosine(60, "sample")
INTERVALS = Intervals((0, 7, 40), 60, cost=0.0)
IMAGES = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Constant(nn.Module):
    """Predicts one image; remembers the times that it was asked about."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.dropout, self.times, self.seen = nn.Dropout(0.5), [], []

    def forward(self, x, t):
        self.times.append(t.clone())
        self.seen.append(x.clone())
        return self.dropout(self.value.expand_as(x))


def test_losses_of_a_constant_prediction():
    """With the image as target the loss is known, whatever noise and steps were drawn."""
    model = Constant(0.5).train()
    found = step_losses(model, IMAGES, SCHEDULE, INTERVALS, draws=2)
    expected = (IMAGES - 0.5).square().mean((1, 2, 3)).double().numpy()
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 3, 1), rtol=1e-5)
    assert model.training


def test_each_part_of_each_interval_is_asked_about():
    model = Constant()
    step_losses(model, IMAGES, SCHEDULE, INTERVALS, draws=5, batch=100)
    for i, (first, last) in enumerate(INTERVALS.spans):
        t = model.times[i].view(-1, 5)
        edges = first + np.arange(6) / 5 * (last - first + 1)
        for part in range(5):
            assert int(t[:, part].min()) >= np.floor(edges[part])
            assert int(t[:, part].max()) <= np.ceil(edges[part + 1]) - 1
    seen = torch.cat(model.times).unique()
    assert len(seen) > 45


def test_nothing_depends_on_batch_or_on_which_intervals_are_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    model.forward = lambda x, t: model[0](x)
    whole = step_losses(model, IMAGES, SCHEDULE, INTERVALS, draws=3)
    for options in ({"batch": 1}, {"batch": 7}):
        np.testing.assert_allclose(
            step_losses(model, IMAGES, SCHEDULE, INTERVALS, draws=3, **options), whole, rtol=1e-5
        )
    part = step_losses(model, IMAGES, SCHEDULE, INTERVALS, draws=3, only=[2])
    assert np.isnan(part[:, :2]).all()
    np.testing.assert_allclose(part[:, 2], whole[:, 2], rtol=1e-5)
    np.testing.assert_allclose(step_losses(model, IMAGES[:8], SCHEDULE, INTERVALS, draws=3), whole[:8], rtol=1e-5)
    other = step_losses(model, IMAGES, SCHEDULE, INTERVALS, draws=3, seed=1)
    assert not np.allclose(other, whole)


def test_the_noise_is_standard_normal():
    schedule = NoiseSchedule(torch.zeros(60), torch.ones(60), "sample")
    model = Constant()
    step_losses(model, torch.zeros(60, 1, 8, 8), schedule, INTERVALS, draws=3, batch=1000)
    noise = torch.cat(model.seen).flatten(1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    correlation = np.corrcoef(noise[:60].numpy())
    assert np.abs(correlation - np.eye(60)).max() < 0.7  # 64 pixels each: no two draws are the same


def test_gap_has_the_sign_of_the_paper():
    better = np.full((5, 2), [0.1, 0.9])
    shared = np.full((5, 2), 0.5)
    assert [gap.mean < 0 for gap in negative_transfer_gap(better, shared)] == [True, False]


def losses(seed=0, seeds=3, n=40):
    rng = np.random.default_rng(seed)
    image = rng.gamma(4, 0.1, size=(1, n, 2))
    return image * rng.lognormal(0, 0.02, size=(seeds, n, 2)), image * rng.lognormal(0.1, 0.02, size=(seeds, n, 2))


def test_pairing_makes_intervals_narrow():
    one, other = losses()
    paired = mean_difference(one, other)
    shuffled = mean_difference(one, other[:, np.random.default_rng(0).permutation(40)])
    for narrow, wide in zip(paired, shuffled, strict=True):
        assert narrow.high < 0
        assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
        assert narrow.mean == pytest.approx(wide.mean)


def test_relative_difference_does_not_depend_on_the_unit():
    one, other = losses()
    base = mean_difference(one, other, relative=True)
    for found, scaled in zip(base, mean_difference(7 * one, 7 * other, relative=True), strict=True):
        assert found.mean == pytest.approx(scaled.mean)
        assert found.low == pytest.approx(scaled.low)
    expected = ((one - other).mean(1) / other.mean(1)).mean(0)
    assert [found.mean for found in base] == pytest.approx(expected.tolist())


def test_a_constant_ratio_is_known_exactly_however_much_images_differ():
    base = np.random.default_rng(0).gamma(2, 1, size=(3, 30, 1))
    found = mean_difference(0.9 * base, base, relative=True)[0]
    assert (found.low, found.mean, found.high) == pytest.approx((-0.1, -0.1, -0.1), abs=1e-12)


@pytest.mark.parametrize("relative", [False, True])
def test_interval_covers_images_for_one_seed_and_seeds_for_several(relative):
    """The share of repetitions whose interval has the true value in it, which should be 95 %."""
    hits = {1: 0, 4: 0}
    for repetition in range(120):
        rng = np.random.default_rng(repetition)
        for seeds in hits:
            base = np.broadcast_to(rng.gamma(4, 0.25, size=(1, 60, 1)), (seeds, 60, 1))
            shift = rng.normal(0, 0.02 if seeds > 1 else 0, size=(seeds, 1, 1))
            one = base * (0.9 + shift + rng.normal(0, 0.1, size=(1, 60, 1)))
            found = mean_difference(one, base, relative=relative)[0]
            hits[seeds] += found.low <= -0.1 <= found.high
    assert all(hit / 120 > 0.88 for hit in hits.values()), hits


@pytest.mark.parametrize("fails", [False, True])
def test_modes_are_put_back_one_by_one(fails):
    model = Constant()
    check_modes_are_put_back(model, model.dropout, lambda: step_losses(model, IMAGES, SCHEDULE, INTERVALS), fails=fails)


def test_wrong_losses_are_refused():
    one, other = losses()
    with pytest.raises(SettingError, match="same shape"):
        mean_difference(one, other[:2])
    one[0, 0, 0] = np.nan
    with pytest.raises(SettingError, match="not finite"):
        mean_difference(one, other)
    with pytest.raises(SettingError, match="60 time steps"):
        step_losses(Constant(), IMAGES, SCHEDULE, Intervals((0,), 50, 0.0))
    with pytest.raises(SettingError, match="`draws`"):
        step_losses(Constant(), IMAGES, SCHEDULE, INTERVALS, draws=0)
    with pytest.raises(SettingError, match="different lengths"):
        mean_difference([[1.0], [1.0, 2.0]], [[1.0], [1.0]])
    with pytest.raises(SettingError, match="`images`"):
        step_losses(Constant(), IMAGES.numpy(), SCHEDULE, INTERVALS)
    with pytest.raises(SettingError, match="`model`"):
        step_losses(lambda x, t: x, IMAGES, SCHEDULE, INTERVALS)
    with pytest.raises(SettingError, match="`seed`"):
        step_losses(Constant(), IMAGES, SCHEDULE, INTERVALS, seed=-1)
    with pytest.raises(SettingError, match="`only`"):
        step_losses(Constant(), IMAGES, SCHEDULE, INTERVALS, only=[3])
