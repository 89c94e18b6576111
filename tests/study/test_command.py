"""`coterie study`, from a shell."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coterie as package
from coterie.cli.app import app

VERBS = ("create", "ask", "tell", "add", "import", "show", "run", "predict", "recommend", "report")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def coterie(tmp_path, monkeypatch):
    """`coterie study` in a folder of its own; returns what it prints as JSON, or the error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        found = CliRunner().invoke(app, ["study", *map(str, arguments), "--json"])
        assert found.exit_code == code, found.output
        if code:
            return found.stderr
        assert found.stdout.count("\n") == 1
        return json.loads(found.stdout)

    return call


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_and_speaks_json(verb):
    text = CliRunner().invoke(app, ["study", verb, "--help"]).stdout
    assert f"coterie study {verb} mine" in " ".join(text.split())
    assert "--json" in text


@pytest.mark.parametrize("storage", [None, "s.db"])
def test_ask_and_tell(coterie, monkeypatch, storage):
    if storage:
        monkeypatch.setenv("COTERIE_STORAGE", storage)
    made = coterie("create", "mine", "--tasks", "a,b,c", "--models", 2)
    assert made["tasks"] == ["a", "b", "c"]
    assert Path(storage or "runs/mine/study.journal").is_file()
    run = coterie("ask", "mine")
    assert (run["number"], run["tasks"], run["seed"], run["enough"]) == (0, ["a", "b", "c"], 0, False)
    assert coterie("tell", "mine", 0, "a=0.31", "b=0.5+-0.1", "c=trained", "--cost", 2)["state"] == "told"
    assert "is told already" in coterie("tell", "mine", 0, "a=1", code=1)
    other = coterie("ask", "mine")
    assert coterie("tell", "mine", 1, "--failed", "out of memory")["reason"] == "out of memory"
    assert other["tasks"] != run["tasks"]
    added = coterie("add", "mine", "a=0.4", "b=0.2", "--seed", 9)
    assert (added["tasks"], added["losses"]) == (["a", "b"], {"a": 0.4, "b": 0.2})
    runs = coterie("show", "mine")["runs"]
    assert [one["state"] for one in runs] == ["told", "failed", "told"]
    assert runs[0]["losses"] == {"a": 0.31, "b": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tell", "mine", 0, "z=1"], "no task 'z'"),
        (["tell", "mine", 0, "a=nan"], "Found 'a=nan'"),
        (["tell", "mine", 0, "a"], "Found 'a'"),
        (["tell", "mine", 0], "Give the losses as TASK=LOSS"),
        (["tell", "mine", 0, "a=1", "--failed", "x"], "Give the losses as TASK=LOSS"),
        (["tell", "mine", 0, "--file", "none.json"], "'none.json' holds no losses"),
        (["tell", "mine", 7, "a=1"], "no run 7"),
        (["ask", "other"], "There is no study 'other'"),
        (["create", "mine", "--tasks", "a,b"], "There is a study 'mine'"),
        (["create", "mine", "--tasks", "a,b", "--load"], "is another one"),
        (["create", "new", "--tasks", "a,,b"], "--tasks should be names"),
        (["create", "new", "--tasks", "a,b", "--apart", "a,z"], "z"),
        (["recommend", "mine"], "There is no finished run yet"),
        (["predict", "mine", "none.csv"], "There is no file 'none.csv'"),
    ],
)
def test_mistakes(coterie, arguments, message):
    coterie("create", "mine", "--tasks", "a,b,c")
    coterie("ask", "mine")
    assert message in " ".join(coterie(*arguments, code=1).split())
    assert coterie("tell", "mine", 0, "a=1", "b=1", "c=1")["state"] == "told"


def test_settings_of_a_study(coterie):
    options = ["--maximize", "a", "--cost-unit", "dollars", "--max-size", 2, "--apart", "a,b", "--matters", 0.02]
    made = coterie("create", "mine", "--tasks", "a,b,c", *options, "--reask-after", 60, "--zero-shot")
    assert made["direction"] == {"a": "maximize", "b": "minimize", "c": "minimize"}
    assert (made["cost_unit"], made["matters"], made["reask_after"], made["zero_shot"]) == ("dollars", 0.02, 60.0, True)
    assert made["rules"] == {"sizes": [1, 2], "together": [], "apart": [["a", "b"]], "among": None}
    assert coterie("create", "mine", "--tasks", "a,b,c", *options, "--reask-after", 60, "--zero-shot", "--load") == made
    for _ in range(4):
        tasks = coterie("ask", "mine")["tasks"]
        assert len(tasks) <= 2
        assert set(tasks) != {"a", "b"}


def test_a_table_leads_to_predictions_and_groups(coterie):
    coterie("create", "mine", "--tasks", "a,b,c", "--models", 2)
    Path("runs.csv").write_text(
        "a,b,c,seed,cost,variant\n1,1,2,0,1,\n0.8,0.8,,0,1,\n,,0.9,0,1,\n1.2,,1.5,0,1,\n,1.2,1.6,0,1,\n0.9,,,0,0.5,half\n"
    )
    assert coterie("import", "mine", "runs.csv")["added"] == [0, 1, 2, 3, 4, 5]
    found = coterie("recommend", "mine", "--values", "observed")
    assert sorted(found["groups"]) == [["a", "b"], ["c"]]
    assert [found["groups"][found["serves"][task]] for task in "abc"] == [["a", "b"], ["a", "b"], ["c"]]
    assert found["objective"] == pytest.approx(2.5)
    assert {"recommended", "text", "verdict"} <= set(found)
    cheap = coterie("recommend", "mine", "--values", "observed", "--costs", 1)
    assert cheap["objective"] == pytest.approx(4)
    Path("subsets.csv").write_text("b,a\n1,x\n,1\n")
    predicted = coterie("predict", "mine", "subsets.csv")
    assert predicted["tasks"] == ["a", "b", "c"]
    assert [[value is None for value in row] for row in predicted["values"]] == [
        [False, False, True],
        [False, True, True],
    ]
    assert all(0 < value < 2 for value in predicted["values"][0][:2])
    assert [[error is None for error in row] for row in predicted["errors"]] == [
        [False, False, True],
        [False, True, True],
    ]
    page = Path(coterie("report", "mine")["report"])
    assert page == Path("runs/mine/study.html")
    assert "Against the simple ways to serve" in page.read_text()
    Path("other.csv").write_text("x,y\n1,2\n")
    assert "unknown columns" in coterie("import", "mine", "other.csv", code=1)


def test_a_command_is_started_once_a_run(coterie):
    coterie("create", "mine", "--tasks", "a,b,c")
    Path("train.sh").write_text(
        'echo task,loss > "$3"; for t in ${1//,/ }; do echo "$t,1.$2" >> "$3"; done; echo ran\n'
    )
    command = "bash train.sh {tasks} {seed} {out}"
    done = coterie("run", "mine", "--command", command, "--runs", 3, "--workers", 2)
    assert [run["state"] for run in done["runs"]] == ["told"] * 3
    assert sorted(path.name for path in Path("runs/mine/logs").iterdir()) == ["run-0.log", "run-1.log", "run-2.log"]
    assert coterie("run", "mine", "--command", command, "--runs", 3)["runs"] == []
    said = coterie("run", "mine", "--command", "true {tasks} {seed} {out}", "--runs", 9, code=1)
    assert "wrote no losses" in " ".join(said.split())
    assert [run["state"] for run in coterie("show", "mine")["runs"]] == ["told"] * 3 + ["failed"] * 3


def test_people_get_tables(coterie, tmp_path):
    coterie("create", "mine", "--tasks", "a,b")
    coterie("ask", "mine")
    shown = CliRunner().invoke(app, ["study", "show", "mine"]).stdout
    assert "asked" in shown
    assert "1 under way" in shown


def test_asking_is_light():
    code = (
        "import sys; from typer.testing import CliRunner; from coterie.cli.app import app\n"
        "run = lambda *a: CliRunner().invoke(app, ['study', *a])\n"
        "run('create', 'm', '--tasks', 'a,b'); run('ask', 'm'); done = run('tell', 'm', '0', 'a=1', 'b=1')\n"
        "assert done.exit_code == 0, done.output\n"
        "print([name for name in ('torch', 'sklearn', 'pandas', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    shutil.rmtree("runs/m", ignore_errors=True)


LOOP = """
set -e
coterie study create five --tasks a,b,c,x,y --models 2 --quiet > /dev/null
for step in $(seq 1 $RUNS); do
  run=$(coterie study ask five --json)
  number=$(sed 's/.*"number": \\([0-9]*\\).*/\\1/' <<< "$run")
  tasks=$(sed 's/.*"tasks": \\[\\([^]]*\\)\\].*/\\1/; s/[",]/ /g' <<< "$run")
  losses=()
  for task in $tasks; do
    loss=1000
    for other in $tasks; do
      case $task$other in
        aa|bb|cc|xx|yy) ;;
        [abc][abc]|[xy][xy]) loss=$((loss - 100));;
        *) loss=$((loss + 150));;
      esac
    done
    losses+=("$task=$((loss + ($(cksum <<< "$number$task" | cut -d' ' -f1) % 9)))")
  done
  coterie study tell five $number "${losses[@]}" > /dev/null
done
coterie study recommend five --json
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on PATH")
@pytest.mark.parametrize("runs", [3, pytest.param(28, marks=pytest.mark.slow)])
def test_a_loop_of_a_shell_leads_to_a_recommendation(tmp_path, runs):
    program = tmp_path / "coterie"
    program.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m coterie.cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", LOOP], cwd=tmp_path, env={**ENVIRONMENT, "PATH": path, "RUNS": str(runs)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["serves"]) == set("abcxy")
    if runs > 3:
        assert sorted(found["groups"]) == [["a", "b", "c"], ["x", "y"]]
        assert (found["recommended"], found["verdict"]) == ("groups", "yes")
