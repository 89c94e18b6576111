from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from coterie.errors import ModelError, WorkloadError
from coterie.workload import Task
from coterie.workload.structure import find_structure
from reference.models import MlpHeads, make, workload_for

TASKS = (Task("a"), Task("b", "multiclass", classes=3), Task("c", "regression"))


def setup(model: nn.Module, tasks: tuple[Task, ...] = TASKS, inputs: int = 5):
    return workload_for(tasks, torch.randn(12, inputs), model)


def test_fused_head() -> None:
    workload, model = make("multiclass")
    found = find_structure(workload, model)
    assert found.trunk == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert [head.rows for head in found.heads] == [(0,), (1, 2, 3), (4, 5, 6, 7), (8,)]
    assert all(head.linear and head.module == "4" for head in found.heads)
    assert found.heads[1].parameters == (("4.weight", (1, 2, 3)), ("4.bias", (1, 2, 3)))
    assert found.unused == ()
    assert found.head_names == ("4.weight", "4.bias")


def test_list_of_linear_heads() -> None:
    workload, model = make("linear heads")
    found = find_structure(workload, model)
    assert [head.module for head in found.heads] == ["heads.0", "heads.1", "heads.2"]
    assert found.heads[2].parameters == (("heads.2.weight", None), ("heads.2.bias", None))
    assert all(head.linear and head.rows == (0,) for head in found.heads)
    assert all(name.startswith("trunk") for name in found.trunk)


def test_deep_heads_are_not_linear() -> None:
    workload, model = make("deep heads")
    found = find_structure(workload, model)
    assert not any(head.linear for head in found.heads)
    assert [name for name, _ in found.heads[1].parameters] == [
        f"heads.1.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    ]


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize("kind", ["conv", "gru", "lstm", "attention", "dict"])
def test_other_models(kind: str) -> None:
    workload, model = make(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = find_structure(workload, model)
    assert all(head.linear and head.rows == (t,) for t, head in enumerate(found.heads))
    assert set(found.trunk) | set(found.head_names) == {name for name, _ in model.named_parameters()}
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_user_forward_in_another_order() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 7))
    workload = replace(setup(model), forward=lambda net, x: net(x)[:, [6, 2, 0, 4, 1]])
    found = find_structure(workload, model)
    assert [head.rows for head in found.heads] == [(6,), (2, 0, 4), (1,)]
    assert all(head.linear for head in found.heads)
    assert found.heads[1].parameters[0] == ("2.weight", (0, 2, 4))


def test_values_do_not_matter() -> None:
    """Dead units and gates at zero hide nothing."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(5, 4)
            self.down, self.up = nn.Linear(5, 2), nn.Linear(2, 4, bias=False)
            self.head = nn.Linear(4, 5)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.head.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.base(x) + self.up(self.down(x))))

    model = Gated()
    found = find_structure(setup(model), model)
    assert found.trunk == ("base.weight", "base.bias", "down.weight", "down.bias", "up.weight")
    assert found.unused == ()


def test_frozen_and_unused_parameters() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    model.register_parameter("idle", nn.Parameter(torch.zeros(2)))
    model[0].weight.requires_grad_(False)
    found = find_structure(setup(model), model)
    assert found.trunk == ("0.bias", "1.weight", "1.bias")
    assert found.unused == ("idle",)


def test_scaled_output_is_not_linear() -> None:
    model = MlpHeads(5, 2, lambda: nn.Linear(5, 1))
    workload = replace(setup(model, TASKS[::2]), forward=lambda net, x: [2 * net(x)[0], net(x)[1]])
    found = find_structure(workload, model)
    # called twice in one pass by the user's function: not certain, hence not linear
    assert not found.heads[0].linear
    assert found.heads[0].parameters == (("heads.0.weight", None), ("heads.0.bias", None))


def test_rows_of_a_parameter_that_is_no_linear_layer() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Linear(5, 4)
            self.codes = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.trunk(x)) @ self.codes.T

    model = Embedded()
    tasks = (Task("a"), Task("b"), Task("c"))
    found = find_structure(setup(model, tasks), model)
    assert [head.parameters for head in found.heads] == [(("codes", (t,)),) for t in range(3)]
    assert not any(head.linear for head in found.heads)


def test_partly_shared_trunk() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 4), nn.Linear(5, 4)
            self.head = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))

        def forward(self, x: Tensor) -> list[Tensor]:
            left, right = self.one(x).tanh(), self.two(x).tanh()
            return [self.head[0](left), self.head[1](left), self.head[2](right)]

    model = Branches()
    found = find_structure(setup(model, (Task("a"), Task("b"), Task("c"))), model)
    assert found.trunk == ("one.weight", "one.bias")
    assert [name for name, _ in found.heads[2].parameters] == ["two.weight", "two.bias", "head.2.weight", "head.2.bias"]
    assert found.heads[0].linear
    assert not found.heads[2].linear


def test_by_hand() -> None:
    workload, model = make("deep heads")
    tasks = (replace(workload.tasks[0], head=("heads.0",)), *workload.tasks[1:])
    assert find_structure(replace(workload, tasks=tasks), model) == find_structure(workload, model)
    fused, net = make("mlp")
    named = replace(fused, tasks=tuple(replace(task, head=("4",)) for task in fused.tasks))
    assert find_structure(named, net).heads == find_structure(fused, net).heads


@pytest.mark.parametrize(
    ("head", "word"), [(("nothing",), "no trained parameter starts"), (("trunk",), "several tasks")]
)
def test_wrong_names_by_hand(head: tuple[str, ...], word: str) -> None:
    workload, model = make("deep heads")
    with pytest.raises(WorkloadError, match=word):
        find_structure(replace(workload, tasks=(replace(workload.tasks[0], head=head), *workload.tasks[1:])), model)


def test_nothing_shared() -> None:
    model = nn.Linear(5, 5)
    with pytest.raises(WorkloadError, match="share no trained parameter"):
        find_structure(setup(model), model)


def test_a_task_that_reaches_nothing() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 5))
    workload = replace(setup(model), forward=lambda net, x: torch.cat([net(x)[:, :4], x[:, :1]], 1))
    with pytest.raises(WorkloadError, match="'c'"):
        find_structure(workload, model)


def test_detached_outputs() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 5))
    with pytest.raises(ModelError, match="detach"):
        find_structure(replace(setup(model), forward=lambda net, x: net(x).detach()), model)
    frozen = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 5)).requires_grad_(False)
    with pytest.raises(WorkloadError, match="no trained parameter"):
        find_structure(setup(frozen), frozen)


class TwoLayerHeads(nn.Module):
    """Heads whose first layer is dead on every row of the probe, as on rare inputs."""

    def __init__(self, tasks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(5, 8)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 1)) for _ in range(tasks))
        for head in list(self.heads)[1:]:
            nn.init.constant_(head[0].bias, -2.0)  # pyright: ignore[reportIndexIssue, reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.trunk(x).relu()
        return torch.cat([head(hidden) for head in self.heads], 1)


def test_heads_that_are_dead_on_the_rows_at_hand_hide_no_trunk() -> None:
    model = TwoLayerHeads()
    found = find_structure(setup(model, (Task("a"), Task("b"), Task("c"))), model)
    assert found.trunk == ("trunk.weight", "trunk.bias")
    assert {name for name, _ in found.heads[2].parameters} == {
        f"heads.2.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


def test_a_product_with_a_constant_zero_shares_nothing() -> None:
    """Heads picked by a mask: what is multiplied by a constant 0 is not used, whatever NaN would say."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.heads = nn.Linear(5, 4), nn.Linear(4, 3)
            self.register_buffer("mask", torch.eye(3))

        def forward(self, x: Tensor) -> Tensor:
            every = self.heads(self.trunk(x).tanh())
            return every @ self.get_buffer("mask")

    model = Masked()
    found = find_structure(setup(model, (Task("a"), Task("b"), Task("c"))), model)
    assert [head.parameters[0] for head in found.heads] == [("heads.weight", (row,)) for row in range(3)]
