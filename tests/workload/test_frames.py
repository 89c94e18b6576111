"""Data frames: columns are found by name, rows are paired by position and only if their labels agree."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from coterie.errors import DataWarning, WorkloadError
from coterie.workload import Task, from_arrays, from_datasets
from coterie.workload.fingerprint import fingerprint

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(80, 3)), columns=["u", "v", "w"])
Y = pd.DataFrame({"a": X["u"] + 0.1, "b": 10 * X["v"], "c": 100 * X["w"]})
PLAIN = from_arrays(X, Y)


def column(workload, name):
    task = workload.tasks[workload.task_names.index(name)]
    return workload.labels[:, workload.task_names.index(name)].numpy() * task.scale + task.center


@pytest.mark.parametrize(
    "tasks", [["c", "a", "b"], [Task(name, "regression") for name in "cab"], [Task("c", "regression"), "a", "b"]]
)
@pytest.mark.parametrize("y", [Y, {name: Y[name] for name in Y}], ids=["frame", "mapping"])
def test_labels_follow_the_names_in_the_order_of_tasks(tasks, y):
    made = from_arrays(X, y, tasks=tasks)
    assert made.task_names == ("c", "a", "b")
    for name in Y:
        np.testing.assert_allclose(column(made, name), Y[name], rtol=1e-4, atol=1e-3)


def test_a_mapping_of_kinds_keeps_the_order_of_the_columns():
    made = from_arrays(X, Y, tasks={"c": "regression", "b": "regression", "a": "regression"})
    assert made.task_names == ("a", "b", "c")
    np.testing.assert_allclose(column(made, "c"), Y["c"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        (["a", "b", "x"], r"Missing: \['c'\]; no columns of the labels: \['x'\]"),
        (["a", "b"], r"Missing: \['c'\]; no columns of the labels: none"),
        ([Task("a", "regression"), Task("b", "regression"), Task("C", "regression")], r"\['C'\].*misspelt"),
        ({"a": "regression", "b": "regression", "x": "regression"}, r"Missing: \['c'\].*\['x'\]"),
        (["a", "b", "c", "a"], r"more than once: \['a'\]"),
    ],
)
def test_other_names_are_refused(tasks, words):
    with pytest.raises(WorkloadError, match=words):
        from_arrays(X, Y, tasks=tasks)


def test_columns_without_names_go_by_position():
    for y in (Y.to_numpy(), pd.DataFrame(Y.to_numpy())):
        made = from_arrays(X, y, tasks=["c", "a", "b"])
        assert made.task_names == ("c", "a", "b")
        np.testing.assert_allclose(column(made, "c"), Y["a"], rtol=1e-4, atol=1e-3)


def test_a_repeated_label_column_is_refused():
    with pytest.raises(WorkloadError, match=r"more than once: \['a'\]"):
        from_arrays(X, Y.set_axis(["a", "a", "b"], axis=1), tasks=["a", "b", "a"])


def sets():
    return {name: (X.iloc[rows], Y["a"].iloc[rows]) for name, rows in (("n", slice(0, 40)), ("s", slice(40, 80)))}


def test_data_sets_are_aligned_by_column_name():
    straight, mixed = sets(), sets()
    mixed["s"] = (mixed["s"][0][["w", "u", "v"]], mixed["s"][1])
    first, other = from_datasets(straight), from_datasets(mixed)
    assert torch.equal(first.inputs, other.inputs)
    assert first.input_names == other.input_names == ("u", "v", "w")


def test_data_sets_with_other_columns_are_refused_by_name():
    other = sets()
    other["s"] = (other["s"][0].rename(columns={"w": "z"}), other["s"][1])
    with pytest.raises(WorkloadError, match=r"entry 's' should have the 3 columns of entry 'n'.*\['w'\].*\['z'\]"):
        from_datasets(other)


def test_data_sets_of_arrays_and_frames_go_by_position_and_keep_no_names():
    other = sets()
    other["s"] = (other["s"][0].to_numpy(), other["s"][1].to_numpy())
    made = from_datasets(other)
    assert made.input_names is None
    assert torch.equal(made.inputs, from_datasets(sets()).inputs)


def test_tasks_of_data_sets_are_matched_by_name_too():
    made = from_datasets(sets(), tasks=["s", "n"])
    assert made.task_names == ("s", "n")
    assert bool(made.observed[:40, 1].all())
    assert not bool(made.observed[:40, 0].any())
    with pytest.raises(WorkloadError, match=r"Missing: \['s'\]"):
        from_datasets(sets(), tasks=["n", "x"])


def test_input_names_are_kept_where_there_are_some():
    assert PLAIN.input_names == ("u", "v", "w")
    assert PLAIN.to("cpu").input_names == ("u", "v", "w")
    assert from_arrays(X.to_numpy(), Y).input_names is None
    assert from_arrays(X.set_axis([0, 1, 2], axis=1), Y).input_names is None
    assert from_arrays(X.set_axis(["u", "u", "w"], axis=1), Y).input_names is None
    assert fingerprint(from_arrays(X.to_numpy(), Y)) == fingerprint(PLAIN)  # names are no part of what is computed


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X.sample(frac=1.0, random_state=0), Y),
        (X, Y.set_axis(range(1, 81), axis=0)),
        (X, {"a": Y["a"], "b": Y["b"].iloc[::-1]}),
    ],
)
def test_differing_indexes_are_refused(x, y):
    with pytest.raises(WorkloadError, match=r"row labels \(index\).*y\.loc\[x\.index\].*reset_index\(drop=True\)"):
        from_arrays(x, y)


def test_differing_indexes_in_a_data_set_are_refused():
    other = sets()
    other["s"] = (other["s"][0], other["s"][1].iloc[::-1])
    assert fingerprint(from_datasets(other)) == fingerprint(from_datasets(sets()))  # the same rows in another order
    other["s"] = (other["s"][0], other["s"][1].set_axis(range(140, 180)))
    with pytest.raises(WorkloadError, match=r"entry 's' have different row labels"):
        from_datasets(other)


def test_equal_indexes_and_arrays_are_fine():
    shuffled = X.sample(frac=1.0, random_state=0)
    from_arrays(shuffled, Y.loc[shuffled.index])
    from_arrays(shuffled, Y.to_numpy())
    with pytest.raises(WorkloadError, match="same number of rows"):
        from_arrays(X, Y.iloc[:70])


def classes(counts):
    """Labels 0, 1, 2 whose numbers in training, validation and test are given."""
    return np.concatenate([np.repeat(np.arange(3), part) for part in counts])


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (((20, 20, 20), (5, 5, 0), (5, 5, 5)), "'k' has no row of class 2 in the validation part"),
        (((20, 20, 20), (5, 5, 5), (10, 0, 0)), "'k' has one class only in the test part"),
        (((30, 27, 3), (5, 5, 0), (5, 5, 0)), "3 training rows of class 2 and no row of class 2 in the validation"),
        (((20, 20, 20), (5, 5, 5), (5, 5, 5)), None),
    ],
)
def test_a_class_that_is_missing_in_a_part_is_said(counts, words):
    sizes = np.cumsum([0, *(sum(part) for part in counts)])
    parts = ("train", "validation", "test")
    rows = {part: np.arange(a, b) for part, a, b in zip(parts, sizes, sizes[1:], strict=False)}
    k = classes(counts)
    x = np.random.default_rng(0).normal(size=(len(k), 3))
    tasks = [Task("k", "multiclass", classes=3), Task("r", "regression")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_arrays(x, np.stack([k, x[:, 0] + x[:, 1]], axis=1), tasks=tasks, split=rows)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, DataWarning)]
    assert said == [] if words is None else any(words in text for text in said)


@pytest.mark.parametrize(("constant", "warned"), [(1, False), (2, True)])
def test_constant_columns_warn_when_they_are_most(constant, warned):
    x = X.to_numpy().copy()
    x[:, :constant] = 1.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_arrays(x, Y)
    assert bool(caught) == warned
