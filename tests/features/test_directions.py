from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coterie.errors import SettingError
from coterie.features import RandomDirections
from coterie.features.directions import StackedDirections
from reference.plain_features import dense_matrix

SHAPES = {"a": (3, 5), "b": (7,), "c": (), "d": (9, 8)}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10), st.data())
def test_chunks_are_slices_of_the_whole(count: int, seed: int, data: st.DataObject) -> None:
    directions = RandomDirections(SHAPES, count, seed)
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    whole, chunk = directions.chunk(0, count), directions.chunk(start, stop)
    for name, shape in SHAPES.items():
        assert chunk[name].shape == (stop - start, *shape)
        assert torch.equal(chunk[name], whole[name][start:stop])


def test_entries_are_balanced_signs() -> None:
    matrix = dense_matrix(RandomDirections({"w": (100, 20)}, 100, 1)) * 10
    assert torch.allclose(matrix.abs(), torch.ones(()))
    assert abs(float(matrix.mean())) < 0.01
    gram = matrix.T @ matrix / 2000 - torch.eye(100)
    assert float(gram.abs().max()) < 0.15


def test_seed_name_and_direction_matter_and_nothing_else() -> None:
    def one(name: str, seed: int, count: int = 4) -> torch.Tensor:
        return RandomDirections({"x": (2,), name: (64,)}, count, seed).chunk(0, 2)[name].sign()

    assert torch.equal(one("w", 0), one("w", 0, count=9))
    assert not torch.equal(one("w", 0), one("w", 1))
    assert not torch.equal(one("w", 0), one("v", 0))
    assert not torch.equal(one("w", 0)[0], one("w", 0)[1])


def test_known_bits() -> None:
    """The projection of old runs must not change with the code."""
    found = RandomDirections({"layer.weight": (8,)}, 4, seed=7).chunk(2, 3)["layer.weight"][0]
    assert (found > 0).int().tolist() == [1, 1, 1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("kind", ["random", "stacked"])
def test_displacement_is_the_matrix_product(kind: str) -> None:
    directions = RandomDirections(SHAPES, 50, 0)
    used = directions if kind == "random" else StackedDirections(directions.chunk(0, 50))
    u = torch.randn(3, 50)
    expected = dense_matrix(directions) @ u.T
    many, one = used.displacement(u), used.displacement(u[1])
    assert torch.allclose(torch.cat([many[n].reshape(3, -1) for n in SHAPES], 1).T, expected, atol=1e-4)
    assert torch.allclose(torch.cat([one[n].reshape(-1) for n in SHAPES]), expected[:, 1], atol=1e-4)
    assert {n: tuple(one[n].shape) for n in SHAPES} == SHAPES
    assert used.size == 15 + 7 + 1 + 72


def test_of_a_model_takes_trained_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    assert RandomDirections.of(model, 3).names == ("0.weight", "1.weight", "1.bias")
    assert RandomDirections.of(model, 3, names=("1.bias",)).shapes == {"1.bias": (1,)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomDirections(SHAPES, 0),
        lambda: RandomDirections({}, 3),
        lambda: StackedDirections({}),
        lambda: StackedDirections({"a": torch.ones(2, 3), "b": torch.ones(3, 3)}),
        lambda: StackedDirections({"a": torch.tensor([[float("nan")]])}),
        lambda: RandomDirections(SHAPES, 3).displacement(torch.ones(4)),
    ],
)
def test_bad_settings(make) -> None:
    with pytest.raises(SettingError, match="Parameter"):
        make()
