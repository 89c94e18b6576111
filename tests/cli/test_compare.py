"""`coterie compare`: groupings from files, and the real training of a tiny workload."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coterie.cli.app import app
from coterie.cli.groupings import parse_grouping, read_groupings
from coterie.cli.tables import print_halving
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
    other = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run"), "--seeds", "1"])
    assert other.exit_code == 1
    assert "`seeds`, which may only grow, is 2 there and 1 here" in " ".join(other.stderr.split())
    (tmp_path / "H.json").write_text('{"groups": [["a", "c"], ["b"]]}')
    options = ["-g", str(tmp_path / "H.json"), "--out", str(tmp_path / "run"), "--seeds", "3", "--json"]
    grown = CliRunner().invoke(app, [*command, *options])
    assert grown.exit_code == 0, grown.stderr
    rows = {row["name"]: row for row in json.loads(grown.stdout)["comparison"]["candidates"]}
    assert {"G", "H"} < set(rows)
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0, table.stderr
    assert table.stdout.startswith(result["recommendation"]["text"][:30])
    assert "single-task" in table.stdout


def test_compare_within_a_budget_of_runs(tmp_path):
    (tmp_path / "own.py").write_text(FILE.replace("4, 3", "4, 4").replace('"c"]', '"c", "d"]'))
    groupings = ([["a", "b"], ["c", "d"]], [["a", "c"], ["b", "d"]], [["a", "d"], ["b", "c"]], [["a", "b", "c"], ["d"]])
    command = ["compare", f"{tmp_path / 'own.py'}:workload", "--seeds", "3"]
    for number, groups in enumerate(groupings):
        (tmp_path / f"G{number}.json").write_text(json.dumps(groups))
        command += ["-g", str(tmp_path / f"G{number}.json")]
    out = ["--out", str(tmp_path / "run")]
    first = CliRunner().invoke(app, [*command, "--runs", "29", *out, "--json"])
    assert first.exit_code == 0, first.stderr
    comparison = json.loads(first.stdout)["comparison"]
    record = comparison["halving"]
    assert record["spent"] <= record["runs"] == 29
    assert [row["name"] for row in comparison["candidates"]] == record["finalists"]
    assert len(record["rungs"][0]["candidates"]) == 4
    assert record["rungs"][0]["candidates"][0]["gain"]["mean"] == 0
    assert not set(record["seeds"]) & set(record["rungs"][0]["seeds"])
    again = CliRunner().invoke(app, [*command, "--runs", "29", *out, "--json"])
    assert json.loads(again.stdout)["comparison"] == comparison
    other = CliRunner().invoke(app, [*command, "--runs", "28", *out])
    assert other.exit_code == 1
    assert "`runs`, which may only grow, is 29 there and 28 here" in " ".join(other.stderr.split())
    table = CliRunner().invoke(app, [*command, "--runs", "29"])
    assert table.exit_code == 0, table.stderr
    assert "leaves" in table.stdout
    assert f"{record['spent']} of 29 runs spent; the final has" in table.stdout
    few = CliRunner().invoke(app, [*command, "--runs", "5"])
    assert few.exit_code == 1
    assert "`runs` should be at least" in few.stderr
    small = CliRunner().invoke(app, [*command, "--runs", "60", "--budget", "1", "--json"])
    assert json.loads(small.stdout)["comparison"]["halving"]["refused"] == ["G0", "G1", "G2", "G3"]


@pytest.mark.parametrize(
    ("rungs", "seeds", "words"),
    [
        (0, 3, "9 of 12 runs spent, enough for all candidates."),
        (0, 2, "9 of 12 runs spent; the final has 2 instead of 3 seeds."),
        (1, 2, "9 of 12 runs spent; the final has 2 instead of 3 seeds, which no rung used."),
        (1, 3, "9 of 12 runs spent; the final has seeds that no rung used."),
    ],
)
def test_the_table_of_rungs(rungs, seeds, words):
    standing = {"name": "[b]x", "loss": 0.5, "gain": {"mean": 0.0, "low": None, "high": None}, "stays": True}
    other = {**standing, "name": "y", "gain": {"mean": -0.02, "low": None, "high": None}, "stays": False}
    record = {
        "runs": 12,
        "spent": 9,
        "rungs": [{"seeds": [3], "runs": 4, "candidates": [standing, other]}] * rungs,
        "finalists": ["[b]x"],
        "seeds": list(range(seeds)),
        "asked": 3,
        "refused": ["z"],
        "twins": {"w": "[b]x"},
    }
    console = Console(record=True, width=120)
    print_halving(console, record)
    text = console.export_text()
    assert words in text
    assert "z has more models than the budget allows" in text
    assert "w has the same groups as [b]x" in text
    assert ("-2.0 %" in text) == bool(rungs)
