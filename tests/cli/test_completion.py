"""Completion at a shell: names of methods and workloads, files, and the scripts that switch it on."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from coterie import affinity, balancing, datasets, grouping
from coterie.cli import complete
from coterie.cli.app import app


def offered(words: str, folder: str | None = None) -> list[str]:
    """What bash would offer at the end of these words."""
    typed = words.split(" ")
    environment = {"_COTERIE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    command = [sys.executable, "-m", "coterie.cli"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=folder, check=False
    )
    assert not done.stderr
    return done.stdout.split()


def test_names_are_those_of_the_library():
    assert sorted(complete.AFFINITY) == sorted(affinity.METHODS)
    assert sorted(complete.BALANCING) == sorted(balancing.METHODS)
    assert sorted(complete.GROUPING) == sorted(grouping.METHODS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("coterie ru", ["run"]),
        ("coterie run ye", ["yeast"]),
        ("coterie plan m", ["mhc"]),
        ("coterie run yeast --method grad", ["grad-tag", "grad-tag-blocks", "grad-tag-released"]),
        ("coterie affinity yeast -m land", ["landscape", "landscape-spectral"]),
        ("coterie run yeast --balancing fa", ["fairgrad", "famo"]),
        ("coterie group A.csv --method sd", ["sdp", "sdp-penalty"]),
        ("coterie benchmark yeast --methods tag,cos", ["tag,cosine"]),
        ("coterie run yeast --over", ["--overwrite"]),
    ],
)
def test_what_is_offered(words, expected, tmp_path):
    assert offered(words, str(tmp_path)) == expected


def test_workloads_are_names_and_files(tmp_path, monkeypatch):
    for name in ("mine.py", "notes.txt", ".hidden.py"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "own.py").touch()
    monkeypatch.chdir(tmp_path)
    assert complete.workloads("") == [*datasets.names(), "mine.py", "more/"]
    assert complete.workloads("mi") == ["mine.py"]
    assert complete.workloads("more/") == ["more/own.py"]
    assert complete.workloads("nowhere/x") == []


def test_completion_imports_nothing_heavy():
    code = (
        "import sys; from coterie.cli.app import app; from coterie.cli import complete; complete.workloads('y'); "
        "print([name for name in ('torch', 'numpy', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda *_, **__: (shell, f"/bin/{shell}"))
    done = CliRunner().invoke(app, ["--show-completion"], prog_name="coterie")
    assert done.exit_code == 0
    assert "_COTERIE_COMPLETE" in done.output


def test_switching_it_on(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda *_, **__: ("bash", "/bin/bash"))
    done = CliRunner().invoke(app, ["--install-completion"], prog_name="coterie")
    assert done.exit_code == 0
    assert any("_COTERIE_COMPLETE" in path.read_text() for path in tmp_path.rglob("*.sh"))
