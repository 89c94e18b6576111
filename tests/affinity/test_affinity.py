"""Affinity, its table and its pictures; subsets; sampling; gain models."""

from __future__ import annotations

import contextlib
import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.affinity.affinity import Affinity
from coterie.affinity.gain_model import GainModel, PairwiseGainModel, as_subsets, random_subsets
from coterie.errors import CoterieError, SettingError, StoreError, WorkloadError

NAMES = ("a", "b & <i>", 'c,"$x_1$')


def example() -> Affinity:
    values = np.array([[0, 0.1, -1 / 3], [0.25, 0, 1e-17], [2.0, -0.5, 0]])
    return Affinity(values, NAMES, np.ones((3, 3), dtype=int), "gain", "by <b>hand</b>")


def same(first: Affinity, second: Affinity) -> bool:
    return first.tasks == second.tasks and np.array_equal(first.values, second.values, equal_nan=True)


def test_csv_and_json_keep_every_digit(tmp_path: Path) -> None:
    affinity = example()
    affinity.to_csv(tmp_path / "a.csv")
    assert same(Affinity.from_csv(tmp_path / "a.csv"), affinity)
    affinity.save(tmp_path / "a.json")
    again = Affinity.load(tmp_path / "a.json")
    assert same(again, affinity)
    assert again.counts is not None
    assert (again.kind, again.method) == ("gain", affinity.method)
    holes = Affinity(np.array([[0, np.nan], [1, 0]]), ("x", "y"), kind="raw")
    assert same(Affinity.from_dict(holes.to_dict()), holes)
    assert holes.to_dict()["values"][0][1] is None


@pytest.mark.parametrize(
    "text",
    [
        "target,x,y\nx,0,1\ny,2,0\n",
        ",x,y\nx,0,1\ny,2,0\n",
        "x,y\nx,0,1\ny,2,0\n",
        "x,y\n0,1\n2,0\n",
        "\ufeffx,y\r\n0,1\r\n\r\n2,0\r\n",
        "task, x , y\nx, 0, 1\ny, 2, 0\n",
    ],
)
def test_csv_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    affinity = Affinity.from_csv(tmp_path / "a.csv")
    assert affinity.tasks == ("x", "y")
    assert affinity.values.tolist() == [[0, 1], [2, 0]]  # rows are targets


def test_numbers_may_be_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",1,2\n1,0,5\n2,6,0\n")
    assert Affinity.from_csv(tmp_path / "a.csv").tasks == ("1", "2")


def test_a_diagonal_of_nan_survives(tmp_path: Path) -> None:
    affinity = Affinity(np.array([[np.nan, 1.0], [2.0, np.nan]]), ("x", "y"))
    affinity.to_csv(tmp_path / "a.csv")
    assert same(Affinity.from_csv(tmp_path / "a.csv"), affinity)
    (tmp_path / "b.csv").write_text("x,y\nNaN,1\n2,nan\n")
    assert same(Affinity.from_csv(tmp_path / "b.csv"), affinity)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header"),
        ("x,y\n", "header"),
        ("x,y\n0,1\n", "square"),
        ("x,y\n0,1\n2,0\n3,4\n", "square"),
        ("t,x,y\nx,0,1\n", "square"),
        ("x,y\n0,1\n2\n", "line 3"),
        ("x,y,z\n0\n1\n2\n", "header has 3"),
        ("x,y\n0,oops\n2,0\n", r"line 2, cell 2 .*'y'.*oops"),
        ("x,y\n0,1\nnope,0\n", r"line 3, cell 1.*nope"),
        ("x,y\n0,nan\n2,0\n", "line 2, cell 2.*finite"),
        ("x,y\n0,1\n-inf,0\n", "line 3, cell 1.*finite"),
        ("t,x,y\nx,0,\ny,2,0\n", r"line 2, cell 3 \(source 'y'\) is empty"),
        ("t,x,y\ny,0,1\nx,2,0\n", "line 2, cell 1.*'y'.*'x'"),
        ("t,x,x\nx,0,1\nx,2,0\n", "twice"),
        ("x,\n0,1\n2,0\n", "empty"),
        ("x;y\n0;1\n2;0\n", "semicolons"),
        ("0.0,0.5\n0.5,0.0\n", "header of task names"),
        ("0,1,2\n1,0,3\n2,3,0\n", "no header.*Add a header"),
        ("0,1\n1,0\n", "no header"),
        (',"a\nb",c\n"a\nb",0,1\nc,1,0\n', "line break"),
    ],
)
def test_bad_tables_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=message) as caught:
        Affinity.from_csv(path)
    assert "bad.csv" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no file"):
        Affinity.from_csv(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(WorkloadError, match="UTF-8"):
        Affinity.from_csv(tmp_path / "binary.csv")
    with pytest.raises(StoreError, match=r"Cannot write .*does not exist"):
        example().to_csv(tmp_path / "no" / "where.csv")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(StoreError, match="saved affinity"):
        Affinity.load(tmp_path / "a.json")


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet='01.-,;\n\r"xyz e', max_size=60))
def test_any_text_gives_a_table_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(text.encode())
    try:
        affinity = Affinity.from_csv(path)
    except CoterieError:
        return
    assert np.isfinite(affinity.values[~np.eye(len(affinity), dtype=bool)]).all()


def test_bad_affinities() -> None:
    with pytest.raises(WorkloadError, match="matrix"):
        Affinity(np.zeros((2, 3)), ("x", "y"))
    with pytest.raises(WorkloadError, match="infinite"):
        Affinity(np.array([[0, np.inf], [0, 0]]), ("x", "y"))
    with pytest.raises(WorkloadError, match="more than once"):
        Affinity(np.zeros((2, 2)), ("x", "x"))
    with pytest.raises(WorkloadError, match="empty name"):
        Affinity(np.zeros((2, 2)), ("x", " "))
    with pytest.raises(SettingError, match="kind"):
        Affinity(np.zeros((2, 2)), ("x", "y"), kind="odd")
    with pytest.raises(WorkloadError, match="counts"):
        Affinity(np.zeros((2, 2)), ("x", "y"), counts=np.zeros(2, dtype=int))


def test_pictures_show_names_as_they_are() -> None:
    page = example()._repr_html_()
    assert "<i>" not in page
    assert "b &amp; &lt;i&gt;" in page
    assert "<b>" not in page
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    axes = example().plot()
    axes.figure.canvas.draw()  # "$x_1$" would be an odd formula
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    matplotlib.pyplot.close("all")
    frame = example().to_frame()
    assert frame.loc["a", "b & <i>"] == 0.1


def test_subsets_in_every_form() -> None:
    expected = np.array([[True, False, True], [False, True, False]])
    for form in ([[0, 2], [1]], [["x", "z"], ["y"]], ((np.int64(2), "x"), ("y",)), expected):
        assert np.array_equal(as_subsets(form, ("x", "y", "z")), expected)


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        ([[]], "empty"),
        ([["q"]], "none of the 3 tasks"),
        ([[3]], "task index 3"),
        ([[-1]], "task index -1"),
        ([[0, "x"]], "twice"),
        (["xy"], "text"),
        ([[True, False, True]], "numpy array"),
        ([[0.5]], "float"),
        (np.ones((1, 3)), "type bool"),
        (np.ones((1, 2), dtype=bool), "3 columns"),
        (np.zeros((1, 3), dtype=bool), "empty"),
    ],
)
def test_bad_subsets(subsets: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        as_subsets(subsets, ("x", "y", "z"))  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(tasks=st.integers(2, 30), size=st.integers(2, 8), count=st.integers(1, 120), seed=st.integers(0, 99))
def test_sampling_covers_every_pair_or_says_how_many_it_takes(tasks: int, size: int, count: int, seed: int) -> None:
    size = min(size, tasks)
    if count < 2.5 * (tasks * (tasks - 1)) / (size * (size - 1)) + 3:  # may be impossible
        with contextlib.suppress(SettingError):
            random_subsets(tasks, count, size, seed=seed)
        return
    subsets = random_subsets(tasks, count, size, seed=seed)
    assert subsets.shape == (count, tasks)
    assert (subsets.sum(1) == size).all()
    assert (subsets.T.astype(int) @ subsets.astype(int) > 0).all()
    assert np.array_equal(subsets, random_subsets(tasks, count, size, seed=seed))


def test_sampling_settings() -> None:
    mixed = random_subsets(10, 40, (2, 5), seed=3)
    assert set(mixed.sum(1).tolist()) == {2, 5}
    free = random_subsets(10, 5, 3, cover=False)
    assert free.sum(1).tolist() == [3] * 5
    assert len(np.unique(random_subsets(8, 56, 3, seed=1), axis=0)) > 45  # few repeats
    for tasks, count, size, message in (
        (5, 3, 6, "size"),
        (5, 0, 2, "count"),
        (5, 9, 1, "at least 2"),
        (9, 3, 2, "36 can"),
    ):
        with pytest.raises(SettingError, match=message):
            random_subsets(tasks, count, size)


def test_sampling_is_uniform_where_coverage_is_easy() -> None:
    shares = random_subsets(8, 4000, 3, seed=0).mean(0)
    assert np.abs(shares - 3 / 8).max() < 0.03


def test_pairwise_model_is_the_mean_over_partners() -> None:
    affinity = example()
    model = PairwiseGainModel(affinity)
    found = model.predict([[0, 1, 2], [0, 2], ["a"]])
    a = affinity.values
    expected = [[(a[0, 1] + a[0, 2]) / 2, (a[1, 0] + a[1, 2]) / 2, (a[2, 0] + a[2, 1]) / 2]]
    expected += [[a[0, 2], np.nan, a[2, 0]], [0, np.nan, np.nan]]
    np.testing.assert_allclose(found, expected)
    assert model.standard_error([[0]]) is None
    np.testing.assert_allclose(model.pairwise().values, a)
    with pytest.raises(SettingError, match="not known"):
        PairwiseGainModel(Affinity(np.array([[0, np.nan], [0, 0]]), ("x", "y")))


class Counting(GainModel):
    """Gain of t in S: t plus ten times the smallest other member."""

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple("abcdefg")

    def _predict(self, subsets: np.ndarray) -> np.ndarray:
        gains = np.zeros(subsets.shape)
        for row, subset in enumerate(subsets):
            members = np.flatnonzero(subset)
            for t in members:
                gains[row, t] = t + 10 * min(s for s in members if s != t) if len(members) > 1 else 0
        return gains


def test_higher_order_is_the_plain_mean_over_subsets_with_both() -> None:
    model = Counting()
    found = model.higher_order(30, 3, seed=5)
    subsets = random_subsets(7, 30, 3, seed=5)
    gains = model.predict(subsets)
    assert found.counts is not None
    for i in range(7):
        for j in range(7):
            both = subsets[:, i] & subsets[:, j]
            assert found.counts[i, j] == both.sum() > 0
            assert found.values[i, j] == pytest.approx(0 if i == j else gains[both, i].mean())


def test_pairwise_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.affinity.gain_model._BLOCK", 4)  # pairs come in blocks
    found = Counting().pairwise().values
    for i in range(7):
        for j in range(7):
            assert found[i, j] == (0 if i == j else i + 10 * j)


@pytest.mark.parametrize("names", [("a", "b", "c"), ("1", "2", "3"), ("x, y", 'q "r"', "\u00e9")])
@pytest.mark.parametrize("ends", ["\r\n", "\n"])
def test_a_table_that_was_cut_anywhere_is_refused(tmp_path: Path, names: tuple[str, ...], ends: str) -> None:
    path = tmp_path / "A.csv"
    Affinity(np.random.default_rng(0).normal(size=(3, 3)), names).to_csv(path)
    whole = path.read_bytes().replace(b"\r\n", ends.encode())
    kept = 1 if ends == "\r\n" else 0  # what is left of the last line end is one
    for length in range(len(whole) - kept):
        path.write_bytes(whole[:length])
        with pytest.raises(WorkloadError):
            Affinity.from_csv(path)


def test_a_write_that_fails_keeps_the_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Affinity([[0.0, value], [value, 0.0]], ("a", "b")) for value in (1.0, 2.0))
    one.to_csv(tmp_path / "A.csv")
    one.save(tmp_path / "A.json")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    for write in (lambda: two.to_csv(tmp_path / "A.csv"), lambda: two.save(tmp_path / "A.json")):
        with pytest.raises(StoreError, match="no space left"):
            write()
    assert same(Affinity.from_csv(tmp_path / "A.csv"), Affinity.load(tmp_path / "A.json"))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_wide_line_reserves_no_memory(tmp_path: Path) -> None:
    width = 300_000
    (tmp_path / "A.csv").write_text(",".join(["x"] * 2) + "\n" + ",".join(["1"] * width) + "\n")
    tracemalloc.start()
    with pytest.raises(WorkloadError):
        Affinity.from_csv(tmp_path / "A.csv")
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()
