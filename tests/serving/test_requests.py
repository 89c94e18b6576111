"""What callers hand to a predictor: more columns than training had, no rows, large numbers."""

import importlib.util
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from coterie.errors import DataWarning, WorkloadError
from coterie.grouping import Grouping
from coterie.serving import load
from coterie.serving.saved import save_served
from coterie.workload import Task, from_arrays, from_graph, from_text
from reference import tiny_text

RNG = np.random.default_rng(0)
N = 60
X = pd.DataFrame(RNG.normal(size=(N, 3)), columns=list("pqr"))
TASKS = [Task("two"), Task("three", "multiclass", classes=3), Task("amount", "regression")]
Y = np.column_stack([X["p"] > 0, np.arange(N) % 3, 1.7e9 + X["q"]]).astype(float)
SHAPES = {"two": (0,), "three": (0, 3), "amount": (0,)}


class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 5)

    def forward(self, numbers, token):
        return self.head(numbers) + token[:, None]


class Images(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.head(x.flatten(1))


def served(path, work):
    names = work.task_names
    grouping = Grouping(names, (tuple(range(len(names))),), (0,) * len(names))
    save_served(path, work, grouping, [work.build_model(1).state_dict()])
    return load(path, workload=work)


def table(path):
    return served(path, from_arrays(X, Y, tasks=TASKS))


def parts(path):
    x = {"numbers": X.to_numpy(), "token": np.arange(N) % 4}
    return served(path, from_arrays(x, Y, tasks=TASKS, build_model=Parts))


def images(path):
    return served(path, from_arrays(RNG.normal(size=(N, 1, 2, 2)), Y, tasks=TASKS, build_model=Images))


def graph(path):
    edges = RNG.integers(0, N, (2, 40))
    build = {"build_model": lambda: torch.nn.Linear(3, 5), "tasks": TASKS}
    return served(path, from_graph(X.to_numpy(), edges, Y, **{**build, "build_model": Nodes}))


class Nodes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 5)

    def forward(self, x, edge_index):
        return self.head(x)


NOTHING = {
    "frame": (table, X.iloc[:0]),
    "frame of objects": (table, pd.DataFrame(columns=["r", "q", "p", "more"])),
    "array": (table, np.empty((0, 3))),
    "list": (table, []),
    "tensor": (table, torch.empty(0, 3)),
    "mapping": (parts, {"numbers": np.empty((0, 3)), "token": np.empty(0, dtype=int)}),
    "mapping of lists": (parts, {"numbers": [], "token": []}),
    "images": (images, np.empty((0, 1, 2, 2))),
    "list of images": (images, []),
    "nodes": (graph, []),
}


@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
@pytest.mark.parametrize("case", NOTHING)
def test_no_rows_give_empty_answers(tmp_path, case):
    make, x = NOTHING[case]
    predictor = make(tmp_path)
    answers = predictor.predict(x)
    assert {name: values.shape for name, values in answers.items()} == SHAPES
    assert all(values.dtype == np.float64 for values in answers.values())
    assert predictor.predict_frame(x).shape == (0, 5)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "peft")), reason="extra `language`"
)
@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_no_texts_give_empty_answers(tmp_path):
    work = from_text(tiny_text.tasks(), tiny_text.model(), tiny_text.tokenizer(), lora=2, max_length=20)
    predictor = served(tmp_path, work)
    for nothing in ([], (), np.array([], dtype=str), pd.Series([], dtype=str)):
        assert [len(values) for values in predictor.predict(nothing).values()] == [0] * work.n_tasks
    with pytest.raises(WorkloadError, match="list of texts"):
        predictor.predict("")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.assign(extra=1.0),
        lambda x: x.assign(extra="text")[["extra", "r", "p", "q"]],
        lambda x: pd.concat(
            [x, x[["p"]].rename(columns={"p": "extra"}), x[["q"]].rename(columns={"q": "extra"})], axis=1
        ),
    ],
)
def test_columns_that_training_did_not_have_are_ignored_and_said_once(tmp_path, change):
    predictor = table(tmp_path)
    expected = predictor.predict(X)
    with pytest.warns(DataWarning, match=r"ignored: \['extra'"):
        found = predictor.predict(change(X))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            predictor.predict(change(X))
    assert len(said) <= 1


def test_keys_that_training_did_not_have_are_ignored(tmp_path):
    predictor = parts(tmp_path)
    x = {"numbers": X.to_numpy(), "token": np.arange(N) % 4}
    with pytest.warns(DataWarning, match=r"ignored: \['note'\]"):
        found = predictor.predict({**x, "note": ["text"] * N})
    np.testing.assert_array_equal(found["three"], predictor.predict(x)["three"])
    with pytest.raises(WorkloadError, match=r"Missing: \['token'\]; not known: \['note'\]"):
        predictor.predict({"numbers": X.to_numpy(), "note": x["token"]})


def test_predictions_of_large_numbers_are_in_their_own_units(tmp_path):
    found = table(tmp_path).predict(X)["amount"]
    assert found.dtype == np.float64
    assert len(np.unique(found)) == N
    np.testing.assert_allclose(found, 1.7e9, rtol=0, atol=10)


@pytest.mark.parametrize(
    "token", [np.full(2, np.inf), np.array([0, 1e30]), np.array([0, 2**63 + 1], dtype=np.uint64), np.array([-1e19, 0])]
)
def test_numbers_above_int64_are_no_tokens(tmp_path, token):
    model = parts(tmp_path)
    with pytest.raises(WorkloadError, match=r"`x\['token'\]` should hold whole numbers that fit into int64"):
        model.predict({"numbers": X.to_numpy()[:2], "token": token})
    kept = model.predict({"numbers": X.to_numpy()[:2], "token": np.array([3, 1], dtype=np.uint64)})
    assert len(kept["two"]) == 2
