"""Choices of balancing: equality, keys, options from the training, mistakes found before anything is trained."""

import json

import pytest
import torch

from coterie.balancing import METHODS, Balancing, get_balancer
from coterie.balancing.methods import WEIGHTINGS, as_balancing, balancing_key
from coterie.errors import MissingDependencyError, SettingError


def test_choices_are_compared_by_what_they_are():
    one = Balancing("marigold", {"form": "simplex", "every": 5})
    assert one == Balancing("marigold", (("every", 5), ("form", "simplex"), ("floor", None)))
    assert hash(one) == hash(Balancing("marigold", {"every": 5, "form": "simplex"}))
    assert one != Balancing("marigold", {"every": 4, "form": "simplex"})
    assert str(one) == "marigold (every=5, form=simplex)"
    assert as_balancing(one) is one
    assert as_balancing(None) is None
    assert Balancing("dwa", {"window": [3, 3]} | {"window": 3}).options == (("window", 3),)


def test_keys_are_json_and_nothing_without_a_balancing():
    assert balancing_key(None) == {}
    key = balancing_key(Balancing("marigold", {"every": 5}))
    assert json.loads(json.dumps(key)) == key == {"balancing": {"name": "marigold", "options": {"every": 5}}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("famos",), r"`name` .*Did you mean 'famo'"),
        (("famo", {"rate": 1}), "`rate` .* does not exist"),
        (("famo", {"learning_rate": torch.ones(2)}), "Option `learning_rate` of a balancing"),
        (("marigold", {"every": 0}), "every"),
        (("marigold", {"form": "cone"}), "form"),
    ],
)
def test_mistakes_are_found_at_once(arguments, words):
    with pytest.raises(SettingError, match=words):
        Balancing(*arguments)


def test_random_weights_and_windows_come_from_the_training():
    rlw = Balancing("rlw").make(3, seeds=[5], windows=[7])
    assert torch.equal(rlw.total(torch.ones(3)), get_balancer("rlw", 3, seed=5).total(torch.ones(3)))
    given = Balancing("rlw", {"seed": 2}).make(3, seeds=[5], windows=[7])
    assert torch.equal(
        given.weigh(torch.ones(3), torch.ones(3, dtype=torch.bool)),
        get_balancer("rlw", 3, seed=2).weigh(torch.ones(3), torch.ones(3, dtype=torch.bool)),
    )


def test_every_member_has_its_own_window():
    rows = torch.rand(30, 2, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    stacked = Balancing("dwa").make(3, seeds=[0, 1], windows=[4, 7], members=2)
    alone = [get_balancer("dwa", 3, window=window) for window in (4, 7)]
    for row in rows:
        stacked.total(row.requires_grad_())
        for member, balancer in enumerate(alone):
            balancer.total(row[member].detach().requires_grad_())
            torch.testing.assert_close(stacked.weights[member], balancer.weights)
    assert float((alone[0].weights - alone[1].weights).abs().max()) > 1e-3
    stacked.select(torch.tensor([1]))
    for row in rows:
        stacked.total(row[1:].detach().requires_grad_())
        alone[1].total(row[1].detach().requires_grad_())
        torch.testing.assert_close(stacked.weights[0], alone[1].weights)
    with pytest.raises(SettingError, match="window"):
        get_balancer("dwa", 3, window=[1, 2, 3], members=2)


@pytest.mark.parametrize("name", METHODS)
def test_passes_and_stacking(name):
    try:
        choice = Balancing(name)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    forward, backward = choice.passes(6)
    assert (forward, backward) == {
        "famo": (2, 1),
        "marigold-same": (2, 1),
        "marigold": (1.1, 1),
    }.get(name, (1, 1 if name in WEIGHTINGS else 6))
    assert choice.stackable == (name in WEIGHTINGS)
    if not choice.stackable:
        with pytest.raises(SettingError, match="combines gradients"):
            choice.make(6, seeds=[0, 1], windows=[3, 3], members=2)


def test_too_few_gradients_are_named():
    pytest.importorskip("torchjd")
    x = torch.ones(2, requires_grad=True)
    balancer = get_balancer("trimmed-mean", 2)
    with pytest.raises(SettingError, match="cannot combine the gradients of 2 tasks"):
        balancer.step(lambda: torch.stack([x.sum(), (x**2).sum()]), torch.optim.SGD([x], lr=0.1))
