"""The Frechet distance, and the features it is taken of."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.datasets.images import load_images
from coterie.diffusion.extractor import train_extractor
from coterie.diffusion.frechet import frechet_distance
from coterie.errors import SettingError
from coterie.store import MemoryRun


def sample(seed, n=60, d=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def reference(a, b):
    """With the square root of a matrix that is not symmetric, as it is usually computed."""
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(one @ other).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root)


@given(st.integers(0, 1000))
def test_against_scipy(seed):
    a, b = sample(seed), sample(seed + 5000, n=40)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_scaling_shift_and_rotation(seed, scale):
    a, b = sample(seed), sample(seed + 5000)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    base = frechet_distance(a, b)
    assert frechet_distance(scale * a @ turn + 3, scale * b @ turn + 3) == pytest.approx(scale**2 * base, rel=1e-7)


def test_closed_form_of_gaussians_that_commute():
    rng = np.random.default_rng(0)
    whitened = rng.normal(size=(500, 3))
    whitened -= whitened.mean(0)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(whitened, rowvar=False)), whitened.T).T
    one, other, shift = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5]), np.array([1.0, 0.0, -2.0])
    expected = (shift**2).sum() + ((one - other) ** 2).sum()
    assert frechet_distance(whitened * one, whitened * other + shift) == pytest.approx(expected)


def test_more_features_than_samples():
    a, b = sample(0, n=4, d=9), sample(1, n=5, d=9)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-4)


def test_small_samples_are_too_far_apart():
    """The bias that the docstring warns of: samples of one distribution, and a bootstrap would add it again."""
    rng = np.random.default_rng(0)
    small, large = (frechet_distance(rng.normal(size=(n, 8)), rng.normal(size=(n, 8))) for n in (50, 5000))
    assert small > 20 * large > 0


def test_wrong_features_are_refused():
    with pytest.raises(SettingError, match="5 and 4"):
        frechet_distance(sample(0), sample(0)[:, :4])
    with pytest.raises(SettingError, match="two samples"):
        frechet_distance(sample(0)[:1], sample(0))
    for wrong in ([[1.0], [1.0, 2.0]], [["a"], ["b"]]):
        with pytest.raises(SettingError, match=r"`b` should be an array"):
            frechet_distance(sample(0), wrong)
    broken = sample(0)
    broken[3, 2] = np.nan
    with pytest.raises(SettingError, match="Found 1 that"):
        frechet_distance(sample(0), broken)


def test_no_other_generator_is_seeded(monkeypatch):
    def refuse(*_):
        raise AssertionError("seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    monkeypatch.setattr("coterie.diffusion.extractor._fit", lambda *_: None)
    before = torch.get_rng_state()
    train_extractor(load_images("digits"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_features_of_the_digits():
    images, run = load_images("digits"), MemoryRun()
    extractor = train_extractor(images, store=run)
    assert extractor.accuracy > 0.93
    features = extractor.features(images.validation)
    assert features.shape == (397, 32)
    again = train_extractor(images, store=run)
    assert again.accuracy == extractor.accuracy
    np.testing.assert_array_equal(again.features(images.validation), features)
    real = extractor.features(images.train)
    noise = extractor.features(torch.rand(397, 1, 8, 8) * 2 - 1)
    assert frechet_distance(real, noise) > 20 * frechet_distance(real, features)
