"""`coterie benchmark`: options, JSON, messages; a tiny workload for real."""

import json

import pytest

from coterie import benchmark as library
from coterie.benchmark import ENTRIES, Options
from reference.command_line import coterie

FILE = """
import numpy as np
from coterie.workload import Recipe, from_arrays
rng = np.random.default_rng(0)
x = rng.normal(size=(90, 4))
y = (x @ rng.normal(size=(4, 4)) + 0.5 * rng.normal(size=(90, 4)) > 0).astype(float)
workload = from_arrays(x, y, tasks=["a", "b", "c", "d"], hidden=(8,), recipe=Recipe(epochs=2))
other = from_arrays(x, y[:, :3], tasks=["a", "b", "c"], hidden=(8,), recipe=Recipe(epochs=2))
"""
SMALL = ("--subsets", "5", "--replicates", "2", "--pool", "0", "--pairs", "3", "--groups", "2", "--resamples", "20")


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    return f"{tmp_path / 'own.py'}:workload"


def test_json_page_and_resume(own, tmp_path):
    command = ("benchmark", own, *SMALL, "-m", "label-correlation", "--out", tmp_path / "run")
    first = coterie(*command, "--json")
    assert first.exit_code == 0, first.stderr
    found = json.loads(first.stdout)
    (result,) = found["benchmarks"]
    assert [row["name"] for row in result["entries"]] == ["label-correlation"]
    assert result["entries"][0]["error"] is None
    assert result["bank"]["subsets"] == 5
    assert found["page"] == str(tmp_path / "run" / "benchmark.html")
    assert json.loads((tmp_path / "run" / "benchmark.json").read_text()) == result
    assert json.loads(coterie(*command, "--json").stdout) == found
    table = coterie(*command)
    assert table.exit_code == 0, table.stderr
    assert "label correlation" in table.stdout
    assert "benchmark.html" in table.stdout


def test_several_beds_share_a_page(own, tmp_path):
    pytest.importorskip("matplotlib")
    command = ("benchmark", own, own.replace("workload", "other"), *SMALL, "-m", "label-correlation", "--quiet")
    done = coterie(*command, "--out", tmp_path / "all", "--figure", tmp_path / "plot.png")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "all" / "benchmark-own-other" / "benchmark.json").is_file()
    assert (tmp_path / "all" / "benchmark.html").read_text().count("<section") == 2
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_mistakes_in_a_later_bed_are_said_before_the_first_is_trained(own, tmp_path):
    command = ("benchmark", own, own.replace("workload", "other"), *SMALL, "-k", "4", "-m", "label-correlation")
    done = coterie(*command, "--out", tmp_path / "all")
    assert done.exit_code == 1
    assert "`groups` should be at most 3" in " ".join(done.stderr.split())
    assert not (tmp_path / "all").exists()


def test_a_bed_that_is_stopped_leaves_the_page_of_those_before(own, tmp_path, monkeypatch):
    real = library.benchmark
    monkeypatch.setattr(
        library, "benchmark", lambda bed, *rest, **more: real(bed, *rest, **more) if bed.make().n_tasks == 4 else 1 / 0
    )
    command = ("benchmark", own, own.replace("workload", "other"), *SMALL, "-m", "label-correlation")
    assert coterie(*command, "--out", tmp_path / "all").exit_code == 1
    assert (tmp_path / "all" / "benchmark.html").read_text().count("<section") == 1


def test_a_run_of_something_else_is_refused_and_replaced(own, tmp_path):
    other, out = own.replace("workload", "other"), tmp_path / "run"
    small = (*SMALL, "-m", "label-correlation", "--out", out)
    assert coterie("benchmark", own, *small).exit_code == 0
    assert "--overwrite" in coterie("benchmark", other, *small).stderr
    (out / "manifest.json").unlink()
    assert "benchmark.json, benchmark.html, units but no manifest.json" in " ".join(
        coterie("benchmark", other, *small).stderr.split()
    )
    assert coterie("benchmark", other, *small, "--overwrite").exit_code == 0
    assert len(json.loads((out / "benchmark.json").read_text())["bed"]["tasks"]) == 3


def test_the_list(tmp_path):
    names = [row["name"] for row in json.loads(coterie("benchmark", "--list", "--json").stdout)["entries"]]
    assert names == [entry.name for entry in ENTRIES]
    assert all(name in coterie("benchmark", "--list").stdout for name in names)


def test_options_have_the_defaults_of_the_library(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("coterie.benchmark.benchmark", lambda bed, options, **more: seen.append(options) or 1 / 0)
    assert coterie("benchmark", "digits", "--out", tmp_path).exit_code == 1
    assert seen == [Options()]
    coterie("benchmark", "digits", "--groups", "0", "-m", "tag, cosine", "--out", tmp_path)
    assert (seen[1].groups, seen[1].methods) == ((), ("tag", "cosine"))
    coterie("benchmark", "digits", "--groups", "3,5,3", "--out", tmp_path)
    assert seen[2].groups == (3, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "at least one"),
        (("yeast", "yeast"), "different workloads"),
        (("yest",), "Did you mean 'yeast'"),
        (("digits", "-m", "magic"), "`methods` should be names out of"),
        (("digits", "-m", ","), "at least one entry"),
        (("digits", "--groups", "two"), "whole numbers with commas"),
        (("digits", "--groups", "-1"), "whole numbers with commas"),
        (("digits", "--figure", "plot.doc"), "ends in .png"),
        (("digits", "--groups", "99", "--subsets", "3"), "groups"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(arguments, words, tmp_path):
    result = coterie("benchmark", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert words in " ".join(result.stderr.split())


def test_help_names_an_example():
    result = coterie("benchmark", "--help")
    assert result.exit_code == 0
    assert "Example: coterie benchmark" in " ".join(result.stdout.split())
