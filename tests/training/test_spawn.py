"""Scripts without a main guard, and processes that cannot start: one clear error, before or at the first process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from coterie import _spawn
from coterie._executor import Parcel, run_jobs
from coterie.errors import CoterieError, WorkerError
from coterie.executors import LocalExecutor
from reference.executors import Inline

#: what every script begins with; light, since new processes import it
HEAD = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from coterie.executors import LocalExecutor
def ask():
    with LocalExecutor(2) as executor:
        print("answer", executor.submit(abs, -3).result())
"""


def script(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    path = folder / "own.py"
    path.write_text(HEAD + body + "\n")
    command = [sys.executable, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("ask()", 8),
        ("import logging\nlog = logging.getLogger(__name__)\nask()", 10),
        ("for _ in range(2):\n    ask()", 9),
        ("ask()\nif __name__ == '__main__':\n    print('late')", 8),
    ],
)
def test_a_script_without_a_guard_is_refused_at_once(tmp_path: Path, body: str, line: int) -> None:
    done = script(tmp_path, body)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("Traceback") == 1  # no process was started
    said = done.stderr.splitlines()[-1]
    assert f"WorkerError: Processes are started by line {line} of own.py" in said
    assert "if __name__ == '__main__':" in said


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("if __name__ == '__main__':\n    print('begin')\nask()", "the script starts processes again"),
        ("if len(sys.argv) == 1:\n    ask()", "the script starts processes again"),
        (
            "if multiprocessing.current_process().name != 'MainProcess':\n    import no_such_thing\nask()",
            "No module named 'no_such_thing'",
        ),
        ("if __name__ != '__main__':\n    sys.exit(0)\nask()", "exit code 0 and no message"),
    ],
)
def test_what_is_less_plain_shows_in_the_first_process_with_its_reason(tmp_path: Path, body: str, reason: str) -> None:
    done = script(tmp_path, body)
    assert done.returncode == 1
    assert "answer" not in done.stdout
    assert done.stderr.count("Traceback") <= 2  # one of a process, one of the script
    said = done.stderr.splitlines()[-1]
    assert "WorkerError: The processes end as soon as they start" in said
    assert reason in said
    assert said.count("Put what the script does below") == 1


@pytest.mark.parametrize(
    "body",
    [
        "print('imported')\nif __name__ == '__main__':\n    ask()",
        "import os\nif os.environ.setdefault('FIRST', 'yes') == 'yes':\n    os.environ['FIRST'] = 'no'\n    ask()",
        "def main():\n    if __name__ == '__main__':\n        ask()\nmain()",
    ],
)
def test_guards_of_every_kind_are_left_alone(tmp_path: Path, body: str) -> None:
    done = script(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert "answer 3" in done.stdout
    assert done.stdout.count("imported") <= 1  # what new processes print goes to stderr, from their first line on


def test_other_pools_that_import_the_script_are_refused_too(tmp_path: Path) -> None:
    body = (
        "from coterie._executor import Parcel, run_jobs\n"
        "pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context({!r}))\n"
        "run_jobs(pool, max, [1], Parcel(2, [], ''))"
    )
    assert "Processes are started by line 10" in script(tmp_path, body.format("spawn")).stderr
    assert "Processes are started" not in script(tmp_path, body.format("fork")).stderr


def test_a_process_that_was_killed_is_no_fault_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _spawn.why_none_starts() is None
    monkeypatch.setattr("coterie.executors.why_none_starts", lambda: None)
    with LocalExecutor(1) as executor:
        executor._open()
        executor._await(ended(1))  # it ended, no process has begun, nothing is wrong: on to the next try
        assert executor.submit(abs, -2).result() == 2


def ended(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def leave(value: int, code: int) -> None:
    del value
    raise SystemExit(code)


class Leaves:
    def open(self) -> Any:
        raise SystemExit(4)


def test_code_that_ends_the_program_does_not_end_the_caller() -> None:
    whole = Parcel(1, [("pickled", lambda: pickle.dumps(Opened()))], "Think again")
    with pytest.raises(CoterieError, match="failed on a worker with SystemExit: 3"):
        run_jobs(Inline(), leave, [3], whole)
    closed = Parcel(1, [("pickled", lambda: pickle.dumps(Leaves()))], "Think again")
    with pytest.raises(WorkerError, match=r"pickled \(SystemExit: 4\).*Think again"):
        run_jobs(Inline(), leave, [3], closed)


class Opened:
    def open(self) -> int:
        return 1


def test_a_worker_that_ended_is_told() -> None:
    whole = Parcel(1, [("pickled", lambda: pickle.dumps(Opened()))], "Think again")
    with pytest.raises(WorkerError, match="SystemExit: 5"):
        run_jobs(Inline(SystemExit(5)), leave, [3], whole)
