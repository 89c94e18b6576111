"""Arguments of the wrong type: every one gets an error of Coterie that names it."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from coterie.errors import ModelError, SettingError, WorkloadError
from coterie.workload import Recipe, Task, from_arrays, from_datasets, load_workload, validate

X = np.random.default_rng(0).normal(size=(60, 4))
Y = X[:, :3]


@pytest.mark.parametrize("reference", [None, 3, b"digits"])
def test_load_workload_wants_text(reference):
    with pytest.raises(WorkloadError, match="should be a text"):
        load_workload(reference)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"seed": -1}, SettingError, "`seed` should be a whole number of at least 0. Found -1"),
        ({"seed": 1.5}, SettingError, "`seed`.*1.5"),
        ({"seed": None}, SettingError, "`seed`.*None"),
        ({"seed": True}, SettingError, "`seed`.*True"),
        ({"hidden": None}, SettingError, "`hidden`.*None"),
        ({"hidden": "64"}, SettingError, "`hidden`.*'64'"),
        ({"hidden": 0}, SettingError, "`hidden`.*at least 1"),
        ({"hidden": 2.5}, SettingError, "`hidden`.*2.5"),
        ({"recipe": {"epoch": 3}}, SettingError, r"`epoch` of Recipe does not exist.*`epochs`"),
        ({"recipe": {"epochs": 0}}, SettingError, "`epochs`"),
        ({"recipe": "fast"}, SettingError, "`recipe`.*'fast'"),
        ({"name": None}, SettingError, "`name`.*None"),
        ({"known_groups": [["0", "1"], ["1", "2"]]}, WorkloadError, r"more than once: \['1'\]"),
        ({"known_groups": ["01", "2"]}, WorkloadError, "Found '01'.*brackets"),
        ({"known_groups": "012"}, WorkloadError, "`known_groups`.*'012'"),
        ({"known_groups": [[0, 1]]}, WorkloadError, "numbers in place of names"),
        ({"tasks": {"0", "1", "2"}}, WorkloadError, "`tasks` should be a list.*Found set"),
        ({"tasks": 5}, WorkloadError, "`tasks` should be a list.*Found int"),
        ({"y": None}, WorkloadError, "`y` should be an array.*Found None"),
        ({"x": None}, WorkloadError, "`x` should be an array.*Found None"),
        ({"known_groups": 3}, WorkloadError, "`known_groups`.*Found 3"),
    ],
)
def test_bad_options_are_named(options, error, words):
    with pytest.raises(error, match=words):
        from_arrays(**{"x": X, "y": Y, "tasks": ["0", "1", "2"], **options})


def test_what_is_meant_is_taken():
    made = from_arrays(X, Y, hidden=32, recipe={"epochs": 3}, seed=np.int64(4), known_groups=[["task 0", "task 2"]])
    assert made.model_spec is not None
    assert made.model_spec["hidden"] == [32]
    assert made.recipe == Recipe(epochs=3)
    assert made.known_groups == (("task 0", "task 2"),)


@pytest.mark.parametrize("datasets", [None, 3, "ab"])
def test_from_datasets_wants_pairs(datasets):
    with pytest.raises(WorkloadError, match="`datasets` should be a mapping of task names"):
        from_datasets(datasets)


def test_from_datasets_checks_its_seed():
    with pytest.raises(SettingError, match="`seed`"):
        from_datasets({"a": (X, Y[:, 0]), "b": (X, Y[:, 1])}, seed=-1)


@pytest.mark.parametrize("device", ["warp", "cuda:99", None, 3.5])
def test_unknown_devices(device):
    with pytest.raises(SettingError, match=r"`device` should be a device of this computer.*Found here: cpu"):
        from_arrays(X, Y).to(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_without_cuda():
    with pytest.raises(SettingError, match="'cuda'"):
        from_arrays(X, Y).to("cuda")


def test_no_columns():
    with pytest.raises(WorkloadError, match="`x` has no columns"):
        from_arrays(X[:, :0], Y)
    with pytest.raises(WorkloadError, match="`y` has no columns"):
        from_arrays(X, Y[:, :0])
    with pytest.raises(WorkloadError, match="`y` has no columns"):
        from_arrays(X, {})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "multiclass", "classes": 2.5}, "whole number.*2.5"),
        ({"kind": "multiclass", "classes": True}, "whole number.*True"),
        ({"kind": "multiclass", "classes": 1}, "at least 2"),
        ({"kind": "binary", "classes": 3}, "for kind='multiclass' only.*'binary' with classes=3"),
        ({"kind": "regression", "classes": 3}, "for kind='multiclass' only"),
        ({"head": "abc"}, r"`head` should be a tuple.*'abc'.*with a comma"),
        ({"head": (1,)}, "`head`"),
        ({"head": None}, "`head`"),
    ],
)
def test_bad_tasks(fields, words):
    with pytest.raises(WorkloadError, match=words):
        Task("a", **fields)


def test_bad_units_of_a_task():
    with pytest.raises(SettingError, match="finite `center`"):
        Task("a", "regression", center="0")


def test_whole_numbers_of_numpy_and_lists_are_fine():
    task = Task("a", "multiclass", classes=np.int64(3), head=["heads.a"])
    assert json.loads(json.dumps(task.to_dict()))["classes"] == 3
    assert Task.from_dict(task.to_dict()) == task


@pytest.mark.parametrize("rate", [0, 0.0, -1.0, float("nan"), True, "fast"])
def test_the_learning_rate_is_above_0(rate):
    with pytest.raises(SettingError, match=r"`learning_rate`.*greater than 0. Found"):
        Recipe(learning_rate=rate)


def test_weight_decay_may_be_0():
    assert Recipe(weight_decay=0, momentum=0).weight_decay == 0
    with pytest.raises(SettingError, match=r"`weight_decay`.*at least 0"):
        Recipe(weight_decay=-1e-9)


def test_whole_number_inputs_of_an_own_model_are_named_as_the_cause():
    whole = np.arange(240).reshape(60, 4) % 7
    with pytest.raises(ModelError, match=r"`x` holds whole numbers and was kept as int64.*x\.astype\('float32'\)"):
        validate(from_arrays(whole, Y, model=nn.Linear(4, 3)))
    validate(from_arrays(whole.astype("float32"), Y, model=nn.Linear(4, 3)))


@pytest.mark.parametrize(
    "model",
    [nn.LayerNorm(4), nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 4), nn.Flatten())],
    ids=["norm", "convolution"],
)
def test_other_layers_name_the_cause_too(model):
    whole = np.arange(240).reshape(60, 4) % 7
    with pytest.raises(ModelError, match="holds whole numbers"):
        validate(from_arrays(whole, Y, model=model))


def test_a_token_model_that_fails_for_another_reason_is_not_blamed_on_whole_numbers():
    tokens = np.arange(240).reshape(60, 4) % 7
    model = nn.Sequential(nn.Embedding(7, 2), nn.Flatten(), nn.Linear(9, 3))
    with pytest.raises(ModelError, match="first layer of another width"):
        validate(from_arrays(tokens, Y, model=model))
