"""`coterie group --budget`."""

import json
from functools import partial

import pytest

from coterie.affinity import Affinity
from reference.command_line import coterie as program
from reference.taskonomy import MATRICES, TASKS

coterie = partial(program, "group")


@pytest.fixture
def path(tmp_path):
    Affinity(MATRICES["TAG"], TASKS).to_csv(tmp_path / "A.csv")
    return tmp_path / "A.csv"


def found(*arguments):
    result = coterie(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_json_has_groups_serves_objective_and_bound(path):
    two, three = found("--affinity", path, "--budget", 2), found("--affinity", path, "--budget", 3)
    assert two["groups"] == [["segmentation", "normals", "depth"], ["keypoints", "edges"]]
    assert two["objective"] == pytest.approx(0.3216958, abs=1e-6)
    assert three["groups"] == [["segmentation", "depth"], ["normals", "depth"], ["keypoints", "edges"]]
    assert three["serves"] == {"segmentation": 0, "normals": 1, "depth": 0, "keypoints": 2, "edges": 2}
    assert three["objective"] == three["bound"] == pytest.approx(0.3486704, abs=1e-6)


def test_people_see_who_is_trained_along(path, tmp_path):
    result = coterie("-a", path, "--budget", 3, "--out", tmp_path / "G.json")
    assert result.exit_code == 0, result.stderr
    assert "normals (trained along: depth)" in result.stdout
    assert "objective 0.34867, at most 0.34867" in result.stdout
    assert len(json.loads((tmp_path / "G.json").read_text())["groups"]) == 3


def test_options_of_a_partition_are_refused(path):
    for option in (("--groups", 2), ("--method", "spectral"), ("--diagonal", "keep")):
        result = coterie("-a", path, "--budget", 3, *option)
        assert result.exit_code == 2
        assert "exclude each other" in " ".join(result.stderr.replace("│", " ").split())
    for option in (("--costs", 1), ("--limit", 2), ("--singletons", "zero"), ("--model-cost", 1)):
        result = coterie("-a", path, *option)
        assert result.exit_code == 2
        assert "only be used with --budget" in " ".join(result.stderr.replace("│", " ").split())
    assert coterie("-a", path, "--budget", 3, "--sizes", path).exit_code == 2
    assert coterie("-a", path, "--budget", 3, "--costs", 1, "--model-cost", 1).exit_code == 2
    assert coterie("-a", path, "--budget", "many").exit_code == 2


def test_singletons_costs_and_limits(path, tmp_path):
    assert found("-a", path, "--budget", 5, "--singletons", "diagonal")["groups"] == [[name] for name in TASKS]
    assert found("-a", path, "--budget", 5, "--singletons", 9)["objective"] == 9
    assert len(found("-a", path, "--budget", 1.2, "--costs", 0.5)["groups"]) == 2
    assert len(found("-a", path, "--budget", 3, "--model-cost", 1.5)["groups"]) == 2
    assert max(map(len, found("-a", path, "--budget", 3, "--limit", 2)["groups"])) == 2
    (tmp_path / "C.csv").write_text("task,cost\n" + "".join(f"{name},{1 + i}\n" for i, name in enumerate(TASKS)))
    costly = found("-a", path, "--budget", 20, "--costs", tmp_path / "C.csv", "--model-cost", 1)
    assert costly["details"]["cost"] <= 20
    assert costly["details"]["cost"] == len(costly["groups"]) + sum(
        1 + TASKS.index(name) for group in costly["groups"] for name in group
    )
    small = found("-a", path, "--budget", 4, "--limit", 9, "--sizes", tmp_path / "C.csv")["groups"]
    assert all(sum(1 + TASKS.index(name) for name in group) <= 9 for group in small)


def user_error(*arguments):
    result = coterie(*arguments, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_mistakes_are_said_in_one_paragraph(path, tmp_path):
    assert "whole number of models" in user_error("-a", path, "--budget", 2.5)
    assert "budget" in user_error("-a", path, "--budget", 0)
    assert "singletons" in user_error("-a", path, "--budget", 2, "--singletons", "magic")
    assert "nowhere.csv" in user_error("-a", path, "--budget", 2, "--costs", tmp_path / "nowhere.csv")
    costs = tmp_path / "C.csv"
    costs.write_text("task,cost\nsegmentation,1\n")
    assert "no number for 4 of the tasks" in user_error("-a", path, "--budget", 2, "--costs", costs)
    costs.write_text("task,cost\nsegmentation,1\nsegmentation,2\n")
    assert "twice" in user_error("-a", path, "--budget", 2, "--costs", costs)
    costs.write_text("task,cost\nsegmentation,x\n")
    assert "no number" in user_error("-a", path, "--budget", 2, "--costs", costs)
    costs.write_text("task,cost\ncat,1\n")
    assert "not in the affinity" in user_error("-a", path, "--budget", 2, "--costs", costs)
    assert "limit" in user_error("-a", path, "--budget", 2, "--limit", 2)
