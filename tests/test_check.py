"""Numbers of NumPy and torch are numbers: settings, seeds, widths, candidates."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import coterie
from coterie._check import choice, flag, is_number, is_whole, named_choice, plain, positive, whole_number
from coterie.adapters import DenseRecipe
from coterie.affinity import GradTAE
from coterie.balancing import get_balancer
from coterie.errors import SettingError
from coterie.evaluation.compare import as_groupings, as_seeds
from coterie.grouping import Grouping, group
from coterie.pipeline.check import check_settings
from coterie.training.job import Job
from coterie.workload import Recipe, Task, from_arrays

X = np.random.default_rng(0).normal(size=(60, 3))
WORK = from_arrays(X, X > 0, tasks=["a", "b", "c"], recipe=Recipe(epochs=1))
THREES = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)]


@pytest.mark.parametrize("three", THREES)
def test_whole_numbers(three):
    found = whole_number(three, "n", low=1, high=3)
    assert (type(found), found) == (int, 3)
    assert check_settings(WORK, three, three, three, three, three) == (3, 3, 3, 3, 3)
    assert all(type(number) is int for number in check_settings(WORK, three, three, three, three, three))


@pytest.mark.parametrize("wrong", [True, np.True_, torch.tensor(True), 3.0, np.float64(3), "3", None, 0, np.array([3])])
def test_what_is_no_whole_number(wrong):
    with pytest.raises(SettingError, match="`n` should be a whole number of at least 1"):
        whole_number(wrong, "n", low=1)


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_positive_numbers(number):
    assert positive(number, "rate") == 0.5
    assert type(positive(number, "rate")) is float


@pytest.mark.parametrize("wrong", [True, np.True_, 0, -1.0, np.nan, np.inf, "1", None, np.ma.masked, np.array([1.0])])
def test_what_is_no_positive_number(wrong):
    with pytest.raises(SettingError, match="finite number above 0"):
        positive(wrong, "rate")


def test_questions():
    assert [is_whole(value) for value in (1, np.int8(1), True, np.True_, 1.0, "1")] == [True, True, *[False] * 4]
    assert [is_number(value) for value in (1, np.float16(1), np.nan, True, np.True_, "1")] == [
        *[True] * 3,
        *[False] * 3,
    ]
    assert type(plain(np.longdouble(2))) is float
    array = np.ones(2)
    assert plain(array) is array


def test_settings_become_numbers_of_python():
    recipe = Recipe(epochs=np.int64(3), batch_size=np.int16(8), learning_rate=np.float32(0.5), patience=np.uint8(2))
    assert recipe == Recipe(epochs=3, batch_size=8, learning_rate=0.5, patience=2)
    made = GradTAE(bases=np.int64(2), offset=np.bool_(True))
    task = Task(np.str_("t"), "multiclass", classes=np.int64(3))
    json.dumps([recipe.to_dict(), made.to_dict(), task.to_dict()])
    assert DenseRecipe(np.int64(2), batch_size=np.int8(1)).steps == 2
    assert Job((np.int64(1), np.int64(0)), seed=np.uint8(255)).subset == (0, 1)
    assert get_balancer("famo", np.int64(3)).tasks == 3
    assert len(group(np.eye(3), np.int64(2), seed=np.uint8(7)).groups) == 2
    with pytest.raises(SettingError, match="`seed`"):
        Job((0,), seed=-1)


@pytest.mark.parametrize("hidden", [np.int64(8), [np.int64(8)], np.array([8]), pd.Series([8])])
def test_widths(hidden):
    made = from_arrays(X, X > 0, hidden=hidden)
    assert json.loads(json.dumps(made.model_spec))["hidden"] == [8]


@pytest.mark.parametrize("seeds", [[250, 260], np.array([250, 260]), torch.tensor([250, 260]), pd.Index([250, 260])])
def test_seeds_of_every_kind(seeds):
    assert as_seeds(seeds) == [250, 260]
    assert as_seeds(np.uint8(2)) == as_seeds(torch.tensor(2)) == [0, 1]


def test_seeds_do_not_wrap_around():
    found = coterie.run(WORK, method="label-correlation", groups=1, seed=np.uint8(254), seeds=np.uint8(3))
    assert found.comparison.seeds == (254, 255, 256)


@pytest.mark.parametrize(
    "value",
    [
        [[0, 2], [1]],
        [np.array([0, 2]), np.array([1])],
        [["a", "c"], ("b",)],
        [[np.int64(0), np.uint8(2)], [np.int64(1)]],
        {"c": 1, "a": 1, "b": 0},
        pd.Series(["x", "y", "x"], index=["c", "b", "a"]),
        Grouping.from_labels(["c", "b", "a"], [0, 1, 0]),
        Grouping.from_labels(["b", "c", "a"], [0, 1, 1]),
    ],
)
def test_candidates_of_every_kind(value):
    made = as_groupings({"mine": value}, ("a", "b", "c"))["mine"]
    assert made.tasks == ("a", "b", "c")
    assert (made.names, made.serves) == ((("a", "c"), ("b",)), (0, 1, 0))


def test_a_grouping_that_shares_tasks_keeps_who_serves_whom():
    shared = Grouping(("c", "a", "b"), ((0, 1), (1, 2)), (0, 1, 1))
    made = as_groupings({"mine": shared}, ("a", "b", "c"))["mine"]
    assert made.names == (("a", "b"), ("a", "c"))
    assert [made.names[group] for group in made.serves] == [("a", "b"), ("a", "b"), ("a", "c")]
    with pytest.raises(SettingError, match="other tasks"):
        as_groupings({"mine": shared}, ("a", "b", "d"))


def test_choices_name_the_parameter_and_what_it_may_be():
    choice("a", "mode", ("a", "b"))
    choice("a", "mode", {"a": 1})
    with pytest.raises(SettingError, match=r"^Parameter `mode` should be one of \('a', 'b'\)\. Found 'c'\.$"):
        choice("c", "mode", ("a", "b"))
    with pytest.raises(SettingError, match=r"`kind` of an affinity should be one of \('a',\)\. Found \[\]\.$"):
        choice([], "kind", {"a": 1}, of="an affinity")


def test_choices_of_names_guess_what_was_meant():
    named_choice("tag", "method", ["tag", "cosine"])
    with pytest.raises(SettingError, match=r"one of \['tag', 'cosine'\]\. Found 'cosin'\. Did you mean 'cosine'\?$"):
        named_choice("cosin", "method", ["tag", "cosine"])
    with pytest.raises(SettingError, match=r"Found 3\.$"):
        named_choice(3, "method", ["tag", "cosine"])


def test_flags_are_true_or_false():
    flag(False, "signed")
    for value in (1, "yes", None, np.array([True])):
        with pytest.raises(SettingError, match=r"Parameter `signed` should be True or False\. Found "):
            flag(value, "signed")
