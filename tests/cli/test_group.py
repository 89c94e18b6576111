"""`coterie group` on matrices, with the real thing behind it."""

import json

import numpy as np
import pytest

from reference.command_line import coterie


def write(path, values, names, index=True):
    lines = [",".join(["", *names] if index else names)]
    for name, row in zip(names, values, strict=True):
        lines.append(",".join([*([name] if index else []), *(repr(float(v)) for v in row)]))
    path.write_text("\n".join(lines) + "\n")
    return path


BLOCKS = np.kron(np.eye(2), np.ones((3, 3)))
NAMES = ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("index", [True, False])
def test_json_has_groups_serves_and_objective(tmp_path, index):
    path = write(tmp_path / "A.csv", BLOCKS, NAMES, index)
    result = coterie("group", "--affinity", path, "--groups", 2, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert sorted(map(sorted, found["groups"])) == [["a", "b", "c"], ["d", "e", "f"]]
    assert {name: sorted(found["groups"][group]) for name, group in found["serves"].items()} == {
        name: ["a", "b", "c"] if name in "abc" else ["d", "e", "f"] for name in NAMES
    }
    assert found["objective"] == pytest.approx(6.0, abs=1e-4)


def test_people_get_a_table_and_a_file(tmp_path):
    names = ["[red]x[/red]", *NAMES[1:]]
    path = write(tmp_path / "A.csv", BLOCKS, names)
    result = coterie("group", "-a", path, "-k", 2, "--out", tmp_path / "G.json")
    assert result.exit_code == 0, result.stderr
    assert "[red]x[/red], b, c" in result.stdout  # a name is a name, not markup
    assert "objective" in result.stdout
    assert sorted(map(len, json.loads((tmp_path / "G.json").read_text())["groups"])) == [3, 3]


def test_the_number_of_groups_may_be_left_out(tmp_path):
    path = write(tmp_path / "A.csv", BLOCKS, NAMES)
    result = coterie("group", "-a", path, "--json")
    assert result.exit_code == 0, result.stderr
    assert sorted(name for group in json.loads(result.stdout)["groups"] for name in group) == NAMES


def _user_error(result):
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_mistakes_are_said_in_one_paragraph(tmp_path):
    path = write(tmp_path / "A.csv", BLOCKS, NAMES)
    assert "nowhere.csv" in _user_error(coterie("group", "-a", tmp_path / "nowhere.csv", "-k", 2, "--json"))
    assert "7" in _user_error(coterie("group", "-a", path, "-k", 7, "--json"))
    assert "method" in _user_error(coterie("group", "-a", path, "--method", "magic", "--json"))
    assert "diagonal" in _user_error(coterie("group", "-a", path, "--diagonal", "magic", "--json"))
    (tmp_path / "B.csv").write_text(",a,b\na,1,2\n")
    assert "square" in _user_error(coterie("group", "-a", tmp_path / "B.csv", "--json"))
    (tmp_path / "C.csv").write_text(",a,b\na,1,x\nb,1,2\n")
    _user_error(coterie("group", "-a", tmp_path / "C.csv", "--json"))
    (tmp_path / "D.csv").write_bytes(b"")
    _user_error(coterie("group", "-a", tmp_path / "D.csv", "--json"))
    _user_error(coterie("group", "-a", tmp_path, "--json"))
    _user_error(coterie("group", "-a", path, "--out", path / "below" / "G.json", "--json"))
    (tmp_path / "E.csv").write_text("0,1,2\n1,0,3\n2,3,0\n")
    assert "no header" in _user_error(coterie("group", "-a", tmp_path / "E.csv", "--json"))


def test_a_diagonal_that_is_missing_is_asked_for(tmp_path):
    values = BLOCKS.copy()
    np.fill_diagonal(values, np.nan)
    path = write(tmp_path / "A.csv", values, NAMES)
    assert "--diagonal" in _user_error(coterie("group", "-a", path, "-k", 2, "--json"))
    result = coterie("group", "-a", path, "-k", 2, "--diagonal", "mean", "--json")
    assert result.exit_code == 0, result.stderr
    assert sorted(map(len, json.loads(result.stdout)["groups"])) == [3, 3]


def test_help_lists_every_method():
    from coterie.grouping import METHODS

    words = coterie("group", "--help").stdout.replace("│", " ").split()
    assert all(any(method in word.strip(",.") for word in words) for method in METHODS)


def test_usage_errors_have_their_own_code(tmp_path):
    for arguments in (
        ("group",),
        ("group", "-a", "A.csv", "-k", "0"),
        ("group", "-a", "A.csv", "-k", "two"),
        ("magic",),
    ):
        result = coterie(*arguments)
        assert result.exit_code == 2, arguments
        assert result.stdout == ""
