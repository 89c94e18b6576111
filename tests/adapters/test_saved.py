"""Adapters on disk."""

import json

import numpy as np
import pytest
import torch

from coterie.adapters import Dense, Image, attach, grow, load, save
from coterie.errors import SettingError, StoreError
from coterie.store.files import digest
from reference.adapters import IMAGE, backbone, shake

pytest.importorskip("transformers")

TASKS = {"a": Dense(2), "with.dots and spaces": Image(3), "c": None}


def pixels():
    return torch.randn(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(3))


def outputs(adapted):
    with torch.no_grad():
        found = [adapted(pixels(), task=task) for task in adapted.tasks]
    return [out if isinstance(out, torch.Tensor) else out.last_hidden_state for out in found]


def trained(adapted):
    return {name for name, p in adapted.own_parameters() if p.requires_grad}


def untouched(model):
    hooks = [hook for m in model.modules() for d in (m._forward_hooks, m._forward_pre_hooks) for hook in d.values()]
    ours = [hook for hook in hooks if hook.__module__.startswith("coterie")]
    return not ours and all(p.requires_grad for p in model.parameters())


def rewrite(folder, change, *, sealed=True):
    """Change the description on disk, by default with a checksum that fits."""
    path = folder / "adapters.json"
    found = {key: value for key, value in json.loads(path.read_text()).items() if key != "checksum" or not sealed}
    change(found)
    path.write_text(json.dumps({**found, "checksum": digest(found)} if sealed else found))


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
    # what grow froze stays frozen
    assert (
        trained(again) == trained(adapted) == {"embeddings.vectors.3", "heads.3.linear.weight", "heads.3.linear.bias"}
    )
    # the backbone is not in the file
    own = sum(p.numel() * 4 for _, p in adapted.own_parameters())
    assert own < (tmp_path / "run" / "adapters.safetensors").stat().st_size < own + 20_000


def test_bfloat16_comes_back(tmp_path):
    model, x = backbone("swin").bfloat16(), pixels().bfloat16()
    adapted = attach(model, {"a": Image(2)}, layers=[0, 2])
    shake(adapted.float()).bfloat16()
    before = adapted(x, task="a")
    assert before.dtype == torch.bfloat16
    save(adapted, tmp_path)
    again = load(tmp_path, adapted.detach())
    assert all(p.dtype == torch.bfloat16 for p in again.parameters())
    assert torch.equal(again(x, task="a"), before)


def test_format_1_is_read(tmp_path):
    adapted = shake(attach(backbone("vit"), TASKS))
    save(adapted, tmp_path)

    def older(found):
        found["format"] = 1
        del found["checksum"], found["frozen"]

    rewrite(tmp_path, older, sealed=False)
    again = load(tmp_path, backbone("vit"))
    assert all(torch.equal(p, q) for p, q in zip(outputs(again), outputs(adapted), strict=True))


def test_the_path_of_the_backbone_is_not_told(tmp_path):
    model = backbone("vit")
    model.save_pretrained(tmp_path / "somebody" / "private")
    model = type(model).from_pretrained(tmp_path / "somebody" / "private")
    save(attach(model, TASKS), tmp_path / "run")
    assert "somebody" not in (tmp_path / "run" / "adapters.json").read_text()


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
    with pytest.raises(SettingError, match="already"):
        load(tmp_path, other)


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
    rewrite(tmp_path, lambda found: found.update(format=99))
    with pytest.raises(StoreError, match="format"):
        load(tmp_path, backbone("vit"))
    tensors.unlink()
    save(attach(backbone("vit"), TASKS), tmp_path)
    tensors.unlink()
    with pytest.raises(StoreError, match="There is no file"):
        load(tmp_path, backbone("vit"))


def turn_tasks(found):
    found["tasks"].reverse()


@pytest.mark.parametrize(
    "change",
    [
        turn_tasks,
        lambda found: found.update(omega=[[1.0, 0.5], [0.0, 1.0]]),
        lambda found: found.pop("omega"),
        lambda found: found.pop("checksum"),
    ],
)
def test_a_changed_description_is_found(change, tmp_path):
    """Also where all that it says would fit."""
    save(attach(backbone("vit"), {"a": Image(2), "b": Image(2)}), tmp_path)
    rewrite(tmp_path, change, sealed=False)
    model = backbone("vit")
    with pytest.raises(StoreError, match="checksum"):
        load(tmp_path, model)
    assert untouched(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("sha256"),
        lambda found: found.pop("omega"),
        lambda found: found.pop("backbone"),
        lambda found: found.update(backbone={}),
        lambda found: found.update(omega=[[1.0]]),
        lambda found: found.update(omega="none"),
        lambda found: found.update(tasks=[{"name": "a"}]),
        lambda found: found.update(tasks=3),
        lambda found: found["tasks"][0].update(head={"kind": "other"}),
        lambda found: found.update(layers=[77]),
        lambda found: found.update(layers="first"),
        lambda found: found.update(embedding=None, decoder=None),
        lambda found: found.update(embedding=3),
        lambda found: found.update(frozen=["heads.9"]),
    ],
)
def test_a_description_that_does_not_fit_leaves_the_backbone(change, tmp_path):
    """Its checksum is right, so it was written like this."""
    save(attach(backbone("vit"), TASKS), tmp_path)
    rewrite(tmp_path, change)
    model = backbone("vit")
    with pytest.raises(StoreError, match=r"adapters\.(json|safetensors)"):
        load(tmp_path, model)
    assert untouched(model)
