"""The fingerprint follows the code and the settings of models, of `forward` and of losses, not how they are written."""

import functools
import os
import subprocess
import sys
import textwrap
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import coterie
from coterie import from_arrays
from coterie.errors import StoreError
from coterie.workload import Recipe
from coterie.workload.fingerprint import fingerprint
from coterie.workload.identity import Description, is_own

X = np.random.default_rng(0).normal(size=(60, 5))
Y = (X[:, :2] > 0).astype(float)
SCALE = {"x": 1.0}


def run(source: str, **known):
    """Names of a script of the user's, as a notebook would have them."""
    names = {"__name__": "__main__", "nn": nn, "torch": torch, "functools": functools, **known}
    exec(compile(textwrap.dedent(source), "<cell>", "exec"), names)  # noqa: S102
    return names


def work(**options):
    if "model" not in options and "build_model" not in options:
        options["build_model"] = lambda seed: nn.Linear(5, 2)
    return from_arrays(X, Y, tasks=["a", "b"], recipe=Recipe(epochs=2), **options)


def net(*layers):
    return nn.Sequential(nn.Linear(5, 6), *layers, nn.Linear(6, 2))


class Hooked(nn.Linear):
    def __init__(self, hook=None):
        super().__init__(5, 2)
        if hook:
            self.register_forward_hook(hook)


class Holds(nn.Linear):
    def __init__(self, value, *, saved=True):
        super().__init__(5, 2)
        self.value = value
        self.register_buffer("held", torch.full((2,), 3.0), persistent=saved)


class Own:
    def __init__(self, by):
        self.by = by


@dataclass
class Config:
    by: float


def frozen(flag):
    model = net()
    model[0].bias.requires_grad_(flag)
    return model


def tied(flag):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(model[0].weight)
    if flag:
        model[1].weight = model[0].weight
    return model


def buffer(value):
    model = Holds(0, saved=False)
    model.held.fill_(value)
    return model


MODELS = {
    "rate of dropout": lambda: [net(nn.Dropout(p)) for p in (0.1, 0.2)],
    "activation": lambda: [net(act) for act in (nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.ELU(), nn.ELU(0.5))],
    "order": lambda: [net(nn.ReLU(), nn.Softmax(1)), net(nn.Softmax(1), nn.ReLU())],
    "function as an attribute": lambda: [Holds(f) for f in (torch.relu, torch.tanh, lambda x: x, lambda x: 2 * x)],
    "list of settings": lambda: [Holds([1, {"a": {2}}]), Holds([1, {"a": {3}}]), Holds((1, {"a": {2}}))],
    "object": lambda: [
        Holds(Own(1)),
        Holds(Own(2)),
        Holds(Config(1)),
        Holds(Config(2)),
        Holds(functools.partial(Own, 1)),
    ],
    "array": lambda: [Holds(np.zeros(2)), Holds(np.ones(2)), Holds(torch.zeros(2)), Holds(torch.ones(2))],
    "hook": lambda: [Hooked(), Hooked(lambda m, x, y: y), Hooked(lambda m, x, y: 2 * y)],
    "frozen": lambda: [frozen(True), frozen(False)],
    "buffer that is not saved": lambda: [buffer(1.0), buffer(2.0)],
    "parametrisation": lambda: [weight_norm(nn.Linear(5, 2), dim=0), weight_norm(nn.Linear(5, 2), dim=1)],
}


@pytest.mark.parametrize("name", MODELS)
def test_settings_of_modules_count(name):
    def prints():
        torch.manual_seed(0)
        return [fingerprint(work(model=model)) for model in MODELS[name]()]

    found = prints()
    assert len(set(found)) == len(found)
    assert prints() == found


def test_the_order_of_named_parts_counts():
    parts = {"first": nn.ReLU(), "second": nn.Tanh()}
    texts = []
    for names in (("first", "second"), ("second", "first")):
        found = Description(weights=False)
        found.add("model", nn.Sequential(OrderedDict((name, parts[name]) for name in names)))
        texts.append(found.entries)
    assert texts[0] != texts[1]


def test_tied_parameters_count():
    two = [Description(weights=False) for _ in range(2)]
    for flag, found in enumerate(two):
        found.add("model", tied(flag))
    assert two[0].entries != two[1].entries


CLASS = """
class Base(nn.Linear):
    def act(self, x):
        return x.{act}()

def half(x):
    return x / {by}

class Net(Base):
    power: int = {power}

    def __init__(self):
        super().__init__(5, 2)

    @staticmethod
    def last(x):
        return {last}

    def forward(self, x):
        return self.last(half(self.act(super().forward(x)))) ** self.power
"""
USUAL = {"act": "tanh", "by": 2, "power": 1, "last": "x"}


@pytest.mark.parametrize("change", [{"act": "relu"}, {"by": 3}, {"power": 2}, {"last": "-x"}])
def test_code_of_classes_counts_with_what_it_calls(change):
    first, again, other = (run(CLASS.format(**{**USUAL, **c}))["Net"] for c in ({}, {}, change))
    for make in (lambda net: work(build_model=net), lambda net: work(build_model=lambda seed: net())):
        assert fingerprint(make(first)) == fingerprint(make(again)) != fingerprint(make(other))


FORWARDS = {
    "code": "forward = lambda m, b: m(b * {})",
    "default": "def forward(m, b, by={}): return m(b * by)",
    "keyword": "def forward(m, b, *, by={}): return m(b * by)",
    "global": "by = {}\ndef forward(m, b): return m(b * by)",
    "settings": "by = {{'x': [{}]}}\ndef forward(m, b): return m(b * by['x'][0])",
    "tensor": "by = torch.tensor([{}.0])\ndef forward(m, b): return m(b * by)",
    "closure": "def make(by):\n    def forward(m, b): return m(b * by)\n    return forward\nforward = make({})",
    "nested": "def forward(m, b):\n    def inner(x): return [y * {} for y in [x]]\n    return m(inner(b)[0])",
    "called": "def scaled(b): return b * {}\ndef forward(m, b): return m(scaled(b))",
    "partial": "def scaled(m, b, by): return m(b * by)\nforward = functools.partial(scaled, by={})",
    "object": (
        "class F:\n    def __init__(s, by): s.by = by\n    def __call__(s, m, b): return m(b * s.by)\nforward = F({})"
    ),
    "method": "class F:\n    by = {}\n    def do(s, m, b): return m(b * s.by)\nforward = F().do",
    "decorated": "def plain(m, b): return m(b * {})\nforward = torch.no_grad()(plain)",
    "cached": "@functools.lru_cache\ndef by(): return {}\ndef forward(m, b): return m(b * by())",
    "another model": (
        "other = nn.Linear(5, 5)\nnn.init.constant_(other.weight, {})\nnn.init.zeros_(other.bias)\n"
        "def forward(m, b): return m(other(b))"
    ),
    "class inside": "def forward(m, b):\n    class K:\n        by = {}\n    return m(b * K.by)",
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forward_counts_with_what_it_refers_to(name):
    made = [fingerprint(work(forward=run(FORWARDS[name].format(by))["forward"])) for by in (2, 2, 3)]
    assert made[0] == made[1] != made[2]


def test_text_that_does_nothing_does_not_count():
    plain = "def forward(m, b):\n    class K:\n        y = 1\n    return m(b) * K.y\n"
    told = (
        "\n\n# a remark\ndef forward(m, b):\n    'what it does'\n    class K:\n        'one'\n        y = 1  # one\n\n"
        "    # at last\n    return m(b) * K.y\n"
    )
    assert fingerprint(work(forward=run(plain)["forward"])) == fingerprint(work(forward=run(told)["forward"]))


def test_what_builds_the_model_counts_for_all_seeds():
    first, other = (run(f"build = lambda seed: nn.Linear(5, 2, bias=seed < {n})")["build"] for n in (3, 4))
    assert fingerprint(work(build_model=first)) != fingerprint(work(build_model=other))


def test_records_and_counters_do_not_count():
    names = run(
        """
        import itertools, time
        calls, count, total, cache, told = [], {"n": 0}, 0, {}, itertools.count()
        class Net(nn.Linear):
            made = 0
            def __init__(self):
                super().__init__(5, 2)
                self.born, self.number = time.time(), next(told)
                Net.made += 1
        def forward(m, b):
            global total
            total += 1
            calls.append(len(b))
            return m(b)
        def build(seed):
            calls.append(seed)
            count["n"] += 1
            cache.setdefault("base", Net())
            return Net()
        """
    )
    workload = work(build_model=names["build"], forward=names["forward"])
    first = fingerprint(workload)
    workload.outputs(workload.build_model(1), workload.batch(torch.arange(3)))
    assert names["calls"]
    assert fingerprint(workload) == first


KEPT = {
    "item": "kept[len(b)] = m",
    "item of a default": "times[len(b)] += 1",
    "item of an item": "kept['deep'][len(b)] = [x for x in (1, 2)]",
    "slice": "row[len(row):] = [len(b)]",
    "taken out": "del row[0]",
    "attribute": "state.n += 1",
    "item of an attribute": "state.seen['calls'] = state.n = state.n + 1",
    "in a helper": "note(len(b))",
    "told": "log.setLevel(log.level + 1); log.debug('told')",
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_function_fills_outside_itself_does_not_count_and_the_rest_does(name):
    source = """
        import collections, logging, types
        kept, times, row = {"deep": {}}, collections.defaultdict(int), [0] * 3
        state, log = types.SimpleNamespace(n=0, seen={}), logging.getLogger("told")
        settings = {"by": BY}
        def note(n):
            kept[n] = settings["by"]
        def forward(m, b):
            WRITE
            return m(b * settings["by"])
        """
    names, other = (run(source.replace("WRITE", KEPT[name]).replace("BY", by)) for by in "23")
    workload = work(forward=names["forward"])
    first = fingerprint(workload)
    workload.outputs(workload.build_model(1), workload.batch(torch.arange(3)))
    assert fingerprint(workload) == first != fingerprint(work(forward=other["forward"]))


NEIGHBOURS = {
    "coordinates": lambda x: x.to_sparse(),
    "rows": lambda x: x.to_sparse_csr(),
    "columns": lambda x: x.to_sparse_csc(),
    "blocks": lambda x: x.to_sparse_bsr((1, 1)),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]),
}


@pytest.mark.filterwarnings("ignore:.*(Sparse|nested|quant)")
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_numbers_of_tensors_of_every_kind_count(name):
    plain = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    others = [plain, plain.clone(), 2 * plain, plain.flip(1)]
    made = [fingerprint(work(build_model=lambda seed, x=x: Holds(NEIGHBOURS[name](x)))) for x in others]
    assert made[0] == made[1]
    assert len(set(made)) == 3


class Pinball(coterie.workload.losses.RegressionLoss):
    def __init__(self, by):
        self.by = by

    def value(self, margin, labels):
        return self.by * super().value(margin, labels)


def test_what_a_function_assigns_outside_itself_does_not_count():
    names = run(
        """
        def make():
            calls, seen = 0, []
            def forward(m, b):
                nonlocal calls
                calls += 1
                seen.append(calls)
                return m(b)
            return forward
        forward = make()
        """
    )
    workload = work(forward=names["forward"])
    first = fingerprint(workload)
    workload.outputs(workload.build_model(1), workload.batch(torch.arange(3)))
    assert fingerprint(workload) == first


def test_losses_count(monkeypatch):
    found = []
    for by in (1, 1, 2):
        monkeypatch.setitem(coterie.workload.losses._LOSSES, "pinball", Pinball(by))
        found.append(fingerprint(from_arrays(X, Y, tasks={"a": "pinball", "b": "binary"})))
    assert found[0] == found[1] != found[2]


def test_standardisation_counts():
    """The standardised numbers are the same bits; served models would be given other ones."""
    assert fingerprint(from_arrays(4 * X, Y)) != fingerprint(from_arrays(X, Y))


def test_compiled_and_scripted_models():
    first, other = net(nn.ReLU()), net(nn.GELU())
    other.load_state_dict(first.state_dict())
    for wrap in (lambda m: torch.compile(m, backend="eager"), torch.jit.script):
        prints = [fingerprint(work(build_model=lambda s, m=m, wrap=wrap: wrap(m))) for m in (first, first, other)]
        assert prints[0] == prints[1] != prints[2]


SCRIPT = """
import numpy as np, torch, coterie
from torch import nn
WORDS = {"some", "words", "of", "a", "set", "another", "one"}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.act, self.layer = WORDS, nn.functional.gelu, nn.Linear(5, 2)
    def forward(self, x):
        return self.act(self.layer(x)) if "set" in {"a", "set"} else x
x = np.random.default_rng(0).normal(size=(60, 5))
work = coterie.from_arrays(x, x[:, :2] > 0, build_model=Net, forward=lambda m, b: m(b))
from coterie.workload.fingerprint import fingerprint
print(fingerprint(work))
"""


def test_another_process_agrees():
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == fingerprint(run(SCRIPT, print=lambda _: None)["work"])


def test_a_run_with_another_forward_is_refused(tmp_path):
    def go(by):
        workload = work(forward=lambda m, b: m(b) * by)
        return coterie.run(workload, out=tmp_path, method="label-correlation", seeds=2)

    go(1)
    with pytest.raises(StoreError, match="the model and its code"):
        go(2)


def test_whose_code_it_is():
    assert is_own("__mp_main__")
    assert is_own(__name__)
    assert not any(is_own(name) for name in ("coterie.workload", "numpy.linalg", "builtins", "collections.abc"))
