"""`coterie diffusion`."""

import json
import tomllib
from functools import partial

import pytest

from coterie.diffusion.config import DiffusionConfig
from reference.command_line import coterie as program

coterie = partial(program, "diffusion")
pytestmark = pytest.mark.usefixtures("one_extractor")
TINY = """
[model]
channels = [8, 8]
[schedule]
steps = 30
[training]
steps = 3
batch = 4
seeds = 1
[affinity]
stride = 10
examples = 4
checkpoints = 1
[intervals]
k = 2
[balancing]
methods = ["uncertainty"]
[evaluation]
images = 4
draws = 1
[samples]
count = 40
steps = 2
"""


def test_a_study_from_a_file(tmp_path):
    (tmp_path / "study.toml").write_text(TINY)
    command = ("--config", tmp_path / "study.toml", "--out", tmp_path / "run")
    done = coterie(*command, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        **json.loads((tmp_path / "run" / "result.json").read_text()),
        "run": str(tmp_path / "run"),
        "page": str(tmp_path / "run" / "report.html"),
    }
    assert (tmp_path / "run" / "report.html").exists()
    table = coterie(*command)
    assert table.exit_code == 0, table.stderr
    for word in ("Spearman", "vanilla", "uncertainty", "Frechet distance", "report.html"):
        assert word in table.stdout
    (tmp_path / "study.toml").write_text(TINY.replace("steps = 3\n", "steps = 4\n"))
    other = coterie(*command)
    assert other.exit_code == 1
    assert "training.steps" in other.stderr
    assert coterie(*command, "--overwrite", "--quiet").exit_code == 0


def test_the_example_can_be_read():
    done = coterie("--example")
    assert done.exit_code == 0
    assert DiffusionConfig.from_dict(tomllib.loads(done.stdout)) == DiffusionConfig()
    assert json.loads(coterie("--example", "--json").stdout)["example"] == done.stdout


def test_without_a_file_it_says_how():
    done = coterie()
    assert done.exit_code == 2
    assert "--example" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"), [("[intervals]\nkk = 3", "Did you mean `k`?"), ("[", "--example"), (None, "Check the path")]
)
def test_mistakes_in_the_file(tmp_path, content, words):
    if content is not None:
        (tmp_path / "study.toml").write_text(content)
    done = coterie("--config", tmp_path / "study.toml", "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
