"""Commands as trainers: real processes, what they write, and every way in which they fail."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coterie import Context
from coterie.errors import ModelError, SettingError
from coterie.evaluation import compare
from coterie.executors import LocalExecutor
from coterie.store import MemoryRun
from coterie.training import CommandTrainer, Run
from coterie.training.trainer import train_runs

TASKS = ("a", "b b", "c")
RUN = Run(("a", "b b"), seed=4)
SCRIPT = """
import json, sys
tasks, seed, out = sys.argv[1:]
print("training", tasks)
losses = {task: 1 + int(seed) / len(tasks.split(",")) for task in tasks.split(",")}
"""
END = 'open(out, "w").write(json.dumps(losses))'
PLACES = "{tasks} {seed} {out}"


def trainer(folder: Path, end: str = END, **settings: Any) -> CommandTrainer:
    (folder / "train.py").write_text(SCRIPT + end)
    return CommandTrainer(f"{sys.executable} train.py {PLACES}", TASKS, folder=folder, **settings)


@pytest.mark.parametrize(
    ("end", "test", "cost"),
    [
        (END, None, None),
        ('open(out, "w").write(json.dumps({"validation": losses, "test": dict.fromkeys(losses, 9), "cost": 2}))', 9, 2),
        ('open(out, "w").write("task,loss\\n" + "".join(f"{t},{v}\\n" for t, v in losses.items()))', None, None),
        (
            'open(out, "w").write("test,task,validation\\n" + "".join(f"9,{t},{v}\\n" for t, v in losses.items()))',
            9,
            None,
        ),
        ('open(out, "w").write(json.dumps({t: [v, v] for t, v in losses.items()}))', None, None),
    ],
    ids=["json", "json with parts", "csv", "csv with parts", "examples"],
)
def test_what_a_command_writes(tmp_path: Path, end: str, test: float | None, cost: float | None) -> None:
    found = trainer(tmp_path, end).train(RUN)
    assert (found.mean("a"), found.mean("b b"), found.cost) == (3.0, 3.0, cost)
    assert (None if found.test is None else found.mean("a", "test")) == test


def test_any_language(tmp_path: Path) -> None:
    script = 'echo task,loss > {out}; for t in $(echo {tasks} | tr , " "); do echo "$t,0.{seed}5" >> {out}; done'
    assert shutil.which("bash")
    found = CommandTrainer(["bash", "-c", script], ["x", "y"]).train(Run(("y",), 2))
    assert found.mean("y") == 0.25


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("sys.exit(3)", r"tasks 'a', 'b b'; seed 4 ended with code 3\. It printed last: 'training a,b b'"),
        ("raise KeyError('no such column')", r"ended with code 1\. .*no such column"),
        ("", r"ended well but wrote no losses into \{out\}: .*No such file"),
        ('open(out, "w").write("")', r"wrote no losses .*neither JSON nor a table"),
        ('open(out, "w").write("{")', r"wrote no losses"),
        ('open(out, "w").write("{}")', r"wrote no losses .*should map names"),
        ('open(out, "w").write("task,loss\\na,low")', r"wrote no losses .*low"),
        ('open(out, "w").write("name,auc\\na,1")', r"the columns task and loss"),
        ('open(out, "wb").write(b"\\xff\\xfe")', r"wrote no losses"),
    ],
    ids=range(9),
)
def test_a_command_that_fails_is_said(tmp_path: Path, end: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trainer(tmp_path, end).train(RUN)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'no-such-program' .* cannot be started"):
        CommandTrainer(f"no-such-program {PLACES}", TASKS).train(RUN)


def test_too_long_a_run_is_ended_with_all_of_its_processes(tmp_path: Path) -> None:
    end = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
child.wait()
"""
    with pytest.raises(ModelError, match=r"took longer than `timeout`=5 s and was ended. It printed last: 'training"):
        trainer(tmp_path, end, timeout=5).train(RUN)
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _alive(child):
            break
        time.sleep(0.05)
    assert not _alive(child)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_logs(tmp_path: Path) -> None:
    made = trainer(tmp_path, logs=tmp_path / "logs")
    train_runs(made, [RUN, Run(("c",), 4)], Context(store=MemoryRun()))
    texts = sorted(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert len(texts) == 2
    assert any("training a,b b" in text and "train.py 'a,b b' 4" in text for text in texts)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train {tasks} {seed}", r"It has no \{out\}"),
        ("train {tasks} {seed} {out} {gpu}", r"It has \{gpu\}, which is not known"),
        ("train {tasks} {seed} {out} '", "cannot be split"),
        ("train {tasks} {seed} {out", "cannot be split"),
        (3, "cannot be split"),
        ([], "has no"),
    ],
    ids=range(6),
)
def test_commands_that_cannot_be_meant(command: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        CommandTrainer(command, TASKS)


@pytest.mark.parametrize(
    "settings",
    [{"timeout": 0}, {"timeout": "long"}, {"folder": "/no/such/folder"}, {"tasks": ["a,b", "c"]}],
    ids=range(4),
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any]) -> None:
    every: dict[str, Any] = {"tasks": TASKS, **settings}
    with pytest.raises(SettingError, match=f"`{next(iter(settings))}`"):
        CommandTrainer(f"train {PLACES}", **every)


def test_the_script_counts_in_the_fingerprint(tmp_path: Path) -> None:
    first = trainer(tmp_path).fingerprint
    assert trainer(tmp_path).fingerprint == first
    assert trainer(tmp_path, version="2").fingerprint != first
    assert trainer(tmp_path, END + "\n").fingerprint != first


def test_a_comparison_of_commands_in_two_processes(tmp_path: Path, two_processes: LocalExecutor) -> None:
    made = trainer(tmp_path)
    here = compare(made, {"pair": [["a", "b b"], ["c"]]}, seeds=2, store=MemoryRun())
    there = compare(made, {"pair": [["a", "b b"], ["c"]]}, seeds=2, store=MemoryRun(), executor=two_processes)
    assert here.comparison.to_dict() == there.comparison.to_dict()
