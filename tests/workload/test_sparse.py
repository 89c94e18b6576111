"""Sparse labels against the same labels as a table."""

import pickle
import re
import sys

import numpy as np
import pytest
import torch

import coterie
from coterie.errors import SettingError, WorkloadError
from coterie.evaluation.compare import halve_validation
from coterie.evaluation.labels import LabelIndex
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import SparseLabels, fingerprint, from_dataset

RNG = np.random.default_rng(0)
ROWS, TASKS = 150, 6
X = RNG.normal(size=(ROWS, 5)).astype(np.float32)
Y = (X @ RNG.normal(size=(5, TASKS)) > 0).astype(float)
Y[:, 4:] = 3 * X[:, 1:3] + 7 + RNG.normal(size=(ROWS, 2))
Y[RNG.random(Y.shape) < 0.6] = np.nan
PLACES = np.argwhere(~np.isnan(Y))
MIXED = RNG.permutation(len(PLACES))
NAMES = [f"t{number}" for number in range(TASKS)]
OPTIONS = {"recipe": coterie.Recipe(epochs=3, batch_size=32), "tasks": NAMES}


def triples(**changed):
    rows, tasks = PLACES[MIXED].T
    return {"rows": rows, "tasks": tasks, "values": Y[rows, tasks], "shape": Y.shape, **changed}


@pytest.fixture(scope="module")
def both():
    return coterie.from_arrays(X, SparseLabels.of(**triples()), **OPTIONS), coterie.from_arrays(X, Y, **OPTIONS)


@pytest.mark.parametrize("backend", ["loop", "population"])
def test_trainings_are_the_same_bit_for_bit(both, backend):
    jobs = [Job((0, 1, 2, 3, 4, 5), seed=1), Job((1, 4), seed=2), Job((3,), seed=3)]
    for found, other in zip(*(fit(work, jobs, backend=backend) for work in both), strict=True):
        assert np.array_equal(found.validation, other.validation, equal_nan=True)
        assert np.array_equal(found.test, other.test, equal_nan=True)
        assert all(torch.equal(value, other.state[name]) for name, value in found.state.items())


def test_tasks_rows_and_looks_are_the_same(both):
    sparse, dense = both
    assert sparse.tasks == dense.tasks
    for subset in ((0,), (2, 5), tuple(range(TASKS))):
        assert torch.equal(sparse.rows_of(subset, "train"), dense.rows_of(subset, "train"))
    rows = torch.tensor([[3, 0], [7, 3]])
    for name in ("labels", "targets", "observed"):
        mine, other = getattr(sparse, name), getattr(dense, name)
        for key in (
            rows[0],
            rows,
            (slice(None), 4),
            (rows[0], 2),
            (slice(3, 9), 1),
            (rows[0], [1, 5]),
            (rows[0], slice(1, 4)),
        ):
            assert torch.equal(torch.nan_to_num(mine[key], -9), torch.nan_to_num(other[key], -9))
    assert int(sparse.observed.sum()) == int(dense.observed.sum())
    assert repr(sparse) == repr(dense)


def test_comparisons_go_by_the_same_rows_and_labels(both):
    (sparse, rows), (dense, others) = map(halve_validation, both)
    assert torch.equal(rows, others)
    assert torch.equal(sparse.split.validation, dense.split.validation)
    mine, other = LabelIndex.of(both[0], rows), LabelIndex.of(both[1], rows)
    for name in ("task", "position", "level"):
        assert np.array_equal(getattr(mine, name), getattr(other, name))


def test_estimates_are_the_same(both):
    found, other = (coterie.estimate_affinity(work, method="tag")[0].values for work in both)
    assert np.array_equal(found, other)


def test_names_order_and_fingerprint():
    named = SparseLabels.of(**triples(tasks=np.array(NAMES)[PLACES[MIXED, 1]]))
    turned = coterie.from_arrays(X, named, tasks=NAMES[::-1], recipe=OPTIONS["recipe"])
    expected = coterie.from_arrays(X, Y[:, ::-1], tasks=NAMES[::-1], recipe=OPTIONS["recipe"])
    assert turned.tasks == expected.tasks
    assert torch.equal(turned.observed[torch.arange(ROWS)], expected.observed)
    work, again = (coterie.from_arrays(X, SparseLabels.of(**triples()), **OPTIONS) for _ in range(2))
    assert fingerprint(work) == fingerprint(again)
    assert fingerprint(work) != fingerprint(turned)
    there = pickle.loads(pickle.dumps(work.labels))  # noqa: S301
    assert torch.equal(there.values, work.labels.values)


def test_labels_of_data_sets_may_be_sparse():
    items = [torch.from_numpy(x) for x in X]
    work = from_dataset(items, labels=SparseLabels.of(**triples()), standardize=False, **OPTIONS)
    dense = from_dataset(items, labels=Y, standardize=False, **OPTIONS)
    jobs = [Job((0, 4), seed=1)]
    assert np.array_equal(fit(work, jobs)[0].validation, fit(dense, jobs)[0].validation, equal_nan=True)


def test_many_tasks_with_few_labels_become_sparse(monkeypatch):
    module = sys.modules["coterie.workload.from_dataset"]
    monkeypatch.setattr(module, "_DENSE", 100)
    monkeypatch.setattr(module, "_SPARSE", 0.5)
    items = [(torch.from_numpy(x), y) for x, y in zip(X, Y, strict=True)]
    work = from_dataset(items, **OPTIONS)
    assert isinstance(work.labels, SparseLabels)
    assert work.tasks == from_dataset(items, labels=Y, **OPTIONS).tasks


BAD = {
    "lengths": ({"rows": [0, 1]}, "equally long"),
    "fractions": ({"rows": PLACES[MIXED, 0] + 0.5}, "whole numbers"),
    "rows": ({"shape": (9, TASKS)}, "`rows`.*from 0 to 8"),
    "tasks": ({"shape": (ROWS, 3)}, "`tasks`.*from 0 to 2"),
    "negative": ({"rows": PLACES[MIXED, 0] - 1}, "Found -1"),
    "twice": ({"rows": PLACES[MIXED, 0] * 0}, "more than once"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_triples(case):
    changed, message = BAD[case]
    with pytest.raises(WorkloadError, match=re.compile(message)):
        SparseLabels.of(**triples(**changed))


def test_bad_workloads():
    with pytest.raises(WorkloadError, match="same number of rows"):
        coterie.from_arrays(X[:100], SparseLabels.of(**triples()), **OPTIONS)
    values = np.where((PLACES[MIXED] == PLACES[0]).all(1), np.inf, Y[tuple(PLACES[MIXED].T)])
    infinite, tasks = SparseLabels.of(**triples(values=values)), [coterie.Task(name, "regression") for name in NAMES]
    with pytest.raises(WorkloadError, match=r"infinite.*row 0 of task"):
        coterie.from_arrays(X, infinite, tasks=tasks)
    few = SparseLabels.of(rows=np.arange(9), tasks=np.arange(9) % 2, values=np.arange(9) % 3 % 2, shape=Y.shape)
    with pytest.raises(WorkloadError, match="no label"):
        coterie.from_arrays(X, few, **OPTIONS)
    work = coterie.from_arrays(X, SparseLabels.of(**triples()), tasks=NAMES, recipe={"class_weights": "balanced"})
    jobs = [Job((0, 1), seed=0)]
    with pytest.raises(SettingError, match="sparse labels"):
        fit(work, jobs)
