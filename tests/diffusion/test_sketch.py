"""Sketches of vectors against the vectors, and their errors against theory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.diffusion.sketch import CountSketch, _places
from coterie.errors import SettingError


def pair(cosine, count, seed=0):
    """Two vectors of length 1 with a given cosine."""
    rng = np.random.default_rng(seed)
    one, two = np.linalg.qr(rng.normal(size=(count, 2)))[0].T
    return torch.tensor(one), torch.tensor(cosine * one + (1 - cosine**2) ** 0.5 * two)


def errors(cosine, size, seeds=400, count=3000):
    """Errors of the scalar product and of the cosine over seeds of the sketch."""
    one, two = pair(cosine, count)
    found = []
    for seed in range(seeds):
        sketch = CountSketch({"w": count}, size, seed)
        a, b = sketch({"w": one}), sketch({"w": two})
        found.append((float(a @ b) - cosine, float(torch.cosine_similarity(a, b, dim=0)) - cosine))
    return np.array(found).T


@pytest.mark.parametrize("cosine", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("size", [64, 256])
def test_errors_follow_theory(cosine, size):
    product, angle = errors(cosine, size)
    want = np.sqrt((1 + cosine**2) / size), (1 - cosine**2) / np.sqrt(size)
    # the standard deviation of 400 draws is known to 3.5 percent, more for a skewed distribution
    assert product.std() == pytest.approx(want[0], rel=0.15)
    assert angle.std() == pytest.approx(want[1], rel=0.15)
    assert abs(product.mean()) < 4 * want[0] / np.sqrt(len(product))
    # a ratio is biased by about c (1 - c^2) / 2d
    assert abs(angle.mean()) < 4 * want[1] / np.sqrt(len(angle)) + 1 / size


@given(seed=st.integers(0, 1000), count=st.integers(1, 40), size=st.integers(1, 20))
def test_equals_a_matrix_of_signs(seed, count, size):
    places = _places(seed, "w", count, size).long()
    matrix = torch.zeros(size, count, dtype=torch.float64)
    matrix[places % size, torch.arange(count)] = torch.where(places < size, 1.0, -1.0).double()
    x = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(CountSketch({"w": count}, size, seed)({"w": x}), matrix @ x)


def test_buckets_and_signs_are_even():
    counts = torch.bincount(_places(3, "w", 40_000, 10), minlength=20)
    assert len(counts) == 20
    assert float(((counts - 2000.0) ** 2 / 2000).sum()) < 45  # chi-squared with 19 degrees of freedom, p = 7e-4


def test_depends_on_seed_name_and_place_only():
    x = torch.randn(30, generator=torch.Generator().manual_seed(0))
    sketch = CountSketch({"a": 30, "b": 30}, 8, seed=1)
    alone = CountSketch({"a": 30}, 8, seed=1)
    assert torch.equal(sketch({"a": x}), alone({"a": x.view(5, 6)}))
    assert not torch.equal(sketch({"a": x}), sketch({"b": x}))
    assert not torch.equal(alone({"a": x}), CountSketch({"a": 30}, 8, seed=2)({"a": x}))
    assert torch.equal(_places(1, "a", 30, 8)[:7], _places(1, "a", 7, 8))


def test_half_precision_is_added_up_in_single():
    x = torch.ones(100_000, dtype=torch.bfloat16)
    found = CountSketch({"w": len(x)}, 4)({"w": x})
    assert found.dtype == torch.float32
    assert torch.equal(found, CountSketch({"w": len(x)}, 4)({"w": x.float()}))


@pytest.mark.parametrize("size", [0, -1, True, 2**31, 10.5, "8"])
def test_bad_size(size):
    with pytest.raises(SettingError, match="size"):
        CountSketch({"w": 3}, size)
