"""What labels are does not depend on the type that holds them, in any builder."""

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from coterie.errors import DataWarning, WorkloadError
from coterie.workload import Task, from_arrays, from_datasets, from_graph
from coterie.workload.causal.words import class_numbers
from coterie.workload.text.labels import read_labels

N = 60
X = np.random.default_rng(0).normal(size=(N, 3))
CLASSES = np.arange(N) % 3


def holders(values):
    """The same whole numbers in every type."""
    series = pd.Series(values)
    masked = np.ma.masked_array(values, mask=np.zeros(len(values), dtype=bool))
    return {
        "list": values.tolist(),
        "list of floats": values.astype(float).tolist(),
        "array": values,
        "unsigned": values.astype(np.uint8),
        "float": series.astype("float64"),
        "half": values.astype(np.float16),
        "objects": np.array(values.tolist(), dtype=object),
        "objects of floats": series.astype(float).astype(object),
        "decimals": [Decimal(int(value)) for value in values],
        "nullable": series.astype("Int64"),
        "nullable float": series.astype("Float64"),
        "category": series.astype("category"),
        "masked": masked,
        "tensor": torch.tensor(values),
        "float tensor": torch.tensor(values, dtype=torch.float64),
        "tensors": [torch.tensor(int(value)) for value in values],
    }


@pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning")
@pytest.mark.parametrize("holder", holders(CLASSES))
def test_class_numbers_are_classes(holder):
    y = holders(CLASSES)[holder]
    column, task = read_labels(y, "t")
    assert task == Task("t", "multiclass", classes=3)
    assert column.tolist() == CLASSES.tolist()
    made = [from_arrays(X, {"t": y, "other": y}), from_datasets({"t": (X, y), "other": (X, y)})]
    build = {"build_model": lambda: torch.nn.Linear(3, 6)}
    made.append(from_graph(X, np.zeros((2, 1), dtype=int), {"t": y, "other": y}, **build))
    for work in made:
        assert work.tasks[0] == task
        assert work.labels[:N, 0].tolist() == CLASSES.tolist()
    given = y.tolist() if hasattr(y, "tolist") else y  # as from_causal hands them on
    assert class_numbers(given, ["no", "yes", "both"], "t").tolist() == CLASSES.tolist()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([True, False] * 5, dtype=object),
        pd.Series([True, False] * 5, dtype="boolean"),
        pd.Series([1.0, 0.0] * 5, dtype=object),
        ["no", "yes"] * 5,
        pd.Series(["no", "yes"] * 5).astype("category"),
        pd.Series(["no", "yes"] * 5, dtype="string"),
        np.ma.masked_array(["no", "yes"] * 5, mask=False),
    ],
)
def test_two_values_are_a_binary_task_without_a_word(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        column, task = read_labels(labels, "t")
    assert task == Task("t", "binary")
    assert sorted(set(column.tolist())) == [0, 1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 2, 3, 4, 5], "whole numbers 1, 2, 3, 4, 5 and were read as 5 classes.*'regression'"),
        ([1.0, 2.0], "read as 2 classes"),
        ([-1, 0, 1], "If -1 marks a missing label"),
        (["yes", "yes ", "no"], r"white space around them, such as 'yes '"),
        (["yes", "Yes", "no"], "'Yes' and 'yes', which differ in capital letters only"),
    ],
)
def test_a_guess_is_said(labels, words):
    with pytest.warns(DataWarning, match=words):
        read_labels(labels * 4, "t")


@pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning")
def test_white_space_makes_no_class_and_numbers_are_sorted_as_numbers():
    column, task = read_labels([" yes", "no\n", "yes ", "no"], "t")
    assert (column.tolist(), task.kind) == ([1, 0, 1, 0], "binary")
    assert read_labels(["0", "1", "10", "2"], "t")[0].tolist() == [0, 1, 3, 2]
    assert read_labels(["b", "a10", "a2"], "t")[0].tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.ma.masked_array([0, 1, 1], [0, 0, 1]), "1 are missing or infinite"),
        (pd.Series([0, 1, None], dtype="Int64"), "1 are missing or infinite"),
        (np.ma.masked_array(["a", "b", "c"], [0, 0, 1]), "mixed: missing at position 2"),
        (pd.Series(["a", None, "b"]), "mixed: missing at position 1"),
        (["a", 1, "b"], r"mixed: 1 \(int\) at position 1"),
        ([], "one-dimensional"),
        (None, "Found None"),
        ("yes no", "hold numbers"),
        ((label for label in "ab"), "hold numbers.*generator"),
        (np.zeros((3, 2)), "one-dimensional"),
        (["same", "same "], "there is nothing to learn"),
    ],
)
@pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning")
def test_labels_of_texts_have_no_holes(labels, words):
    with pytest.raises(WorkloadError, match=words):
        read_labels(labels, "t")


def test_minus_one_beside_class_numbers_is_refused_in_a_table():
    y = np.column_stack([np.where(np.arange(N) % 7 == 0, -1, CLASSES), CLASSES == 1])
    with pytest.raises(WorkloadError, match=r"-1 as a mark for missing labels.*numpy\.nan"):
        from_arrays(X, y)
    with pytest.raises(WorkloadError, match=r"-1 as a mark for missing labels \(use NaN\)"):
        from_arrays(X, y, tasks=[Task("t", "multiclass", classes=3), "other"])
    with pytest.raises(WorkloadError, match=r"-1 as a mark for missing labels \(use NaN\)"):
        from_arrays(X, np.where(y == 2, 1, y), tasks=[Task("t", "binary"), "other"])
    assert from_arrays(X, y, tasks=[Task("t", "regression"), "other"]).tasks[0].kind == "regression"
    assert int((~from_arrays(X, np.where(y < 0, np.nan, y)).observed).sum()) == (y < 0).sum()
