"""Processes that are spawned: each imports the script that started it, so the script must not start them again there.

Python itself tells nobody: the new process dies with a traceback of its own, and its parent learns that it is gone.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from coterie.errors import WorkerError

_GUARD = (
    "Put what the script does below `if __name__ == '__main__':`, so that only imports, functions and classes are left "
    "above it."
)
#: what a process does before its first job, and a code that a script ends with by no accident
_TRIAL = (
    "import os, pickle, sys; from multiprocessing import process, spawn; process.current_process()._inheriting = True; "
    "spawn.prepare(pickle.loads(sys.stdin.buffer.read())); os._exit(86)"
)
_ARRIVED, _PATIENCE = 86, 120.0


def refuse_unguarded() -> None:
    """Refuse to start processes that would start processes in their turn.

    A script is refused here when the line of it that runs now stands below no `if`, and nothing before it looks at
    ``__name__``. Whatever is less plain shows when the first process starts: see :func:`why_none_starts`.

    Raises:
        WorkerError: with the line of the script.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkerError(
            f"A new process imports the script that started it, and the script starts processes again. {_GUARD}"
        )
    script, line = _script(), _line_of_main()
    if script is None or line is None:
        return
    try:
        tree = ast.parse(Path(script).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    before = [statement for statement in tree.body if statement.lineno <= line]
    if not isinstance(before[-1], ast.If) and not any(map(_looks_at_name, before)):
        raise WorkerError(
            f"Processes are started by line {line} of {os.path.basename(script)}, which each of them would run again: "
            f"a new process imports the script that started it. {_GUARD}"
        )


def _script() -> str | None:
    """The file that a spawned process imports as the main module; None for notebooks, ``-c`` and packages."""
    main: Any = sys.modules.get("__main__")
    if main is None or not hasattr(main, "__spec__"):
        return None
    data = spawn.get_preparation_data("")
    name: str = data.get("init_main_from_name", "")
    if name == "__main__" or name.endswith(".__main__"):
        return None
    path = main.__spec__.origin if name else data.get("init_main_from_path")
    return path if path and os.path.isfile(path) else None


def _line_of_main() -> int | None:
    """The line of the main module that runs now; None in another thread, or when the module has run to its end."""
    frame, found = sys._getframe(1), None  # pyright: ignore[reportPrivateUsage]
    main, own = vars(sys.modules["__main__"]), getattr(sys.modules["__main__"], "__file__", None)
    while frame is not None:
        code = frame.f_code
        if frame.f_globals is main and code.co_name == "<module>" and code.co_filename == own:
            found = frame.f_lineno
        frame = frame.f_back
    return found


def _looks_at_name(statement: ast.stmt) -> bool:
    """Whether anything in a statement compares ``__name__``, or asks for the process."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Compare) and any(
            isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node)
        ):
            return True
        if "current_process" in (getattr(node, "attr", ""), getattr(node, "id", "")):
            return True
    return False


def why_none_starts() -> WorkerError | None:
    """Start a process as they are started, and say what it fails with; None when it would start.

    Cost: one start of Python and one import of the script.
    """
    data = {name: value for name, value in spawn.get_preparation_data("trial").items() if name != "authkey"}
    command = [sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(command, input=pickle.dumps(data), capture_output=True, timeout=_PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == _ARRIVED:
        return None
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    reason = said[-1][:500] if said else f"exit code {done.returncode} and no message"
    script = data.get("init_main_from_path") or data.get("init_main_from_name")
    what = f"each of them first imports {script}, which fails there with" if script else "the first one fails with"
    advice = "" if _GUARD in reason else f" {_GUARD}"
    return WorkerError(f"The processes end as soon as they start: {what} {reason.rstrip('.')}.{advice}")


@contextmanager
def stdout_on_stderr() -> Generator[None]:
    """Processes that are started meanwhile print to stderr, from their first line on: stdout is for results."""
    kept = None
    with suppress(OSError):  # a program without these streams
        kept = os.dup(1)
        os.dup2(2, 1)
    try:
        yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)
