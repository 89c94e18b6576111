"""Adapters on disk."""

import json

import numpy as np
import pytest
import torch

from coterie.adapters import Dense, Image, attach, grow, load, save
from coterie.errors import SettingError, StoreError
from reference.adapters import IMAGE, backbone, shake

pytest.importorskip("transformers")

TASKS = {"a": Dense(2), "with.dots and spaces": Image(3), "c": None}


def pixels():
    return torch.randn(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(3))


def outputs(adapted):
    with torch.no_grad():
        found = [adapted(pixels(), task=task) for task in adapted.tasks]
    return [out if isinstance(out, torch.Tensor) else out.last_hidden_state for out in found]


@pytest.mark.parametrize("name", ["swin", "swinv2", "vit"])
def test_round_trip(name, tmp_path):
    adapted = shake(attach(backbone(name), TASKS, layers=[0, 2], decoder=8))
    adapted.embeddings.set_omega(np.random.default_rng(0).random((3, 3)))
    grow(adapted, "new", Image(1), similarities={"a": 1.0})
    before = outputs(adapted)
    save(adapted, tmp_path / "run")
    again = load(tmp_path / "run", backbone(name))
    assert again.tasks == adapted.tasks
    assert again.specs == adapted.specs
    assert (again.embeddings.omega == adapted.embeddings.omega).all()
    assert all(torch.equal(p, q) for p, q in zip(outputs(again), before, strict=True))
    # the backbone is not in the file
    own = sum(p.numel() * 4 for _, p in adapted.own_parameters())
    assert own < (tmp_path / "run" / "adapters.safetensors").stat().st_size < own + 20_000


def test_own_block_sizes_come_back(tmp_path):
    adapted = shake(attach(backbone("swin"), ["a"], block=49, embedding=5))
    save(adapted, tmp_path)
    model = adapted.detach()
    again = load(tmp_path, model)
    assert again.blocks == (49, 49)
    assert again.embeddings.size == 5


def test_another_backbone_is_refused(tmp_path):
    save(attach(backbone("vit"), TASKS), tmp_path)
    with pytest.raises(SettingError, match="model_type was 'vit', is 'swin'"):
        load(tmp_path, backbone("swin"))
    other = backbone("vit", seed=1)
    with pytest.raises(SettingError, match="weights are others"):
        load(tmp_path, other)
    assert not any(hook.__module__.startswith("coterie") for hook in other._forward_hooks.values())
    assert load(tmp_path, other, check_weights=False).tasks == tuple(TASKS)
    with pytest.raises(SettingError, match="model_type"):
        load(tmp_path, backbone("swin"), check_weights=False)


def test_damage_is_found(tmp_path):
    with pytest.raises(StoreError, match="no adapters"):
        load(tmp_path, backbone("vit"))
    save(attach(backbone("vit"), TASKS), tmp_path)
    tensors = tmp_path / "adapters.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        load(tmp_path, backbone("vit"))
    description = tmp_path / "adapters.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="format"):
        load(tmp_path, backbone("vit"))
    tensors.unlink()
    save(attach(backbone("vit"), TASKS), tmp_path)
    tensors.unlink()
    with pytest.raises(StoreError, match="Cannot read"):
        load(tmp_path, backbone("vit"))
