"""`coterie compare`: groupings from files, and the real training of a tiny workload."""

import json

import pytest
from typer.testing import CliRunner

from coterie.cli.app import app
from coterie.cli.groupings import parse_grouping, read_groupings
from coterie.errors import SettingError, StoreError

TASKS = ("a", "b", "c")


def parse(data):
    return parse_grouping(data, TASKS, "G.json")


def test_groupings_are_read_with_and_without_serves():
    plain = parse({"groups": [["b", "a"], ["c"]]})
    assert (plain.groups, plain.serves) == (((0, 1), (2,)), (0, 0, 1))
    assert parse([["a"], ["b", "c"]]).serves == (0, 1, 1)
    assert parse({"groups": [["a", "b"], ["c", "a"]], "serves": {"a": 1}}).serves == (1, 0, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "object with `groups`"),
        (None, "object with `groups`"),
        ({"groups": [["a"], []]}, "non-empty"),
        ({"groups": [["a", "b"]]}, "leaves out 1 tasks of the workload: c"),
        ({"groups": [["a", "b", "C"]]}, "the task 'C', which the workload does not have"),
        ({"groups": [["a", "b", 2]]}, "the task 2"),
        ({"groups": [["a"], ["b", "c"]], "serves": {"a": 1}}, "not in it"),
        ({"groups": [["a"], ["b", "c"]], "serves": {"a": 7}}, "not in it"),
        ({"groups": [["a"], ["b", "c"]], "serves": {"x": 0}}, "the task 'x'"),
        ({"groups": [["a"], ["b", "c"]], "serves": [0, 1, 1]}, "should map"),
        ({"groups": [["a", "b"], ["b", "c"]]}, "several groups: b.*Say which group"),
        ({"groups": [["a", "b"], ["b", "c"]], "serves": {"a": 0}}, "several groups: b"),
    ],
)
def test_bad_groupings_are_named(data, words):
    with pytest.raises(SettingError, match=words):
        parse(data)


def test_candidates_are_named_after_their_files(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "G.json").write_text('{"groups": [["a", "b", "c"]]}')
    found = read_groupings([tmp_path / "x" / "G.json", tmp_path / "y" / "G.json"], TASKS)
    assert list(found) == ["G", "G (2)"]
    with pytest.raises(StoreError, match="no file"):
        read_groupings([tmp_path / "nowhere.json"], TASKS)
    for content in (b"target,a,b\na,0,1\nb,1,0\n", b"", b"\xff"):
        (tmp_path / "A.csv").write_bytes(content)
        with pytest.raises(SettingError, match="should be JSON as `coterie group --out` writes it") as caught:
            read_groupings([tmp_path / "A.csv"], TASKS)
        assert "Delete" not in str(caught.value)


FILE = """
import numpy as np
from coterie.workload import Recipe, from_arrays
rng = np.random.default_rng(0)
x = rng.normal(size=(80, 4))
y = (x @ rng.normal(size=(4, 3)) > 0).astype(float)
workload = from_arrays(x, y, tasks=["a", "b", "c"], hidden=(8,), recipe=Recipe(epochs=3))
"""


def test_compare_trains_and_says_what_to_do(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    (tmp_path / "G.json").write_text('{"groups": [["a", "b"], ["c"]]}')
    command = ["compare", f"{tmp_path / 'own.py'}:workload", "-g", str(tmp_path / "G.json"), "--seeds", "2"]
    first = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run"), "--json"])
    assert first.exit_code == 0, first.stderr
    result = json.loads(first.stdout)
    assert [row["name"] for row in result["comparison"]["candidates"]] == ["all-in-one", "G", "single-task"]
    assert result["comparison"]["seeds"] == [0, 1]
    assert result["recommendation"]["text"]
    again = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run"), "--json"])
    assert json.loads(again.stdout) == result
    other = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run"), "--seeds", "3"])
    assert other.exit_code == 1
    assert "`seeds` is 2 there and 3 here" in " ".join(other.stderr.split())
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0, table.stderr
    assert table.stdout.startswith(result["recommendation"]["text"][:30])
    assert "single-task" in table.stdout
