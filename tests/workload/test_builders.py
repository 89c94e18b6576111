import copy
import warnings

import pytest
import torch
from torch import nn

from coterie.errors import DataWarning, ModelError
from coterie.workload.builders import fresh_copies, seeded
from coterie.workload.mlp import Mlp, build_from_spec, mlp_spec


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.layer(x)[:, 0]))


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(3, 2)


class Parent(nn.Module):
    """Initialises its child in its own way."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(4, 4)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.constant_(self.child.weight, 5.0)


BUILDERS = {
    "mlp": lambda: build_from_spec(mlp_spec(4, (5,), 2)),
    "seeded function": lambda: seeded(lambda seed: nn.Linear(3, 3)),
    "function without arguments": lambda: seeded(lambda: nn.Linear(3, 3)),
    "class": lambda: seeded(Attention),
    "instance": lambda: fresh_copies(Attention()),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_seed_decides_and_the_global_state_is_left_alone(name):
    build = BUILDERS[name]()
    state = torch.get_rng_state()
    first = build(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert same(first, build(3))
    assert not same(first, build(4))


def test_instance_is_copied_and_every_part_is_drawn_anew():
    model = Attention()
    given = copy.deepcopy(model)
    built = fresh_copies(model)(0)
    drawn = {name for name, p in built.named_parameters() if not torch.equal(p, model.get_parameter(name))}
    assert {name for name, p in model.named_parameters() if p.std() > 0 and "norm" not in name} <= drawn
    assert same(model, given)


def test_a_class_with_optional_arguments_gets_no_seed():
    class Wide(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.head = nn.Linear(width, 2)

    assert seeded(Wide)(100).head.in_features == 4


def test_the_seed_is_passed_to_functions():
    seen = []
    seeded(lambda seed: seen.append(seed) or nn.Linear(1, 1))(11)
    assert seen == [11]


def test_frozen_parts_are_kept():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    built = fresh_copies(model)(5)
    assert torch.equal(built[0].weight, model[0].weight)
    assert not torch.equal(built[1].weight, model[1].weight)


def test_parents_have_the_last_word():
    assert bool((fresh_copies(Parent())(1).child.weight == 5).all())


def test_parameters_that_cannot_be_drawn_are_named():
    with pytest.warns(DataWarning, match="1 parameters keep .*: scale. Drawn anew for each seed: head.weight"):
        build = fresh_copies(Raw())
    assert torch.equal(build(0).scale, torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh_copies(Attention())


def test_model_that_cannot_be_copied():
    model = nn.Linear(2, 2)
    model.handle = (i for i in range(3))
    with pytest.raises(ModelError, match="cannot be copied"):
        fresh_copies(model)


def test_mlp_is_a_trunk_and_one_head():
    model = Mlp(12, (8, 4), 5)
    assert model(torch.zeros(2, 3, 4)).shape == (2, 5)
    assert [type(layer).__name__ for layer in model.trunk] == ["Linear", "ReLU", "Linear", "ReLU"]
    assert model.head.weight.shape == (5, 4)
    assert Mlp(3, (), 2)(torch.zeros(1, 3)).shape == (1, 2)


def test_a_part_that_cannot_be_drawn_anew_is_named():
    class Stubborn(nn.Linear):
        def reset_parameters(self):
            if hasattr(self, "weight") and hasattr(self, "made"):
                raise ValueError("only once")
            super().reset_parameters()
            self.made = True

    with pytest.raises(ModelError, match=r"a Stubborn in it cannot be drawn anew.*ValueError: only once.*build_model"):
        fresh_copies(nn.Sequential(Stubborn(3, 2)))
