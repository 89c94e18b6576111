"""Weights of data sets that are put one below the other."""

import numpy as np
import pytest
import torch

from coterie import from_arrays, from_datasets
from coterie.errors import WorkloadError

RNG = np.random.default_rng(0)
SETS = {name: (RNG.normal(size=(rows, 3)), RNG.normal(size=rows)) for name, rows in (("a", 12), ("b", 20), ("c", 15))}
OWN = {name: RNG.random(len(y)) for name, (_, y) in SETS.items()}
JOINED = np.concatenate(list(OWN.values()))


def test_weights_go_with_the_rows_of_their_data_set():
    named = from_datasets(SETS, weights=OWN)
    listed = from_datasets(list(SETS.values()), weights=list(OWN.values()))
    for work in (named, listed):
        assert work.weights is not None
        np.testing.assert_allclose(work.weights[:, 0], JOINED, rtol=1e-6)
    reordered = from_datasets(SETS, tasks=["c", "a", "b"], weights=OWN)  # columns move, rows do not
    torch.testing.assert_close(reordered.weights, named.weights)
    labels = np.full((len(JOINED), 3), np.nan)
    start = np.cumsum([0, 12, 20])
    for task, (first, (_, y)) in enumerate(zip(start, SETS.values(), strict=True)):
        labels[first : first + len(y), task] = y
    x = np.concatenate([x for x, _ in SETS.values()])
    same = from_arrays(x, labels, weights=JOINED, split=named.split, tasks=["a", "b", "c"])
    torch.testing.assert_close(same.label_weights, named.label_weights)


def test_one_number_counts_for_a_data_set_and_others_count_as_they_are():
    weights = from_datasets(SETS, weights={"b": 2.5}).weights
    assert weights is not None
    assert weights[:, 0].tolist() == [1.0] * 12 + [2.5] * 20 + [1.0] * 15
    assert from_datasets(SETS).weights is None


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"z": 1.0}, "Found 'z'"),
        ([1.0, 2.0], "Found '2 entries'"),
        (2.0, "Found 'float'"),
        ({"a": [1.0, 2.0]}, "'a' has 12 rows"),
        ({"a": "heavy"}, "'a' has 12 rows"),
        ({"a": -1.0}, "at least 0"),
    ],
)
def test_weights_that_fit_no_data_set_are_refused(weights, match):
    with pytest.raises(WorkloadError, match=match):
        from_datasets(SETS, weights=weights)
