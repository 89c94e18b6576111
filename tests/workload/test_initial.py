"""What of a given module is drawn anew for each seed: what is as its initialisation leaves it, and nothing else."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize

from coterie import from_arrays
from coterie.errors import DataWarning, ModelError, SettingError
from coterie.workload import validate
from coterie.workload.builders import fresh_copies
from coterie.workload.graph import from_graph
from coterie.workload.initial import copied


def build(model, **options):
    """The builder and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = fresh_copies(model, **options)
    return made, [str(one.message) for one in said if issubclass(one.category, DataWarning)]


def changed(model, **options):
    """Names of parameters that two seeds, or a seed and the model, do not share; and what was said."""
    made, said = build(model, **options)
    one, two = made(0), made(1)
    names = {n for n, p in one.named_parameters() if not torch.equal(p, two.get_parameter(n))}
    moved = {n for n, p in one.named_parameters() if not torch.equal(p, model.get_parameter(n))}
    assert names == moved
    return names, said


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


class Parts(nn.Module):
    def __init__(self, body, head=None):
        super().__init__()
        self.body, self.head = body, head or nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.body(x))


def everything():
    return nn.ModuleDict(
        {
            "words": nn.Embedding(30, 8, padding_idx=0),
            "encoder": nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
            "whole": nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
            "recurrent": nn.LSTM(8, 8, 2, bidirectional=True),
            "image": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.ConvTranspose2d(4, 3, 2)),
            "norms": nn.Sequential(nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True)),
            "pair": nn.Bilinear(8, 8, 2),
        }
    )


@pytest.mark.parametrize("make", [net, everything, lambda: copy.deepcopy(everything()), lambda: net().double()])
@pytest.mark.parametrize("seed", range(2))
def test_fresh_models_are_drawn_without_a_word(make, seed):
    torch.manual_seed(seed)
    model = make()
    made, said = build(model)
    assert (made.kept, said) == (frozenset(), [])
    names = {name for name, p in model.named_parameters() if p.dim() > 1}
    assert names <= {n for n, p in made(0).named_parameters() if not torch.equal(p, made(1).get_parameter(n))}


def trained(model, steps=30):
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model


def reloaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


LOADED = {
    "trained": lambda: trained(net()),
    "trained and copied": lambda: copy.deepcopy(trained(net())),
    "trained, saved and read": lambda: reloaded(trained(net())),
    "loaded": lambda: (m := net(), m.load_state_dict(net().state_dict()))[0],
    "loaded by assignment": lambda: (m := net(), trained(n := net()), m.load_state_dict(n.state_dict(), assign=True))[
        0
    ],
}


@pytest.mark.parametrize("name", LOADED)
def test_what_was_loaded_or_trained_is_kept_and_said_and_the_head_is_drawn(name):
    names, said = changed(Parts(LOADED[name]()))
    assert names == {"head.weight", "head.bias"}
    assert "6 parameters keep" in said[0]
    assert "body.0.weight" in said[0].split("Drawn anew")[0]
    assert "for each seed: head.weight, head.bias." in said[0]
    assert "build_model" in said[0]


def test_statistics_of_a_trained_batch_norm_are_kept_with_its_part():
    body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    body(torch.randn(50, 6) + 1)
    model = Parts(copy.deepcopy(body))
    names, said = changed(model)
    assert names == {"head.weight", "head.bias"}
    assert said
    assert torch.equal(build(model)[0](3).body[1].running_mean, body[1].running_mean)


def set_by_hand():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.xavier_normal_(model[2].weight)
    with torch.no_grad():
        model[3].bias.copy_(torch.tensor([-4.6, 0.1]))
    return model


def test_gates_priors_and_other_initialisations_stay():
    names, said = changed(set_by_hand())
    assert names == {"0.weight", "0.bias", "2.bias", "3.weight"}
    assert "3 parameters keep" in said[0]
    assert "1.weight, 2.weight, 3.bias" in said[0]


def test_a_gate_of_one_number():
    model = Parts(net(), nn.Linear(2, 1, bias=False))
    model.gate = nn.Linear(1, 1)
    nn.init.zeros_(model.gate.weight)
    nn.init.constant_(model.gate.bias, -4.6)
    names, said = changed(model)
    assert "head.weight" in names
    assert not names & {"gate.weight", "gate.bias"}
    assert "gate.weight, gate.bias" in said[0]


def test_adapters_start_at_the_base():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["0", "2"], r=2, lora_dropout=0.0)
    model = Parts(peft.get_peft_model(net(), config))
    x = torch.randn(5, 6)
    made, said = build(model)
    one, two = made(0).eval(), made(1).eval()
    assert torch.equal(one.body(x), model.body(x))
    assert not torch.equal(one.head.weight, two.head.weight)
    assert "lora_B" in said[0]


def test_the_words_of_the_caller_win():
    model = Parts(trained(net()))
    model.body[0].requires_grad_(False)
    names, said = changed(model, initial="draw")
    assert names == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not said
    assert changed(model, initial="given") == (set(), [])
    with pytest.raises(SettingError, match=r"`initial` should be one of .*'drawn'"):
        fresh_copies(model, "drawn")


def test_vectors_that_are_distributed_like_draws_stay_where_they_came_from_elsewhere():
    words = nn.Embedding.from_pretrained(torch.randn(40, 6), freeze=False)
    names, said = changed(Parts(nn.Sequential(words, nn.Linear(6, 2))))
    assert names == {"body.1.weight", "body.1.bias", "head.weight", "head.bias"}
    assert "1 parameters keep" in said[0]
    assert "body.0.weight" in said[0]
    layer = nn.Linear(6, 2)
    layer.weight = nn.Parameter(nn.Linear(6, 2).weight.detach().clone())
    assert "body.weight" not in changed(Parts(layer))[0]


def test_copies_of_each_other_are_drawn():
    layer = nn.Linear(6, 6)
    body = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(layer), nn.Linear(6, 2))
    names, said = changed(Parts(body))
    assert names == {name for name, _ in Parts(body).named_parameters()}
    assert not said


def test_a_parent_that_was_never_asked_to_draw():
    class Stack(nn.Sequential):
        def reset_parameters(self):
            for layer in self:
                layer.reset_parameters()

    names, said = changed(Stack(nn.Linear(6, 4), nn.Linear(4, 2)))
    assert names == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert not said


class NoWayBack(nn.Module):
    def forward(self, weight):
        return weight.exp()


PARAMETRISED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of a direction": lambda m: parametrizations.weight_norm(m, dim=1),
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "Householder": lambda m: parametrizations.orthogonal(m, orthogonal_map="householder"),
    "without a way back": lambda m: parametrize.register_parametrization(m, "weight", NoWayBack()),
    "two in a row": lambda m: parametrizations.spectral_norm(parametrizations.weight_norm(m)),
    "weight norm of a convolution": lambda m: nn.Sequential(
        nn.Unflatten(1, (1, 6)), parametrizations.weight_norm(nn.Conv1d(1, 8, 6)), nn.Flatten()
    ),
    "older weight norm": utils.weight_norm,
    "older spectral norm": utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", PARAMETRISED)
def test_parametrised_layers_differ_by_seed(name):
    for seed in range(3):  # whatever was drawn first, it is a fresh draw
        torch.manual_seed(seed)
        assert build(nn.Sequential(PARAMETRISED[name](nn.Linear(6, 8)), nn.Linear(8, 2)))[1] == []
    layer = PARAMETRISED[name](nn.Linear(6, 8))
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 2))
    made, said = build(model)
    x = torch.randn(5, 6)
    with torch.no_grad():
        one, again, two = (made(seed).eval()[0](x) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert float((one - two).abs().max()) > 0.01
    assert not said
    if "spectral" in name:
        with torch.no_grad():
            weight = made(0)[0].weight
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=0.05)


def test_a_parametrised_recurrent_layer_differs_by_seed():
    layer = parametrizations.weight_norm(nn.LSTM(6, 4, batch_first=True), "weight_hh_l0")
    layer(torch.zeros(1, 3, 6))  # lists of weights are kept between passes, too
    made, said = build(layer)
    assert not said
    assert not torch.equal(made(0).weight_hh_l0, made(1).weight_hh_l0)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_a_run_of_checks_on_an_older_weight_norm():
    x = np.random.default_rng(0).normal(size=(60, 6))
    model = nn.Sequential(utils.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 2))
    workload = from_arrays(x, x[:, :2], model=model)
    validate(workload)
    with pytest.warns(DataWarning, match="seeds 0 and 1 are equal"):
        validate(from_arrays(x, x[:, :2], build_model=lambda: copied(model)))


class Arguments(nn.Linear):
    def __init__(self):
        super().__init__(6, 2)

    def reset_parameters(self, gain=None, *, at=()):
        super().reset_parameters()


def test_reset_methods_that_take_arguments():
    assert changed(nn.Sequential(Arguments()))[0] == {"0.weight", "0.bias"}
    layer = nn.Linear(6, 2)
    layer.reset_parameters = lambda gain: None
    names, said = changed(Parts(layer))
    assert names == {"head.weight", "head.bias"}
    assert "body.weight, body.bias" in said[0]


def test_models_without_numbers_are_refused():
    x = np.random.default_rng(0).normal(size=(60, 6))
    with pytest.raises(ModelError, match=r"meta device.*0.weight.*to_empty"):
        from_arrays(x, x[:, :2], model=net().to("meta"))
    with pytest.raises(ModelError, match="meta device"):
        validate(from_arrays(x, x[:, :2], build_model=lambda: net().to("meta")))


def test_the_argument_reaches_every_builder():
    x = np.random.default_rng(0).normal(size=(60, 6))
    model = nn.Linear(6, 2)
    for made in (
        from_arrays(x, x[:, :2], model=model, initial="given"),
        from_graph(x, np.array([[0], [1]]), x[:, :2], model=Graph(model), initial="given"),
    ):
        state = made.build_model(3).state_dict()
        assert any(torch.equal(value, model.weight) for value in state.values())


class Graph(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, edge_index):
        return self.layer(x)


class Old(nn.Module):
    """Draws through ``.data``, which torch does not count as writing."""

    def __init__(self, low=-0.4, high=0.4):
        super().__init__()
        self.low, self.high = low, high
        self.weight, self.bias = nn.Parameter(torch.empty(6, 8)), nn.Parameter(torch.empty(8))
        self.reset_parameters()

    def reset_parameters(self):
        self.weight.data.uniform_(self.low, self.high)
        self.bias.data.zero_()

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.mark.parametrize("copied_first", [False, True])
def test_draws_that_torch_does_not_count_are_seen(copied_first):
    model = Parts(nn.Sequential(Old(), nn.Linear(8, 2)))
    names, said = changed(copy.deepcopy(model) if copied_first else model)
    assert (names, said) == ({n for n, _ in model.named_parameters()} - {"body.0.bias"}, [])


@pytest.mark.parametrize("what", ["loaded", "trained", "fresh numbers loaded", "set"])
def test_what_was_given_to_layers_that_draw_uncounted_is_kept(what):
    model = Parts(Old())
    if what == "trained":
        trained(model.body)
    elif what == "set":
        nn.init.eye_(model.body.weight)
    else:
        other = Old()
        if what == "loaded":
            other.weight.data.mul_(3)
        model.body.load_state_dict(other.state_dict())
    made, said = build(model)
    assert torch.equal(made(3).body.weight, model.body.weight)
    assert "body.weight" in said[0].split("Drawn anew")[0]


@pytest.mark.parametrize("kind", ["SAGEConv", "GATConv", "TransformerConv", "GCNConv"])
def test_graph_layers_are_drawn_without_a_word_and_kept_when_they_were_loaded(kind):
    make = getattr(pytest.importorskip("torch_geometric.nn"), kind)
    model, other = make(4, 8), make(4, 8)
    names, said = changed(model)
    assert (names, said) == ({n for n, p in model.named_parameters() if p.unique().numel() > 1}, [])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)
    model.load_state_dict(other.state_dict())
    made, said = build(model)
    assert all(torch.equal(p, model.get_parameter(n)) for n, p in made(1).named_parameters())
    assert "parameters keep the values" in said[0]


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, parametrizations.orthogonal, utils.spectral_norm])
@pytest.mark.parametrize("factor", [1, 3])
def test_the_weight_of_a_parametrised_layer_that_was_loaded_stays(wrap, factor):
    layer, other = wrap(nn.Linear(6, 6)), wrap(nn.Linear(6, 6))
    state = other.state_dict()
    layer.load_state_dict(
        {n: v * (factor if n.endswith(("original", "_orig", "bias")) else 1) for n, v in state.items()}
    )
    x = torch.randn(5, 6)
    made, said = build(Parts(nn.Sequential(layer, nn.Linear(6, 2))))
    with torch.no_grad():
        torch.testing.assert_close(made(0).body[0].eval()(x), layer.eval()(x))
    assert "body.0." in said[0].split("Drawn anew")[0]
