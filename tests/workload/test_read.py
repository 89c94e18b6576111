"""Array-likes that carry more than numbers: masks, holes and units are never lost on the way in."""

from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from coterie._read import by_task, read_array, read_matrix
from coterie.affinity import Affinity
from coterie.errors import SettingError, WorkloadError
from coterie.grouping import Grouping, group, select_groups, solve_sdp
from coterie.workload import from_arrays, from_datasets

NAN = np.nan
MASKED = np.ma.masked_array([1, 2, 3], mask=[False, True, False])


class Variable:
    """A variable of a file, which becomes a masked array when it is read."""

    def __array__(self, dtype=None, copy=None):
        return MASKED.astype(float)


class Column:
    """A column of Arrow: a number of nulls, and copies only when allowed."""

    null_count = 1

    def to_numpy(self, zero_copy_only=True):
        if zero_copy_only:
            raise ValueError("needs a copy")
        return np.array([1.0, NAN, 3.0])


class Table:
    """A table of Arrow; `columns` are not names here."""

    column_names = ("u", "v")
    columns = (Column(), Column())

    def column(self, index):
        return self.columns[index]


HOLES = {
    "masked": MASKED,
    "masked float": MASKED.astype("f4"),
    "masked object": MASKED.astype(object),
    "list with the masked constant": [1, np.ma.masked, 3],
    "nullable": pd.Series([1, None, 3], dtype="Int64"),
    "nullable float": pd.Series([1, None, 3], dtype="Float32"),
    "objects with None": np.array([1, None, Decimal(3)], dtype=object),
    "objects with NA": pd.Series([1, pd.NA, Fraction(3)], dtype=object),
    "category": pd.Series([1, None, 3]).astype("category"),
    "variable of a file": Variable(),
    "column of Arrow": Column(),
    "xarray around a mask": SimpleNamespace(dims=("time",), data=MASKED, attrs={}),
    "tensor": torch.tensor([1.0, NAN, 3.0], requires_grad=True, dtype=torch.bfloat16),
    "list of tensors": [torch.tensor(1.0, requires_grad=True), torch.tensor(NAN), torch.tensor(3)],
}


@pytest.mark.parametrize("values", HOLES.values(), ids=HOLES)
def test_a_hole_is_nan(values):
    found = read_array(values, "y")
    np.testing.assert_array_equal(found, [1.0, NAN, 3.0])
    assert type(found) is np.ndarray


def test_holes_in_tables_and_nested_lists():
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [True, False], "c": pd.array([True, None])})
    np.testing.assert_array_equal(read_array(frame, "y"), [[1, 1, 1], [NAN, 0, NAN]])
    np.testing.assert_array_equal(read_array([[1, np.ma.masked], [2, 3]], "y"), [[1, NAN], [2, 3]])
    np.testing.assert_array_equal(read_array([MASKED, MASKED.data], "y"), [[1, NAN, 3], [1, 2, 3]])
    np.testing.assert_array_equal(read_array(Table(), "y"), [[1, 1], [NAN, NAN], [3, 3]])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([1, 2], dtype=object), "i"),
        (np.array([True, False], dtype=object), "b"),
        (pd.Series([1, 2], dtype="Int64"), "i"),
        (pd.DataFrame({"a": pd.array([1, 2], "UInt8"), "b": [True, False]}), "iu"),
        (np.array([1, 2**70], dtype=object), "f"),
        (np.matrix([[1, 2]]), "i"),
    ],
)
def test_whole_numbers_and_booleans_stay_so(values, kind):
    assert read_array(values, "y").dtype.kind in kind


class Masked(torch.Tensor):
    """Stands in for tensors with a mask of their own."""

    def get_mask(self):
        return torch.ones(2, dtype=torch.bool)


REFUSED = {
    "unit": (SimpleNamespace(units="km", magnitude=np.ones(2)), r"unit 'km'.*x\.to\(\.\.\.\)\.magnitude"),
    "unit of each": ([SimpleNamespace(unit="m", value=1), SimpleNamespace(unit="km", value=1)], "unit 'm'"),
    "unit inside xarray": (SimpleNamespace(dims=(), data=SimpleNamespace(units="K", magnitude=1)), "unit 'K'"),
    "marks": (SimpleNamespace(dims=("t",), data=np.array([1.0, -99.0]), attrs={"missing_value": -99}), "decode_cf"),
    "scipy": (scipy.sparse.eye_array(2).tocsr(), r"\.toarray\(\)"),
    "sparse tensor": (torch.eye(2).to_sparse(), r"\.to_dense\(\)"),
    "meta": (torch.ones(2, device="meta"), "no values"),
    "masked tensor": (Masked(), "to_tensor"),
    "fields": (np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), r"fields \['a', 'b'\]"),
    "masked fields": (np.ma.array([(1, 2.0)], dtype=[("a", int), ("b", float)], mask=[(1, 0)]), "fields"),
    "text": (pd.DataFrame({"a": ["1", "2"], "b": pd.array([1, None], "Int64")}), r"y\['a'\].*'1'"),
    "times": ([pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-02")], "hold numbers.*text or dates"),
    "complex": (torch.ones(2, dtype=torch.cfloat), "complex64"),
    "ragged": ([[1], [1, 2]], "different lengths"),
    "card": (type("Card", (), {"__array__": lambda s: 1 / "", "get": None})(), r"\.get\(\)"),
}


@pytest.mark.parametrize(("values", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_lose_its_meaning_is_refused(values, words):
    with pytest.raises(WorkloadError, match=words):
        read_array(values, "y")
    with pytest.raises(SettingError, match=words):
        read_array(values, "y", SettingError)


X = np.random.default_rng(0).normal(size=(60, 3))
HIDDEN = np.arange(60) % 5 == 1


@pytest.mark.parametrize("kind", [np.float64, np.int64, bool, object])
def test_masked_labels_are_missing(kind):
    y = np.ma.masked_array((X[:, :2] > 0).astype(kind), np.column_stack([HIDDEN, ~HIDDEN & (np.arange(60) % 7 == 0)]))
    assert int((~from_arrays(X, y).observed).sum()) == y.mask.sum()
    assert int((~from_arrays(X, {"a": y[:, 0], "b": y[:, 1]}).observed).sum()) == y.mask.sum()
    made = from_datasets({"a": (X, y[:, 0]), "b": (X, y[:, 1])})
    assert int(made.observed.sum()) == 120 - y.mask.sum()


def test_masked_inputs_are_an_error_that_names_the_place():
    masked = np.ma.masked_array(X, np.zeros_like(X, dtype=bool))
    masked[7, 2] = np.ma.masked
    y = X[:, :2] > 0
    with pytest.raises(WorkloadError, match=r"1 missing.*\(7, 2\)"):
        from_arrays(masked, y)
    with pytest.raises(WorkloadError, match=r"x\['a'\]. has 12 missing"):
        from_arrays({"a": np.ma.masked_array(X[:, 0], HIDDEN), "b": X}, y)


def test_masked_affinities_are_missing():
    mask = np.zeros((3, 3), dtype=bool)
    mask[0, 1] = True
    masked = np.ma.masked_array([[0, 9.0, 0], [1, 0, 0], [0, 0.1, 0]], mask)
    assert np.isnan(Affinity(masked, ("a", "b", "c")).values[0, 1])
    for solve in (lambda a: group(a, 2), lambda a: select_groups(a, 2), lambda a: solve_sdp(a, k=2)):
        with pytest.raises(SettingError, match="finite entries only"):
            solve(masked)
    with pytest.raises(SettingError, match="finite number"):
        select_groups(np.eye(3), 2.0, costs=np.ma.masked_array([1, 2, 3], [0, 1, 0]))


NAMES = ["0", "1", "2", "3"]
PAIRS = np.array([[0, 0.9, 0, 0], [0.9, 0, 0, 0], [0, 0, 0, 0.8], [0, 0, 0.8, 0.0]])
FRAMES = {
    "columns moved": pd.DataFrame(PAIRS)[[2, 0, 3, 1]],
    "rows moved": pd.DataFrame(PAIRS).loc[[1, 2, 3, 0]],
    "both moved": pd.DataFrame(PAIRS).loc[[1, 2, 3, 0], [2, 0, 3, 1]],
    "numbers and texts, as a file has them": pd.DataFrame(PAIRS, columns=NAMES)[["3", "0", "2", "1"]],
    "texts and numbers": pd.DataFrame(PAIRS, index=NAMES)[[3, 1, 0, 2]],
    "texts": pd.DataFrame(PAIRS, index=NAMES, columns=NAMES)[["2", "0", "1", "3"]],
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_frames_of_affinities_go_by_name(frame):
    wanted = {frozenset({"0", "1"}), frozenset({"2", "3"})}
    assert {frozenset(names) for names in group(frame, 2).names} == wanted
    assert {frozenset(names) for names in select_groups(frame, 2).names} == wanted
    np.testing.assert_array_equal(Affinity(frame, tuple(NAMES)).values, PAIRS)
    np.testing.assert_array_equal(read_matrix(frame, NAMES, "a"), PAIRS)


def test_a_plain_numbering_beside_names_is_no_name():
    for frame in (pd.DataFrame(PAIRS, columns=list("dcba")), pd.DataFrame(PAIRS, index=list("dcba"))):
        assert group(frame, 2).names == (("d", "c"), ("b", "a"))
    with pytest.raises(WorkloadError, match=r"rename|Rename"):
        Affinity(pd.DataFrame(PAIRS, index=list("dcba"), columns=list("dcba")), tuple(NAMES))


def test_numbers_for_each_task_go_by_name():
    costs = pd.Series([5.0, 1.0, 1.0, 1.0], index=["d", "c", "b", "a"])
    frame = pd.DataFrame(PAIRS, index=list("abcd"), columns=list("abcd"))
    found = [select_groups(frame, 9.0, costs=given).names for given in (costs, costs.to_dict(), [1.0, 1.0, 1.0, 5.0])]
    assert found[0] == found[1] == found[2] == select_groups(frame, 9.0, costs=costs[::-1]).names
    labels = pd.Series([1, 0, 0, 1], index=["d", "b", "c", "a"])
    assert Grouping.from_labels(list("abcd"), labels).names == (("a", "d"), ("b", "c"))
    assert by_task(pd.Series([3, 4]), ("a", "b"), "costs") == [3, 4]
    for wrong in ({"a": 1, "x": 2}, pd.Series([1, 2], index=["a", "a"]), pd.Series([1, 2], index=[1, 0])):
        with pytest.raises(SettingError, match="name each task once"):
            by_task(wrong, ("a", "b"), "costs")
