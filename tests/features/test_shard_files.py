"""Stored features prove that they are whole and whose they are."""

import random
import warnings

import pytest
import torch

from coterie.errors import StoreError, StoreWarning
from coterie.features import shards as shard_files

TENSORS = {"g": torch.arange(40.0).reshape(8, 5), "starts": torch.tensor([0, 3, 8])}
FACTS = {"mode": "reverse", "source": [1, 2]}


def write(folder, name="a", tensors=TENSORS):
    shard_files.write(folder / name, shard_files.encode(name, tensors, FACTS))
    return folder / name


def test_a_whole_shard_comes_back(tmp_path):
    path = write(tmp_path)
    assert not shard_files.whole(tmp_path / "b")
    assert shard_files.whole(path)
    for data in (path.read_bytes(), None):
        tensors, facts = shard_files.read(data, tmp_path, "a")
        assert facts == FACTS
        assert all(bool((tensors[name] == value).all()) for name, value in TENSORS.items())


def flip(data, rng):
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)


def zero(data, rng):
    place = rng.randrange(len(data) - 16)
    changed = any(data[place : place + 16])
    data[place : place + 16] = bytes(16)
    if not changed:
        flip(data, rng)


def cut(data, rng):
    del data[rng.randrange(len(data)) :]


def lengthen(data, rng):
    data += bytes(rng.randrange(1, 9))


@pytest.mark.parametrize("damage", [flip, zero, cut, lengthen])
def test_any_damage_is_found(tmp_path, damage):
    path, rng = write(tmp_path), random.Random(0)
    good = path.read_bytes()
    for _ in range(200):
        data = bytearray(good)
        damage(data, rng)
        with pytest.raises(StoreError, match=r"is damaged|is one of"):
            shard_files.read(bytes(data), None, "a")
    path.write_bytes(bytes(data))
    with pytest.warns(StoreWarning, match="damaged and are computed again"):
        assert not shard_files.whole(path)


def test_a_shard_of_other_rows_or_of_another_model_is_not_taken(tmp_path):
    first = write(tmp_path, "a")
    second = write(tmp_path, "b", {name: value + 1 for name, value in TENSORS.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shard_files.whole(first)
    first.write_bytes(second.read_bytes())
    with pytest.warns(StoreWarning, match="other rows, or of another model"):
        assert not shard_files.whole(first)
    with pytest.raises(StoreError, match="other rows"):
        shard_files.read(None, tmp_path, "a")
