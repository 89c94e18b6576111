"""`--balancing` of run and compare, and `coterie benchmark balancing`."""

import json

import pytest

from reference.command_line import coterie

FILE = """
import numpy as np
from coterie.workload import Recipe, from_arrays
rng = np.random.default_rng(0)
x = rng.normal(size=(120, 4))
y = (x @ rng.normal(size=(4, 3)) + 0.5 * rng.normal(size=(120, 3)) > 0).astype(float)
workload = from_arrays(x, y, tasks=["a", "b", "c"], hidden=(8,), recipe=Recipe(epochs=3, batch_size=20))
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    return f"{tmp_path / 'own.py'}:workload"


def test_run_with_balancing(own, tmp_path):
    command = ("run", own, "--groups", 2, "--seeds", 2, "--bases", 1, "--out", tmp_path / "run", "--json")
    done = coterie(*command, "--balancing", "marigold")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["settings"]["balancing"] == {"name": "marigold", "options": {}}
    other = coterie(*command)
    assert other.exit_code == 1
    assert "balancing" in other.stderr


@pytest.mark.parametrize("verb", ["run", "compare"])
def test_bad_names_are_refused_before_any_training(own, tmp_path, verb):
    done = coterie(verb, own, "--balancing", "famos", "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert "Did you mean 'famo'" in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()


def test_compare_with_balancing(own, tmp_path):
    (tmp_path / "G.json").write_text('{"groups": [["a", "b"], ["c"]]}')
    command = ("compare", own, "-g", tmp_path / "G.json", "--seeds", 2, "--json")
    plain, balanced = (coterie(*command, *more) for more in ((), ("--balancing", "uncertainty")))
    assert plain.exit_code == balanced.exit_code == 0, balanced.stderr
    assert json.loads(plain.stdout)["comparison"] != json.loads(balanced.stdout)["comparison"]


def test_benchmark_of_balancing(own, tmp_path):
    command = ("benchmark", "balancing", own, "-m", "pooled,famo,marigold", "--replicates", 2, "--out", tmp_path / "b")
    done = coterie(*command, "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["benchmarks"]
    rows = {row["name"]: row for row in found["methods"]}
    assert list(rows) == ["equal", "pooled", "famo", "marigold"]
    assert rows["equal"]["against_equal"] is None
    # complete labels: the mean of task means is the mean over labels
    assert rows["pooled"]["delta"]["mean"] == pytest.approx(rows["equal"]["delta"]["mean"], abs=1e-4)
    assert rows["famo"]["flops"] > rows["equal"]["flops"]
    assert json.loads(coterie(*command, "--json").stdout)["benchmarks"] == [found]
    table = coterie(*command)
    assert table.exit_code == 0, table.stderr
    assert "marigold" in table.stdout
    assert "AUC" in table.stdout


@pytest.mark.parametrize(
    ("more", "words"), [(("-m", "famos"), "Did you mean 'famo'"), (("--replicates", 1), "at least 2")]
)
def test_bad_settings_of_the_benchmark(own, more, words):
    done = coterie("benchmark", "balancing", own, *more)
    assert done.exit_code == 1
    assert words in " ".join(done.stderr.split())
