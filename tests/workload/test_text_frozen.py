"""Frozen parts that many models share, and adapters in modules of any kind."""

from __future__ import annotations

import copy
import gc
import hashlib
import importlib.util
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coterie.workload.builders import seeded
from coterie.workload.text import frozen
from coterie.workload.text.frozen import FrozenModule, SharedBuilder, base_digest, held_tensors, hold_frozen
from coterie.workload.text.lora import apply_lora, draw_lora, lora_config

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="extra `language`")


class Tied(FrozenModule):
    """A frozen embedding that the output layer shares, something trained between, and an ordinary buffer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(7, 4).requires_grad_(False)
        self.middle = nn.Linear(4, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.table.weight
        self.register_buffer("count", torch.zeros(2))
        self.seal("tied")

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.middle(self.table(tokens)))


def draw(model: Tied) -> None:
    model.middle.reset_parameters()


def test_only_what_is_trained_is_saved():
    net = Tied()
    assert [name for name, _ in net.named_parameters()] == ["middle.weight", "middle.bias"]
    assert set(net.state_dict()) == {"middle.weight", "middle.bias", "count", net.digest_name}
    assert net.out.weight is net.table.weight
    assert [label for label, _, _ in held_tensors(net)] == ["table.weight", "out.weight"]


def test_the_numbers_are_not_copied_and_outputs_stay():
    net = nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 2))
    x, address = torch.randn(5, 3), net[0].weight.data_ptr()
    before = net(x).detach()
    assert hold_frozen(net)[0].weight.data_ptr() == address
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])  # noqa: S301
def test_ties_survive_copies(way):
    net = Tied()
    other = way(net)
    assert other.out.weight is other.table.weight
    assert torch.equal(other(torch.arange(7)), net(torch.arange(7)))
    assert other.middle.weight.data_ptr() != net.middle.weight.data_ptr()
    assert other.count.data_ptr() != net.count.data_ptr(), "ordinary buffers are copied"


def test_ties_and_sharing_survive_other_types_and_the_way_back():
    build = SharedBuilder(Tied(), draw)
    first, second = build(0), build(1)
    address = first.table.weight.data_ptr()
    first.double()
    second.double()
    assert first.table.weight.data_ptr() == second.out.weight.data_ptr() != address
    assert first.out.weight is first.table.weight
    assert first.middle.weight.dtype == torch.float64
    assert build(2).table.weight.dtype == torch.float32, "the template stays"
    first.to("cpu")
    assert first.table.weight.data_ptr() == second.table.weight.data_ptr()


def test_copies_are_freed_with_their_models():
    template = Tied()
    net = copy.deepcopy(template).double()
    known = frozen._COPIES[template.table.weight]
    assert [place() is not None for place in known.values()] == [True]
    del net
    gc.collect()
    assert [place() is not None for place in known.values()] == [False]
    assert copy.deepcopy(template).double().table.weight.dtype == torch.float64


def test_seeded_builders_are_reproducible():
    build = seeded(SharedBuilder(Tied(), draw))
    assert build.takes_seed
    assert torch.equal(build(3).middle.weight, build(3).middle.weight)
    assert not torch.equal(build(3).middle.weight, build(4).middle.weight)


def test_digest_by_hand():
    net = hold_frozen(nn.Linear(2, 1).requires_grad_(False))
    found = hashlib.sha256(b"what")
    for name in ("bias", "weight"):
        value = net.get_buffer(name)
        found.update(f"\n{name} torch.float32 {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    assert base_digest(net, "what").numpy().tobytes() == found.digest()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 27), st.floats(0.1, 2))
def test_digest_sees_every_number(position, change):
    first = Tied()
    other = nn.Embedding(7, 4).requires_grad_(False)
    other.weight.data.copy_(first.table.weight)
    other.weight.data.view(-1)[position] += change
    held = hold_frozen(nn.ModuleDict({"table": other}))
    same = hold_frozen(nn.ModuleDict({"table": nn.Embedding.from_pretrained(first.table.weight.clone())}))
    assert not torch.equal(base_digest(held), base_digest(same))


def test_digest_of_bfloat16():
    net = hold_frozen(nn.Linear(3, 2).to(torch.bfloat16).requires_grad_(False))
    assert base_digest(net).dtype == torch.int64


@needs_peft
def test_adapters_are_those_of_the_paper():
    """W x + b + (alpha / r) B A x."""
    net = nn.Sequential(nn.Linear(5, 4))
    plain = copy.deepcopy(net[0])
    adapted = apply_lora(net, lora_config({"r": 2, "lora_alpha": 6, "target_modules": ["0"]}))
    layer = adapted[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    x = torch.randn(3, 5)
    expected = plain(x) + 3 * x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    torch.testing.assert_close(adapted(x), expected)


@needs_peft
@pytest.mark.parametrize("init", [True, "gaussian"])
def test_drawing_adapters_anew(init):
    net = apply_lora(
        nn.Sequential(nn.Linear(400, 300)), lora_config({"r": 8, "target_modules": ["0"], "init_lora_weights": init})
    )
    layer = net[0]
    drawn = []
    for _ in range(2):
        layer.lora_B["default"].weight.data.fill_(1.0)
        draw_lora(net, init)
        assert not layer.lora_B["default"].weight.any()
        drawn.append(layer.lora_A["default"].weight.detach().clone())
    assert not torch.equal(*drawn)
    spread = 1 / 8 if init == "gaussian" else 1 / 400**0.5 / 3**0.5
    assert float(drawn[0].std()) == pytest.approx(spread, rel=0.1)


@needs_peft
def test_a_configuration_can_be_used_twice():
    config = lora_config({"r": 1, "target_modules": ["0"]})
    for _ in range(2):
        net = apply_lora(nn.Sequential(nn.Linear(2, 2)), config)
        assert hasattr(net[0], "lora_A")


@needs_peft
def test_modules_without_a_known_type_get_adapters_everywhere():
    net = apply_lora(nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)}), lora_config(1))
    assert all(hasattr(net[name], "lora_A") for name in ("one", "two"))
