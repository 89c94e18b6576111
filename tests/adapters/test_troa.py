"""TROA: the matrix, its orientation, and what it does to the attention."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.adapters import Image, Troa, attach
from coterie.adapters.troa import flat_gradients
from coterie.affinity import Affinity
from coterie.errors import SettingError
from reference.adapters import IMAGE, backbone, naive_troa, shake


def batches(steps=6, tasks=3, numbers=5, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=numbers)
    return [rng.normal(size=(tasks, numbers)) + 0.7 * shared for _ in range(steps)]


def run(found, **options):
    troa = Troa([f"t{i}" for i in range(len(found[0]))], **options)
    for gradients in found:
        troa.update(torch.from_numpy(np.asarray(gradients)))
    return troa


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
def test_equals_the_naive_reference(seed, tasks, steps):
    found = batches(steps, tasks, seed=seed)
    np.testing.assert_allclose(run(found).omega, naive_troa(found), atol=1e-12)


def test_other_settings_and_absent_tasks_equal_the_naive_reference():
    found = batches(8)
    found[0][1] = 0
    found[3][0] = 0
    found[4][:] = 0
    options = {"rate": 0.3, "decay": 0.5, "start": 0.5}
    np.testing.assert_allclose(run(found, **options).omega, naive_troa(found, **options), atol=1e-12)


def test_asymmetric_between_zero_and_one_with_a_diagonal_below_one():
    omega = run(batches(60, 4)).omega
    assert np.abs(omega - omega.T).max() > 0.01
    assert (omega >= 0).all()
    assert (omega <= 1).all()
    assert (np.diag(omega) < 1).all()
    assert np.abs(omega.sum(0) - 1).min() > 0.01


def test_orientation():
    """Task b does now what task a wanted before; a never does what b wanted. So b helps a: source b, target a."""
    e = np.eye(4)
    troa = run([[e[0], e[1]], [e[2], e[0]]], rate=1.0)
    assert troa.omega.tolist() == [[0, 0], [1, 0]]  # omega[source b, target a]
    assert troa.affinity.values[0, 1] == 1  # values[target a, source b]
    assert troa.affinity.values[1, 0] == 0
    adapted = attach(backbone("vit"), ["t0", "t1"])
    adapted.use_affinity(troa.affinity)
    assert torch.equal(adapted.embeddings(["t0"])[0], adapted.embeddings.vector("t1"))
    np.testing.assert_array_equal(adapted.embeddings.omega, troa.omega)
    np.testing.assert_array_equal(adapted.affinity.values, troa.affinity.values)


@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_scale_and_order_do_not_matter(seed, scale):
    found = batches(4, 4, seed=seed)
    order = np.random.default_rng(seed).permutation(4)
    base = run(found).omega
    np.testing.assert_allclose(run([g * scale for g in found]).omega, base, atol=1e-10)
    np.testing.assert_allclose(run([g[order] for g in found]).omega, base[np.ix_(order, order)], atol=1e-10)


def test_small_gradients_count():
    found = batches(4)
    small = [torch.from_numpy(g).float() * 1e-30 for g in found]
    np.testing.assert_allclose(run([g.numpy() for g in small]).omega, naive_troa(found), atol=1e-6)


def test_observe_takes_gradients_of_the_losses():
    x = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    unused = torch.zeros(2, requires_grad=True)
    losses = {"a": (x**2).sum(), "c": (x * torch.tensor([1.0, 2.0, 3.0])).sum()}
    rows = np.array([[2.0, -4, 1, 0, 0], [0] * 5, [1, 2, 3, 0, 0]])
    np.testing.assert_allclose(flat_gradients(list(losses.values()), [x, unused]).numpy(), rows[[0, 2]])
    troa = Troa(["a", "b", "c"])
    for _ in range(2):
        troa.observe(losses, [x, unused])
    np.testing.assert_allclose(troa.omega, naive_troa([rows, rows]), atol=1e-7)
    assert x.grad is None
    losses["a"].backward()  # the graph is still there


def test_effect_on_attention():
    """Gradients of a real step make an Omega that changes what the blocks attend to, and by the stated formula."""
    pytest.importorskip("transformers")
    model = backbone("swin")
    adapted = shake(attach(model, {"a": Image(1), "b": Image(1)}, layers=[0, 1]))
    x = torch.randn(4, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    troa = Troa(adapted.tasks)
    for half in (x[:2], x[2:]):
        found = adapted(half, task=["a", "b"])
        losses = {"a": found["a"].pow(2).mean(), "b": (found["b"] - half.mean((1, 2, 3))[:, None]).pow(2).mean()}
        troa.observe(losses, adapted.shared_parameters())
    omega = troa.omega
    assert omega[0, 1] != omega[1, 0]

    def attention():
        with torch.no_grad(), adapted.task("a"):
            return model(x[:1], output_attentions=True).attentions[0]

    before, alone = attention(), adapted.embeddings(["a"])
    adapted.use_affinity(troa.affinity)
    weights = omega[:, 0] / omega[:, 0].sum()
    want = sum(float(w) * e for w, e in zip(weights, adapted.embeddings.vectors, strict=True))
    torch.testing.assert_close(adapted.embeddings(["a"])[0], want)
    after = attention()
    assert (before - after).abs().max() > 1e-4
    # the bias on the logits is what the mixed embedding gives, and it is not that of the task alone
    taa = adapted.adapters[0].attention
    assert (taa(alone) - taa(want[None])).abs().max() > 1e-4
    adapted.use_affinity(Affinity(np.eye(2), ("a", "b"), kind="raw"))
    assert torch.equal(attention(), before)


def test_similarities_of_a_new_gradient():
    found = batches(3)
    troa = run(found)
    means = troa.means.numpy()
    new = np.random.default_rng(9).normal(size=5)
    got = troa.similarities(torch.from_numpy(new))
    for task, mean in zip(troa.tasks, means, strict=True):
        assert got[task] == pytest.approx(max(0, new @ mean / np.linalg.norm(new) / np.linalg.norm(mean)))


def test_bad_input():
    with pytest.raises(SettingError, match="rate"):
        Troa(["a"], rate=2)
    with pytest.raises(SettingError, match="tasks"):
        Troa([])
    troa = Troa(["a", "b"])
    with pytest.raises(SettingError, match="gradient"):
        troa.similarities(torch.ones(3))
    with pytest.raises(SettingError, match="gradients"):
        troa.update(torch.ones(3, 3))
    with pytest.raises(SettingError, match="finite"):
        troa.update(torch.full((2, 3), torch.nan))
    troa.update(torch.ones(2, 3))
    omega = troa.omega
    with pytest.raises(SettingError, match=r"seen so far, \(2, 3\). Found \(2, 4\)"):
        troa.update(torch.ones(2, 4))
    assert troa.omega is omega
    with pytest.raises(SettingError, match="losses"):
        troa.observe({"c": torch.ones(())}, [])
    with pytest.raises(SettingError, match="affinity"):
        attach(backbone("vit"), ["b", "a"]).use_affinity(troa.affinity)
