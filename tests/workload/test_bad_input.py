"""One table of bad input: what is given, which error or warning comes, and which words it must have."""

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from coterie.errors import (
    CoterieError,
    DataWarning,
    ModelError,
    NonDeterministicModelError,
    SettingError,
    WorkloadError,
)
from coterie.workload import Recipe, Split, Task, Workload, from_arrays, from_datasets, validate
from coterie.workload.mlp import mlp_spec

ROWS, WIDTH = 60, 4
NAN = float("nan")


def good() -> dict[str, Any]:
    """Arguments of from_arrays that are fine: one binary and two regression tasks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, WIDTH))
    y = np.stack([(x[:, 0] > 0).astype(float), 2 * x[:, 1], 2 * x[:, 2]], axis=1)
    rows = {"train": np.arange(40), "validation": np.arange(40, 50), "test": np.arange(50, 60)}
    return {"x": x, "y": y, "tasks": ["a", "b", "c"], "split": rows, "hidden": (8,)}


def put(name: str, index: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Change an argument at some positions."""

    def change(arguments: dict[str, Any]) -> None:
        arguments[name][index] = value

    return change


def give(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Replace arguments."""
    return lambda arguments: arguments.update(values)


DATA: dict[str, tuple[Callable[[dict[str, Any]], None], type[CoterieError], str]] = {
    "NaN in inputs": (put("x", (3, 1), NAN), WorkloadError, r"`x` has 1 missing or infinite.*\(3, 1\)"),
    "inf in inputs": (put("x", (3, 1), np.inf), WorkloadError, "`x` has 1 missing or infinite"),
    "inputs too large": (put("x", (3, 1), 1e300), WorkloadError, "too large for float32"),
    "text inputs": (give(x=np.full((ROWS, WIDTH), "a")), WorkloadError, "`x` should hold numbers.*get_dummies"),
    "object inputs": (give(x=pd.DataFrame({"k": ["red"] * ROWS, "v": 1.0})), WorkloadError, r"x\['k'\].*'red'"),
    "date inputs": (give(x=np.full((ROWS, 1), np.datetime64("2020-01-01"))), WorkloadError, "datetime64"),
    "complex inputs": (give(x=np.ones((ROWS, 2), complex)), WorkloadError, "complex128"),
    "ragged inputs": (give(x=[[1.0, 2.0]] * (ROWS - 1) + [[1.0]]), WorkloadError, "different lengths"),
    "empty mapping": (give(x={}), WorkloadError, "empty mapping"),
    "mapping without a model": (give(x={"u": np.ones((ROWS, 2))}), WorkloadError, "built-in model cannot read"),
    "uneven mapping": (give(x={"u": np.ones((9, 2)), "v": np.ones((8, 2))}), WorkloadError, "same number of rows"),
    "a single number": (give(x=3.0), WorkloadError, "single number"),
    "rows differ": (give(x=np.ones((ROWS - 1, 2))), WorkloadError, "59 and 60"),
    "no rows": (give(x=np.ones((0, 2)), y=np.ones((0, 3))), WorkloadError, "no rows"),
    "labels of one dimension": (give(y=np.ones(ROWS), tasks=None), WorkloadError, "two-dimensional"),
    "text labels": (give(y=np.full((ROWS, 3), "yes")), WorkloadError, "`y` should hold numbers"),
    "infinite label": (put("y", (5, 1), -np.inf), WorkloadError, "row 5 of task 'b'"),
    "label too large": (put("y", (55, 1), 1e300), WorkloadError, "infinite .or too large"),
    "task without labels": (put("y", (slice(None), 1), NAN), WorkloadError, "'b' has no label at all: drop it"),
    "no training labels": (put("y", (slice(0, 40), 1), NAN), WorkloadError, "in the train part.*20 labels"),
    "no validation labels": (put("y", (slice(40, 50), 2), NAN), WorkloadError, "validation part .'c'.*`seed`"),
    "no test labels": (put("y", (slice(50, 60), 2), NAN), WorkloadError, "test part .'c'.*mapping of row numbers"),
    "constant regression": (put("y", (slice(0, 40), 1), 2.5), WorkloadError, "task 'b' are 2.5: there is nothing"),
    "one class only": (put("y", (slice(0, 40), 0), 1.0), WorkloadError, "binary task 'a' are 1: there is nothing"),
    "labels of -1 and 1": (
        give(y=np.sign(np.random.default_rng(0).normal(size=(ROWS, 2))), tasks={"a": "binary", "b": "binary"}),
        WorkloadError,
        r"'a' should be 0, 1 or NaN. Found also \[-1.0\].*\(y \+ 1\) / 2",
    ),
    "class too large": (
        give(y=np.arange(2 * ROWS).reshape(ROWS, 2) % 5, tasks=[Task("a", "multiclass", classes=3), "b"]),
        WorkloadError,
        "from 0 to 2.*numbered from 1",
    ),
    "class not whole": (
        give(y=np.arange(ROWS * 2.0).reshape(ROWS, 2) % 3 / 2, tasks=[Task("a", "multiclass", classes=3), "b"]),
        WorkloadError,
        r"whole numbers from 0 to 2. Found also \[0.5\]",
    ),
    "one multi-class class": (
        give(y=np.ones((ROWS, 2)), tasks=[Task(n, "multiclass", classes=3) for n in "ab"]),
        WorkloadError,
        "are class 1: there is nothing",
    ),
    "duplicate names": (give(tasks=["a", "b", "a"]), WorkloadError, r"more than once: \['a'\]"),
    "one task": (give(y=np.arange(ROWS)[:, None] % 2, tasks=None), WorkloadError, "at least 2 tasks. Found 1"),
    "line break in a name": (give(tasks=["a", "b\nc", "d"]), WorkloadError, "control character"),
    "empty name": (give(tasks=["a", " ", "d"]), WorkloadError, "non-empty text"),
    "name is a number": (give(tasks=["a", 2, "d"]), WorkloadError, "Found 2"),
    "names as one text": (give(tasks="abc"), WorkloadError, "Found the text 'abc'"),
    "too few names": (give(tasks=["a"]), WorkloadError, "3 columns of `y`. Found 1"),
    "unknown kind": (give(tasks={"a": "binary", "b": "ranking", "c": "binary"}), SettingError, "'ranking'"),
    "unknown known group": (give(known_groups=[["a", "z"]]), WorkloadError, r"no tasks: \['z'\]"),
    "fractions above 1": (give(split=(0.8, 0.2, 0.2)), WorkloadError, "sum to 1"),
    "two fractions": (give(split=(0.8, 0.2)), WorkloadError, "three fractions"),
    "split as text": (give(split="abc"), WorkloadError, "three fractions"),
    "part missing": (give(split={"train": [0], "test": [1]}), WorkloadError, "should have the keys"),
    "empty part": (
        give(split={"train": [0, 1], "validation": [], "test": [3]}),
        WorkloadError,
        "validation part is em",
    ),
    "row twice": (give(split={"train": [0, 0], "validation": [1], "test": [2]}), WorkloadError, "row 0 more than once"),
    "parts overlap": (
        give(split={"train": [0, 1], "validation": [1], "test": [2]}),
        WorkloadError,
        "validation part shares 1 rows.*row 1",
    ),
    "row out of range": (give(split={"train": [0, 60], "validation": [1], "test": [2]}), WorkloadError, "from 0 to 60"),
    "negative row": (give(split={"train": [-1], "validation": [1], "test": [2]}), WorkloadError, "from -1 to -1"),
    "rows not whole": (
        give(split={"train": [0.5], "validation": [1], "test": [2]}),
        WorkloadError,
        "whole row numbers",
    ),
    "mask of wrong length": (
        give(split={"train": np.ones(5, bool), "validation": [1], "test": [2]}),
        WorkloadError,
        r"shape \(60,\)",
    ),
    "two models": (give(model=nn.Linear(4, 3), build_model=lambda s: nn.Linear(4, 3)), SettingError, "exclude"),
    "model is a class": (give(model=nn.Identity), ModelError, "passed as `build_model="),
    "build_model is a module": (give(build_model=nn.Linear(4, 3)), ModelError, "instance as `model="),
    "build_model is no function": (give(build_model="resnet"), ModelError, "function of the seed"),
    "hidden of 0": (give(hidden=(8, 0)), SettingError, "`hidden`.*at least 1"),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case):
    change, error, message = DATA[case]
    arguments = good()
    change(arguments)
    warnings.simplefilter("ignore", DataWarning)  # pytest puts the filters back after each test
    with pytest.raises(error, match=message):
        from_arrays(**arguments)


def test_the_base_of_the_table_is_fine():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate(from_arrays(**good()))


class Net(nn.Module):
    """A linear model whose output is changed by `change`."""

    def __init__(self, change: Callable[[Any], Any] = lambda out: out, outputs: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, outputs)
        self.change = change

    def forward(self, x):
        return self.change(self.head(x))


class Stateful(Net):
    """Its answers drift from call to call."""

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return self.head(x) + self.calls


class Batchwise(Net):
    """BatchNorm that uses the batch in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH, track_running_stats=False)

    def forward(self, x):
        return self.head(self.norm(x))


class Frozen(Net):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class Exported(Net):
    """As programs of torch.export, it has one mode only."""

    def train(self, mode: bool = True):
        raise NotImplementedError("Calling train() is not supported yet.")


class Words(Net):
    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.words = make()


def numpy_random(seed: int) -> nn.Module:
    net = Net()
    with torch.no_grad():
        net.head.weight += random.random()
    return net


MODELS: dict[str, tuple[Any, type[CoterieError], str]] = {
    "too few outputs": (lambda s: Net(outputs=2), WorkloadError, r"\(rows, 3\) outputs for 3 tasks. Found .*\(8, 2\)"),
    "three dimensions": (lambda s: Net(lambda out: out[:, None]), WorkloadError, r"\(8, 1, 3\)"),
    "text out": (lambda s: Net(lambda out: "yes"), WorkloadError, "Found str"),
    "nothing out": (lambda s: Net(lambda out: None), WorkloadError, "Found NoneType"),
    "a task missing": (lambda s: Net(lambda out: {"a": out[:, 0]}), WorkloadError, r"without the tasks \['b', 'c'\]"),
    "rows pooled": (lambda s: Net(lambda out: out[:2]), WorkloadError, "Found 2 for 8 rows"),
    "NaN out": (lambda s: Net(lambda out: out.log() * torch.tensor([0.0, 1, 0])), ModelError, "NaN or inf"),
    "no gradient": (lambda s: Net(lambda out: out.detach()), ModelError, "no gradient"),
    "rounded": (lambda s: Net(lambda out: out.argmax(-1, keepdim=True).expand(-1, 3)), ModelError, "no gradient"),
    "no parameters": (lambda s: nn.Identity(), ModelError, "no parameters to train.*ModuleList"),
    "all frozen": (lambda s: Frozen(), ModelError, "no parameters to train"),
    "lazy": (lambda s: nn.LazyLinear(3), ModelError, "without a shape"),
    "scripted": (lambda s: torch.jit.script(nn.Linear(WIDTH, 3)), ModelError, "TorchScript: RecursiveScriptModule"),
    "a scripted part": (lambda s: nn.Sequential(torch.jit.script(nn.Linear(WIDTH, 3))), ModelError, r"Module \(0\)"),
    "traced": (lambda s: torch.jit.trace(nn.Linear(WIDTH, 3), torch.zeros(1, WIDTH)), ModelError, "Python module"),
    "sparse gradients": (lambda s: Words(lambda: nn.Embedding(3, 2, sparse=True)), ModelError, r"words.*sparse=False"),
    "sparse bags": (lambda s: Words(lambda: nn.EmbeddingBag(3, 2, sparse=True)), ModelError, "sparse gradients"),
    "exported": (lambda s: Exported(), ModelError, "between training and evaluation.*module that was exported"),
    "functional dropout": (
        lambda s: Net(lambda out: nn.functional.dropout(out, 0.5)),
        NonDeterministicModelError,
        "F.dropout",
    ),
    "noise": (lambda s: Net(lambda out: out + torch.rand(out.shape)), NonDeterministicModelError, "torch.rand"),
    "state": (lambda s: Stateful(), NonDeterministicModelError, "differ by up to 1"),
    "rows mixed": (lambda s: Batchwise(), ModelError, "depend on the other rows"),
    "softmax over rows": (lambda s: Net(lambda out: out.softmax(0)), ModelError, "depend on the other rows"),
    "wrong width": (lambda s: nn.Linear(WIDTH + 1, 3), ModelError, r"failed on a batch of shape \(8, 4\).*first layer"),
    "wrong dtype": (lambda s: nn.Linear(WIDTH, 3).double(), ModelError, "another dtype"),
    "build fails": (lambda s: 1 / 0, ModelError, "seed 0 raised ZeroDivisionError"),
    "two arguments": (lambda seed, width: nn.Linear(WIDTH, width), ModelError, "only argument"),
    "returns a class": (lambda s: Net, ModelError, "Found type"),
    "returns nothing": (lambda s: None, ModelError, "missing `return`"),
    "not reproducible": (numpy_random, ModelError, r"two models of seed 0 differ \(head.weight\)"),
}


@pytest.mark.parametrize("case", MODELS)
def test_model(case):
    build_model, error, message = MODELS[case]
    workload = from_arrays(**good(), build_model=build_model)
    with pytest.raises(error, match=message) as caught:
        validate(workload)
    assert type(caught.value) is error


def test_build_model_that_cannot_be_called():
    workload = replace(from_arrays(**good()), build_model=nn.Linear)
    with pytest.raises(ModelError, match="calling it with seed 0 raised TypeError"):
        validate(workload)
    with pytest.raises(ModelError, match="Found int"):
        validate(replace(workload, build_model=3))  # type: ignore[arg-type]


def hand_made(change: Callable[[Workload], dict[str, Any]]) -> Workload:
    workload = from_arrays(**good())
    return replace(workload, **change(workload))


HAND_MADE: dict[str, tuple[Callable[[Workload], dict[str, Any]], str]] = {
    "labels not float": (lambda w: {"labels": w.targets.long()}, "float tensor"),
    "labels no tensor": (lambda w: {"labels": w.labels.numpy()}, "Found ndarray"),
    "columns": (lambda w: {"labels": w.labels[:, :2]}, "each of 3 tasks. Found 2"),
    "rows": (lambda w: {"inputs": w.inputs[:-1]}, r"60 rows.*\(59, 4\)"),
    "rows of a mapping": (lambda w: {"inputs": {"a": w.inputs, "b": w.inputs[:1]}}, "'b' should have 60 rows"),
    "no rows": (lambda w: {"labels": w.labels[:0], "inputs": w.inputs[:0]}, "no rows"),
    "split of floats": (lambda w: {"split": Split(w.split.train.float(), w.split.validation, w.split.test)}, "int64"),
    "NaN": (lambda w: {"inputs": w.inputs * NAN}, "240 missing or infinite values .* in 60 of 60 rows"),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_hand_made_workload(case):
    change, message = HAND_MADE[case]
    with pytest.raises(WorkloadError, match=message):
        validate(hand_made(change))


DATASETS: dict[str, tuple[Any, str]] = {
    "empty": ({}, "`datasets` is empty"),
    "no pair": ({"a": np.ones(4), "b": np.ones(4)}, "'a' should be a pair"),
    "rows": ({"a": (np.ones((5, 2)), np.arange(5.0)), "b": (np.ones((5, 2)), np.ones(4))}, "'b' should have one label"),
    "columns": (
        {"a": (np.ones((5, 2)), np.arange(5.0)), "b": (np.ones((5, 3)), np.arange(5.0))},
        r"same columns. Found \(2, 'float32'\) for 'a' and \(3, 'float32'\) for 'b'",
    ),
    "NaN": ({"a": (np.full((5, 2), NAN), np.ones(5)), "b": (np.ones((5, 2)), np.ones(5))}, "entry 'a'.*missing or inf"),
    "too small": ({"a": (np.ones((2, 2)), np.ones(2)), "b": (np.ones((2, 2)), np.ones(2))}, "too few"),
}


@pytest.mark.parametrize("case", DATASETS)
def test_datasets(case):
    datasets, message = DATASETS[case]
    with pytest.raises(WorkloadError, match=message):
        from_datasets(datasets)


def rare(arguments: dict[str, Any]) -> None:
    arguments["y"][:40, 0] = np.arange(40) < 3


def mostly_constant(arguments: dict[str, Any]) -> None:
    arguments["x"][:, 1:] = 7.0


WARNINGS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "rare class": (rare, "'a' has 3 training rows of class 1"),
    "one class in test": (put("y", (slice(50, 60), 0), 0.0), "'a' has one class only in the test part"),
    "constant inputs": (mostly_constant, "3 of 4 input columns have one value only"),
    "guessed classes": (
        put("y", (slice(None), 1), np.arange(ROWS) % 3),
        "'b' has whole numbers from 0 to 2.*3 classes",
    ),
    "guessed regression": (
        put("y", (slice(None), 1), 1 + np.arange(ROWS) % 5),
        "whole numbers from 1 to 5.*regression",
    ),
    "two values": (put("y", (slice(None), 1), 1 - 2 * (np.arange(ROWS) % 2)), "two values -1 and 1.*regression"),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(case):
    change, message = WARNINGS[case]
    arguments = good()
    change(arguments)
    with pytest.warns(DataWarning, match=message):
        from_arrays(**arguments)


def test_model_that_ignores_its_seed_warns():
    net = Net()
    with pytest.warns(DataWarning, match="seeds 0 and 1 are equal"):
        validate(from_arrays(**good(), build_model=lambda seed: copy.deepcopy(net)))


@pytest.mark.parametrize(
    "name", ["<b>bold</b>", "../../etc/passwd", "a.b/c\\d", "größe °C", "'; DROP TABLE--", "%s {x}"]
)
def test_names_with_markup_or_a_path_are_allowed(name):
    workload = from_arrays(**{**good(), "tasks": [name, "b", "c"]})
    assert workload.task_names[0] == name
    validate(workload)


def test_every_message_says_what_to_do():
    """Messages are at least two sentences: what was found, and the cause or the way out."""
    warnings.simplefilter("ignore", DataWarning)
    for change, error, _ in DATA.values():
        arguments = good()
        change(arguments)
        with pytest.raises(error) as caught:
            from_arrays(**arguments)
        text = str(caught.value)
        assert len(text.split()) >= 10, text
        assert text.endswith((".", ")", "...")), text


def test_recipe_and_spec_errors():
    with pytest.raises(SettingError, match="learning_rate"):
        Recipe(learning_rate=NAN)
    with pytest.raises(SettingError, match="`n_inputs`"):
        mlp_spec(0, (4,), 2)
