"""The result: checks, storage, comparison and display."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import SettingError, StoreError
from coterie.grouping import Grouping, adjusted_rand
from reference.partitions import rand_index_adjusted

OVERLAPPING = Grouping(("a", "b", "c"), ((0, 1), (1, 2)), (0, 1, 1), 1.5, 2.0, "cover", {"gap": 0.5, "note": "x"})


def test_labels_are_numbered_by_first_task():
    found = Grouping.from_labels(["a", "b", "c", "d"], ["y", "x", "y", "z"])
    assert found.groups == ((0, 2), (1,), (3,))
    assert found.serves == (0, 1, 0, 2)
    assert found.names == (("a", "c"), ("b",), ("d",))
    assert not found.overlaps


def test_overlapping_groups():
    assert OVERLAPPING.overlaps
    assert OVERLAPPING.n_groups == 2
    assert OVERLAPPING.subsets.tolist() == [[True, True, False], [False, True, True]]
    assert OVERLAPPING.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("tasks", "groups", "serves", "message"),
    [
        (("a", "a"), ((0, 1),), (0, 0), "`tasks`"),
        ((), (), (), "`tasks`"),
        (("a", "b"), ((0, 1), ()), (0, 0), "Group 1"),
        (("a", "b"), ((0, 0, 1),), (0, 0), "Group 0"),
        (("a", "b"), ((0, 2),), (0, 0), "Group 0"),
        (("a", "b"), ((0, 1),), (0,), "`serves`"),
        (("a", "b"), ((0, 1),), (0, 1), "'b'"),
        (("a", "b"), ((0,), (1,)), (0, 0), "'b'"),
        (("a", "b"), ((0, 1),), (-1, 0), "'a'"),
    ],
)
def test_wrong_groupings_are_refused(tasks, groups, serves, message):
    with pytest.raises(SettingError, match=message):
        Grouping(tasks, groups, serves)


@pytest.mark.parametrize("grouping", [OVERLAPPING, Grouping.from_labels(["x", "ü <b>", "a/../b"], [0, 1, 0])])
def test_storage_returns_the_same(grouping, tmp_path):
    assert Grouping.from_dict(json.loads(json.dumps(grouping.to_dict()))) == grouping
    grouping.save(tmp_path / "g.json")
    again = Grouping.load(tmp_path / "g.json")
    assert again == grouping
    assert again.details == grouping.details
    assert [path.name for path in tmp_path.iterdir()] == ["g.json"]


def test_the_dictionary_has_what_programs_read():
    stored = OVERLAPPING.to_dict()
    assert stored["groups"] == [["a", "b"], ["b", "c"]]
    assert stored["serves"] == {"a": 0, "b": 1, "c": 1}
    assert (stored["objective"], stored["bound"], stored["method"]) == (1.5, 2.0, "cover")
    endless = Grouping(("a",), ((0,),), (0,), float("nan"), float("inf"))
    json.dumps(endless.to_dict(), allow_nan=False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"groups": [["a"]]}', '{"groups": [["a"]], "serves": {"b": 0}}', "3"])
def test_damaged_files_are_named(text, tmp_path):
    path = tmp_path / "g.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"g\.json") as caught:
        Grouping.load(path)
    assert not any(word in str(caught.value) for word in ("..", "Error", "indices", "attribute", "NoneType"))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(StoreError, match=r"none\.json"):
        Grouping.load(tmp_path / "none.json")
    with pytest.raises(StoreError, match="no"):
        OVERLAPPING.save(tmp_path / "no" / "g.json")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=9))
def test_adjusted_rand_index_equals_counting_pairs(pairs):
    first, second = zip(*pairs, strict=True)
    assert adjusted_rand(first, second) == pytest.approx(rand_index_adjusted(first, second))


def test_adjusted_rand_index_matches_tasks_by_name():
    mine = Grouping.from_labels(["a", "b", "c", "d"], [0, 0, 1, 1])
    assert mine.adjusted_rand_index(Grouping.from_labels(["d", "b", "c", "a"], [5, 4, 5, 4])) == 1.0
    assert mine.adjusted_rand_index([["a", "b"], ["c", "d"]]) == 1.0
    assert mine.adjusted_rand_index([["a", "c"], ["b", "d"]]) == pytest.approx(-0.5)
    with pytest.raises(SettingError, match="'d'"):
        mine.adjusted_rand_index([["a", "b", "c"]])
    with pytest.raises(SettingError, match="several groups"):
        mine.adjusted_rand_index([["a", "b"], ["b", "c", "d"]])


def test_frame():
    frame = OVERLAPPING.to_frame()
    assert frame.index.tolist() == ["a", "b", "c"]
    assert frame["group"].tolist() == [0, 1, 1]
    assert frame["trained_in"].tolist() == [(0,), (0, 1), (1,)]
    assert frame["size"].tolist() == [2, 2, 2]


def test_names_with_markup_are_escaped():
    page = Grouping.from_labels(["<script>alert(1)</script>", "a&b"], [0, 1], method="<i>")._repr_html_()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert "a&amp;b" in page
    assert "grey" in OVERLAPPING._repr_html_()


@pytest.mark.parametrize("affinity", [None, np.arange(9.0).reshape(3, 3), np.diag([np.nan] * 3)])
def test_plot_draws_every_name(affinity):
    pytest.importorskip("matplotlib")
    named = Grouping.from_labels(["$a", "b$^", "<c>"], [0, 1, 0])
    axes = named.plot(affinity)
    axes.figure.canvas.draw()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["$a", "<c>", "b$^"]


def test_plot_refuses_another_matrix():
    pytest.importorskip("matplotlib")
    with pytest.raises(SettingError, match="3 x 3"):
        OVERLAPPING.plot(np.eye(2))
