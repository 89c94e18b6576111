"""A task that is added later."""

import numpy as np
import pytest
import torch

from coterie.adapters import Dense, Image, Troa, attach, grow
from coterie.adapters.troa import flat_gradients
from coterie.errors import ModelError, SettingError
from reference.adapters import IMAGE, backbone, shake

pytest.importorskip("transformers")

OMEGA = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.0], [0.1, 0.4, 0.7]])


def pixels(rows=2):
    return torch.randn(rows, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(3))


def known(name="swin"):
    adapted = shake(attach(backbone(name), {"a": Dense(1), "b": Image(2), "c": None}, layers=[0, 1, 2]))
    adapted.embeddings.set_omega(OMEGA)
    return adapted


@pytest.mark.parametrize("name", ["swin", "swinv2", "vit"])
@pytest.mark.parametrize("head", [Dense(3), Image(1)])
def test_old_outputs_stay_bit_by_bit(name, head):
    adapted, x = known(name), pixels()

    def old():
        with torch.no_grad():
            return [adapted(x, task="a"), adapted(x, task="b"), adapted(x, task="c").last_hidden_state]

    before = old()
    grow(adapted, "new", head, similarities={"a": 0.5, "b": 0.1})
    assert all(torch.equal(p, q) for p, q in zip(old(), before, strict=True))
    optimizer = torch.optim.AdamW(adapted.trainable(), lr=0.002)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (adapted(x, task="new") - 1).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert adapted.embeddings.vectors[3].grad.any()
    assert all(torch.equal(p, q) for p, q in zip(old(), before, strict=True))


def test_starts_as_the_mean_of_its_neighbours():
    adapted = known()
    weights = OMEGA / OMEGA.sum(0)
    grow(adapted, "new", similarities={"a": 0.6, "b": 0.2, "c": 0.1}, neighbours=2, own=0.3)
    column = 0.75 * weights[:, 0] + 0.25 * weights[:, 1]
    np.testing.assert_allclose(adapted.embeddings.weights[:, 3], [*(0.7 * column), 0.3])
    want = sum(float(w) * e for w, e in zip(column, adapted.embeddings.vectors, strict=False))
    torch.testing.assert_close(adapted.embeddings(["new"])[0], want)
    assert adapted.tasks == ("a", "b", "c", "new")
    assert (adapted.embeddings.omega[3, :3] == 0).all()


def test_zero_shot_from_one_neighbour_is_that_neighbour():
    adapted, x = known(), pixels()
    adapted.embeddings.set_omega(np.eye(3))
    grow(adapted, "new", similarities={"c": 1.0})
    one, two = adapted(x, task="c").last_hidden_state, adapted(x, task="new").last_hidden_state
    torch.testing.assert_close(one, two)


def test_only_the_new_task_is_trained():
    adapted = known()
    grow(adapted, "new", Dense(2), similarities={"a": 1.0})
    names = {name.rsplit(".layers", 1)[0] for name, p in adapted.own_parameters() if p.requires_grad}
    assert names == {"embeddings.vectors.3", "heads.3"}
    without = attach(backbone("vit"), {"b": Image(2)})
    grow(without, "new", Dense(2), similarities={"b": 1.0})
    trained = {name.split(".")[0] for name, p in without.own_parameters() if p.requires_grad}
    assert trained == {"embeddings", "heads", "decoder"}
    grow(without, "newer", similarities={"new": 1.0})
    assert [name for name, p in without.own_parameters() if p.requires_grad] == ["embeddings.vectors.2"]


def test_a_detached_model_does_not_grow():
    adapted = known("vit")
    model = adapted.detach()
    with pytest.raises(ModelError, match="detached"):
        grow(adapted, "new", similarities={"a": 1.0})
    assert all(p.requires_grad for p in model.parameters())


def test_similarities_from_gradients_of_labelled_examples():
    """A new task that is a known one again is most similar to it."""
    adapted, x = shake(attach(backbone("swin"), {"a": Image(1), "b": Image(1)}, layers=[1])), pixels(4)
    troa = Troa(adapted.tasks)
    targets = {"a": x.mean((1, 2, 3)), "b": -10 * x[:, 0].std((1, 2))}

    def losses(rows):
        return {t: (adapted(x[rows], task=t)[:, 0] - targets[t][rows]).pow(2).mean() for t in adapted.tasks}

    for rows in (slice(0, 2), slice(2, 4)):
        troa.observe(losses(rows), adapted.shared_parameters())
    gradient = flat_gradients([losses(slice(1, 3))["b"]], adapted.shared_parameters())[0]
    found = troa.similarities(gradient)
    assert found["b"] > found["a"]
    grow(adapted, "again", Image(1), similarities=found, neighbours=1)
    assert adapted.embeddings.weights[:, 2].tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("task", "arguments", "match"),
    [
        ("a", {"similarities": {"b": 1.0}}, "new name"),
        ("new", {"similarities": {"x": 1.0}}, "similarities"),
        ("new", {"similarities": {"a": -1.0}}, "similarities"),
        ("new", {"similarities": {"a": 0.0}}, "positive"),
        ("new", {"similarities": {}}, "positive"),
        (3, {"similarities": {"a": 1.0}}, "new name"),
        ("new", {"similarities": {"a": "much"}}, "similarities"),
        ("new", {"similarities": {"a": float("nan")}}, "similarities"),
        ("new", {"similarities": ["a"]}, "similarities"),
        ("new", {"similarities": {"a": 1.0}, "own": 0}, "own"),
        ("new", {"similarities": {"a": 1.0}, "neighbours": 0}, "neighbours"),
        ("new", {"similarities": {"a": 1.0}, "head": 3}, "head"),
    ],
)
def test_bad_settings_change_nothing(task, arguments, match):
    adapted = known()
    before = len(list(adapted.own_parameters()))
    with pytest.raises(SettingError, match=match):
        grow(adapted, task, **arguments)
    assert len(adapted.tasks) == 3
    assert len(list(adapted.own_parameters())) == before
    assert all(p.requires_grad for _, p in adapted.own_parameters())
