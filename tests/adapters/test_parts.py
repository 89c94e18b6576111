"""The parts of an adapter, without a backbone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, softmax

from coterie.adapters.attention import TaskAdaptedAttention
from coterie.adapters.blocks import block_diagonal, block_size
from coterie.adapters.bottleneck import Bottleneck
from coterie.adapters.decoder import Decoder
from coterie.adapters.film import modulate
from coterie.adapters.heads import Dense, head_from_dict, head_to_dict
from coterie.adapters.logits import BiasedLogits
from coterie.adapters.merging import merge_skip
from coterie.adapters.norm import TaskScaledNorm
from coterie.adapters.task_embedding import TaskEmbeddings, column_weights
from coterie.errors import ModelError, SettingError
from reference.adapters import naive_block_diagonal


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module


def test_shapes_of_the_source():
    taa = TaskAdaptedAttention(49, 7, 343)
    assert taa.random_weight_matrix.shape == (49, 7)
    assert taa.film.gb_weights.weight.shape == (14, 343)
    bias = randomise(taa)(torch.randn(2, 343))
    assert bias.shape == (2, 49, 49)
    inside = torch.block_diag(*[torch.ones(7, 7)] * 7).bool()
    assert (bias[:, ~inside] == 0).all()
    assert (bias[:, inside] != 0).all()


def test_attention_matrix_is_the_formula():
    taa, z = randomise(TaskAdaptedAttention(16, 4, 8)), torch.randn(2, 8)
    bias = taa(z).detach().numpy()
    linear = taa.film.gb_weights
    for task in range(2):
        gamma, beta = (linear.weight @ z[task] + linear.bias).detach().numpy().reshape(2, 4)
        chunks = (1 + gamma) * taa.random_weight_matrix.detach().numpy() + beta
        np.testing.assert_allclose(bias[task], naive_block_diagonal(chunks), atol=1e-6)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2))
def test_block_diagonal_equals_loops(blocks, size, before):
    chunks = torch.randn(blocks * size, size)
    np.testing.assert_array_equal(block_diagonal(chunks, before).numpy(), naive_block_diagonal(chunks.numpy(), before))


@given(st.integers(1, 400))
def test_block_size_divides(tokens):
    size = block_size(tokens)
    assert tokens % size == 0
    assert all(abs(size - tokens**0.5) <= abs(d - tokens**0.5) for d in range(1, tokens + 1) if tokens % d == 0)


def test_norm_is_the_formula():
    norm, frozen, z, x = randomise(TaskScaledNorm(5, 6)), nn.LayerNorm(6), torch.randn(2, 5), torch.randn(4, 3, 6)
    randomise(frozen, 1)
    got = norm(x, frozen, z).detach()
    for row in range(4):
        gamma, beta = norm.ln_weight_modulation.gb_weights(z[row // 2]).detach().chunk(2)
        centred = x[row] - x[row].mean(-1, keepdim=True)
        unit = centred / (centred.pow(2).mean(-1, keepdim=True) + frozen.eps).sqrt()
        want = unit * ((1 + gamma) * frozen.weight + beta) + frozen.bias
        torch.testing.assert_close(got[row], want.detach())


def test_bottleneck_is_the_formula_and_linear_in_the_input_and_skip():
    part, z = randomise(Bottleneck(5, 6)), torch.randn(1, 5)
    x, skip = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    gamma, beta = part.film.gb_weights(z[0]).chunk(2)
    want = part.up(part.down((1 + gamma) * (x + skip) + beta))
    torch.testing.assert_close(part(x, skip, z), want)
    assert part.down.out_features == 2
    # only the sum matters, and there is no non-linearity: second differences vanish
    torch.testing.assert_close(part(x + skip, None, z), want)
    torch.testing.assert_close(part(x * 2, None, z) - part(x, None, z), part(x, None, z) - part(x * 0, None, z))


def test_modulation_goes_by_task():
    x, gamma, beta = torch.randn(6, 2, 3), torch.randn(3, 3), torch.randn(3, 3)
    got = modulate(x, gamma, beta)
    for row in range(6):
        torch.testing.assert_close(got[row], (1 + gamma[row // 2]) * x[row] + beta[row // 2])


@pytest.mark.parametrize("kind", ["Swin", "Swinv2"])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_skip_is_merged_as_the_backbone_merges(kind, size):
    transformers = pytest.importorskip("transformers")
    module = getattr(transformers.models, kind.lower())
    module = getattr(__import__(f"{module.__name__}.modeling_{kind.lower()}", fromlist=["x"]), f"{kind}PatchMerging")
    merging = module(dim=6) if kind == "Swin" else module(size, dim=6)
    merging.norm = nn.Identity()
    states = torch.randn(2, size[0] * size[1], 6)
    torch.testing.assert_close(merge_skip(states, size, merging.reduction), merging(states, size))
    assert (merge_skip(states * 0, size, merging.reduction) == 0).all()


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_both_kinds_of_attention_see_the_bias(mask):
    q, k, v, bias = torch.randn(4, 2, 3, 5), torch.randn(4, 2, 3, 5), torch.randn(4, 2, 3, 5), torch.randn(2, 3, 3)
    keep = torch.ones(3, 3).tril().bool()
    given_mask = {"none": None, "bool": keep, "float": torch.randn(3, 3)}[mask]
    with BiasedLogits(bias) as mode:
        fused = scaled_dot_product_attention(q, k, v, attn_mask=given_mask)
    assert mode.seen == 1
    extra = {"none": 0, "bool": torch.zeros(3, 3).masked_fill(~keep, -torch.inf), "float": given_mask}[mask]
    with BiasedLogits(bias):
        written = softmax(q @ k.transpose(-1, -2) / 5**0.5 + extra, dim=-1) @ v
    want = (q @ k.transpose(-1, -2) / 5**0.5 + extra + bias.repeat_interleave(2, 0)[:, None]).softmax(-1) @ v
    torch.testing.assert_close(fused, want)
    torch.testing.assert_close(written, want)


def test_another_number_of_tokens_is_refused():
    with pytest.raises(ModelError, match="3 tokens"), BiasedLogits(torch.zeros(1, 3, 3)):
        softmax(torch.zeros(1, 1, 4, 4), dim=-1)
    assert softmax(torch.zeros(2), dim=-1).tolist() == [0.5, 0.5]  # the mode is gone


def test_embeddings_are_mixed_by_columns():
    e = TaskEmbeddings(["a", "b", "c"], 4)
    assert torch.equal(e(["c", "a"]), torch.stack([e.vectors[2], e.vectors[0]]))
    e.set_omega(np.array([[1.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(e(["a"])[0], 0.25 * e.vectors[0] + 0.75 * e.vectors[1])
    torch.testing.assert_close(e(["b"])[0], 0.5 * e.vectors[1] + 0.5 * e.vectors[2])
    assert torch.equal(e(["c"])[0], e.vectors[2])  # nothing is known: the task alone
    e(["a"]).sum().backward()
    assert e.vectors[2].grad is None


@given(st.integers(1, 12), st.integers(0, 1000))
def test_columns_sum_to_one_and_a_row_of_zeros_changes_no_bit(n, seed):
    omega = np.random.default_rng(seed).random((n, n))
    weights = column_weights(omega)
    np.testing.assert_allclose(weights.sum(0), 1)
    assert (column_weights(np.pad(omega, (0, 1)))[:n, :n] == weights).all()


@pytest.mark.parametrize("omega", [np.eye(3), -np.eye(2), np.full((2, 2), np.nan)])
def test_bad_omega(omega):
    with pytest.raises(SettingError, match="omega"):
        TaskEmbeddings(["a", "b"], 4).set_omega(omega)


def test_decoder_uses_every_map():
    decoder = Decoder([3, 4, 5], 6)
    maps = [torch.randn(1, c, s, s, requires_grad=True) for c, s in ((3, 8), (4, 4), (5, 2))]
    out = decoder(maps)
    assert out.shape == (1, 6, 8, 8)
    out.sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    assert all(p.grad is not None for p in decoder.parameters())


def test_heads_are_checked():
    with pytest.raises(SettingError, match="channels"):
        Dense(0)
    assert head_from_dict(head_to_dict(None)) is None
