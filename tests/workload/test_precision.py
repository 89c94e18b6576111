"""Large offsets are taken off in float64, before anything is rounded to float32."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from coterie.errors import CoterieWarning, DataWarning
from coterie.serving.saved import describe_inputs, prepare
from coterie.workload import from_arrays, from_datasets, from_graph
from coterie.workload.arrays import scaled, standardised

RNG = np.random.default_rng(0)
SMALL = RNG.uniform(0, 60, 90)
Y = np.column_stack([SMALL > 30, SMALL > 15]).astype(float)
#: the same column with an offset: seconds, nanoseconds, identifiers, years with a fraction, Kelvin
OFFSETS = {
    "seconds": 1.7e9 + SMALL,
    "nanoseconds": (1.7e18 + SMALL * 1e9).astype(np.int64),
    "identifiers": 2 * 10**10 + np.arange(90),
    "unsigned": np.uint32(4 * 10**9) + np.arange(90, dtype=np.uint32),
    "below zero": -1e8 + SMALL / 60,
}


def forms(column):
    """The column beside another one, in the forms in which inputs come."""
    frame = pd.DataFrame({"t": column, "other": SMALL})
    yield frame
    yield np.column_stack([column, SMALL])
    yield torch.tensor(np.column_stack([column, SMALL]), dtype=torch.float64)
    yield frame.astype({"t": "Int64" if column.dtype.kind in "iu" else "Float64"})


@pytest.mark.parametrize("column", OFFSETS.values(), ids=OFFSETS)
def test_values_stay_distinct_and_are_served_so(column):
    wanted = (column - column.min()).astype(np.float64)
    for x in forms(column):
        with warnings.catch_warnings():
            warnings.simplefilter("error", CoterieWarning)
            made = from_arrays(x, Y)
        train = made.split.train.numpy()
        wanted_here = (wanted - wanted[train].mean()) / wanted[train].std()
        np.testing.assert_allclose(made.inputs[:, 0], wanted_here, atol=2e-5)
        assert made.inputs.dtype == torch.float32
        served = prepare(x, describe_inputs(made.inputs), made.input_center, made.input_scale, made.input_names)
        torch.testing.assert_close(served, made.inputs, rtol=0, atol=0)


def test_data_sets_and_one_column_alone():
    made = from_datasets({"a": (SMALL, Y[:, 0]), "b": (np.float32(SMALL), Y[:, 1])})
    torch.testing.assert_close(made.inputs[:90], made.inputs[90:])
    made = from_datasets({name: (OFFSETS["seconds"], Y[:, column]) for column, name in enumerate("ab")})
    assert len(made.inputs.unique()) == 90


def test_regression_labels_with_an_offset_come_back():
    for offset, size in ((1.7e9, 1.0), (2.7e2, 1e-6), (1.7e18, 1e6)):
        y = np.column_stack([offset + size * SMALL, SMALL])
        task = from_arrays(RNG.normal(size=(90, 2)), y, tasks=["a", "b"]).tasks[0]
        made = from_arrays(RNG.normal(size=(90, 2)), y, tasks=["a", "b"]).labels[:, 0].double().numpy()
        np.testing.assert_allclose(made * task.scale + task.center, y[:, 0], rtol=0, atol=1e-5 * size * 60 + 256)
        assert len(np.unique(made)) > 80


def test_labels_in_tiny_units_are_brought_to_scale():
    made = from_arrays(RNG.normal(size=(90, 2)), np.column_stack([1e-13 * SMALL, SMALL]), tasks=["a", "b"])
    assert made.labels[made.split.train, 0].std() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: from_arrays(x, Y, standardize=False),
        lambda x: from_arrays({"t": x}, Y, build_model=lambda: torch.nn.Linear(2, 2), forward=lambda m, b: m(b["t"])),
        lambda x: from_graph(x, np.zeros((2, 1), dtype=int), Y, build_model=lambda: torch.nn.Linear(2, 2)),
    ],
    ids=["array", "mapping", "graph"],
)
@pytest.mark.parametrize("name", ["seconds", "identifiers"])
def test_what_float32_cannot_hold_apart_is_said_where_nothing_is_centred(make, name):
    x = np.column_stack([SMALL, OFFSETS[name].astype(np.float64)])
    with pytest.warns(DataWarning, match=r"column 1 apart.*Subtract it first"):
        make(x)


def test_labels_that_float32_cannot_hold_apart_are_said():
    y = np.column_stack([SMALL, 1.7e9 + 20 * SMALL])
    with pytest.warns(DataWarning, match=r"`y`.*column 1 apart"):
        from_arrays(SMALL[:, None], y, standardize=False, tasks=["a", "b"])


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_whole_numbers_that_float64_cannot_hold_apart_are_said(kind):
    x = np.column_stack([np.arange(90), 2**60 + np.arange(90)]).astype(kind)
    with pytest.warns(
        DataWarning, match=r"float64, in which columns are centred, .*column 1 apart.*Subtract it first\."
    ):
        from_arrays(x, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        from_arrays(np.column_stack([np.arange(90), 2**60 + 10**6 * np.arange(90)]).astype(kind), Y)


def test_ordinary_numbers_are_not_said():
    ordinary = (RNG.normal(size=(90, 2)), 1000 + RNG.normal(size=(90, 2)), RNG.integers(0, 1000, (90, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        for x in ordinary:
            from_arrays(x, Y, standardize=False)
    with pytest.warns(DataWarning, match="apart"):  # two whole numbers that become the same
        from_arrays(np.column_stack([np.arange(90) * 10**6, [2**24, 2**24 + 1] * 45]), Y, standardize=False)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_rounding_errors_of_a_constant_are_not_blown_up(kind):
    column = torch.full((40,), 0.1, dtype=kind)
    column[::2] += torch.finfo(kind).eps * 0.05
    made, _, scale = standardised(column[:, None], torch.arange(40))
    assert float(scale) == 1
    assert float(made.abs().max()) < 1e-6


def test_scaled_goes_in_parts(monkeypatch):
    x = torch.arange(30.0, dtype=torch.float64).reshape(10, 3) + 1e9
    whole = scaled(x, torch.tensor(1e9).double(), None)
    monkeypatch.setattr("coterie.workload.arrays._CHUNK", 6)
    torch.testing.assert_close(scaled(x, torch.tensor(1e9).double(), None), whole, rtol=0, atol=0)
    assert whole[:, 0].tolist() == [3.0 * row for row in range(10)]
