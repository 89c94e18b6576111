"""Rows of pandas objects go by the labels of their indexes: labels, splits, data sets, graphs, texts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from coterie.errors import WorkloadError
from coterie.workload import Split, from_arrays, from_datasets, from_graph
from coterie.workload.arrays import paired
from coterie.workload.split import PARTS, by_position

N = 90
RNG = np.random.default_rng(0)
ORDER = RNG.permutation(N)
#: rows of patients with the labels that a shuffle, a filter or a key leaves behind
INDEXES = {
    "shuffled": pd.Index(ORDER),
    "filtered": pd.Index(ORDER * 3 + 7),
    "texts": pd.Index([f"row {number:03d}" for number in ORDER]),
    "dates": pd.Index(pd.Timestamp("2020-01-01") + pd.to_timedelta(ORDER, "D")),
}
PART = np.array(PARTS)[np.where(np.arange(N) < 50, 0, np.where(np.arange(N) < 70, 1, 2))]


def tables(index):
    x = pd.DataFrame(RNG.normal(size=(N, 3)), columns=list("uvw"), index=index)
    y = (x[["u", "v"]] > 0).astype(float).set_axis(["a", "b"], axis=1)
    return x, y, pd.Series(PART, index=index)


def as_asked(split):
    return all(sorted(split.part(part).tolist()) == np.flatnonzero(part == PART).tolist() for part in PARTS)


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
@pytest.mark.parametrize(
    "split",
    [
        lambda part, own: own.index[own == part],
        lambda part, own: (own == part).sort_index(),
        lambda part, own: (own == part).sample(frac=1, random_state=1),
        lambda part, own: (own == part).astype("boolean"),
        lambda part, own: (own == part).to_numpy(),
        lambda part, own: np.flatnonzero(own == part),
        lambda part, own: torch.from_numpy((own == part).to_numpy()),
        lambda part, own: pd.Index((own == part).to_numpy()),
    ],
    ids=["labels", "sorted mask", "shuffled mask", "nullable", "mask", "positions", "tensor", "index of booleans"],
)
def test_a_split_goes_by_the_labels_of_the_rows(index, split):
    x, y, own = tables(index)
    chosen = {part: split(part, own) for part in PARTS}
    assert as_asked(from_arrays(x, y, split=chosen).split)
    assert as_asked(from_arrays(x.to_numpy(), y, split=chosen).split)
    assert as_asked(from_arrays({"x": x["u"], "z": x["v"]}, y, split=chosen, build_model=Parts).split)


class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)

    def forward(self, x, z):
        return self.head(torch.stack([x, z], 1))


def test_labels_as_a_split_object_and_as_a_series_of_texts():
    x, y, own = tables(INDEXES["filtered"])
    assert as_asked(from_arrays(x, y, split=Split(*(own.index[own == part] for part in PARTS))).split)
    x, y, own = tables(INDEXES["texts"])
    assert as_asked(from_arrays(x, y, split={p: own.index[own == p].to_series() for p in PARTS}).split)


@pytest.mark.parametrize("index", ["texts", "dates"])
@pytest.mark.parametrize("form", [list, lambda rows: rows.to_numpy(), lambda rows: rows.to_numpy(dtype=object)])
def test_texts_and_dates_are_labels_in_whatever_they_come(index, form):
    x, y, own = tables(INDEXES[index])
    assert as_asked(from_arrays(x, y, split={part: form(own.index[own == part]) for part in PARTS}).split)


def test_fractions_in_a_series_go_by_name():
    shares = pd.Series({"test": 0.1, "train": 0.7, "validation": 0.2})
    made = from_arrays(*tables(None)[:2], split=shares).split
    assert [len(made.part(part)) for part in PARTS] == [63, 18, 9]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: own.index[:50] + 1000, "the data do not have"),
        (lambda own: (own == "train").set_axis(own.index + 1), "mask of another table"),
        (lambda own: (own == "train").reset_index(drop=True), "not those of the data"),
        (lambda own: (own == "train").iloc[:40], "not those of the data"),
        (lambda own: pd.Series(np.arange(50)), "labels .* or positions"),
        (lambda own: pd.RangeIndex(50), "labels .* or positions"),
        (lambda own: (own == "train").astype("boolean").mask(own.index == 3), "whole row numbers or a boolean mask"),
        (lambda own: [f"row {number}" for number in range(50)], "the data do not have"),
        (lambda own: own.to_frame().iloc[:50], "Found a data frame of 50 rows"),
        (lambda own: np.ma.masked_array(np.arange(50), np.arange(50) == 3), "whole row numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, words):
    x, y, own = tables(INDEXES["shuffled"])
    split = {part: np.flatnonzero(own == part) for part in PARTS}
    with pytest.raises(WorkloadError, match=words):
        from_arrays(x, y, split={**split, "train": change(own)})


def test_without_labels_of_rows_everything_goes_by_position():
    x, y, own = tables(None)
    for rows in (np.flatnonzero(own == "train"), pd.Series(np.flatnonzero(own == "train"), index=range(5, 55))):
        split = {**{part: np.flatnonzero(own == part) for part in PARTS}, "train": rows}
        assert as_asked(from_arrays(x, y, split=split).split)
        assert as_asked(from_arrays(x.to_numpy(), y.to_numpy(), split=split).split)


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_labels_follow_the_rows_of_the_inputs(index):
    x, y, _ = tables(index)
    wanted = from_arrays(x, y)
    for other in (y.sample(frac=1, random_state=2), {"a": y["a"].iloc[::-1], "b": y["b"]}):
        assert torch.equal(from_arrays(x, other).labels, wanted.labels)
    parts = from_arrays({"x": x["u"], "z": x["v"].iloc[::-1]}, y, build_model=Parts)
    assert torch.equal(parts.inputs["z"], torch.tensor(x["v"].to_numpy(), dtype=torch.float32))


def test_rows_with_a_label_twice_are_refused_in_another_order():
    x, y, _ = tables(pd.Index(np.arange(N) // 2 + 5))
    from_arrays(x, y)
    with pytest.raises(WorkloadError, match="different row labels"):
        from_arrays(x, y.iloc[::-1])


def test_data_sets_have_labels_of_their_own():
    x, y, own = tables(INDEXES["shuffled"])
    sets = {"a": (x, y["a"]), "b": (x.iloc[::-1], y["b"].sort_index())}
    made = from_datasets(sets, split={part: own.index[own == part] for part in PARTS})
    train = made.split.train.numpy()
    assert set(train[train < N]) == set(np.flatnonzero(own == "train"))
    assert set(train[train >= N]) == {2 * N - 1 - row for row in np.flatnonzero(own == "train")}
    assert torch.equal(made.labels[N:, 1], torch.tensor(y["b"].to_numpy()[::-1].copy(), dtype=torch.float32))


def test_nodes_of_a_graph_have_labels():
    x, y, own = tables(INDEXES["texts"])
    edges = RNG.integers(0, N, (2, 40))
    split = {part: own.index[own == part] for part in PARTS}
    build = {"build_model": lambda: torch.nn.Linear(3, 2), "split": split}
    made = from_graph(x, edges, y.sample(frac=1, random_state=2), **build)
    assert as_asked(made.split)
    assert torch.equal(made.labels, torch.tensor(y.to_numpy(), dtype=torch.float32))


def test_arrays_with_coordinates_are_paired_too():
    index = INDEXES["dates"]

    class Coordinates(SimpleNamespace):
        dims, ndim = ("time",), 1

        def isel(self, where):
            return Coordinates(values=self.values[where["time"]], indexes={"time": index})

    moved = Coordinates(values=np.arange(N)[::-1], indexes={"time": index[::-1]})
    _, other = paired(pd.Series(range(N), index=index), moved)
    assert other.values.tolist() == list(range(N))
    assert by_position({"train": index[:2]}, moved.indexes["time"])["train"].tolist() == [N - 1, N - 2]
