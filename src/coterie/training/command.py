"""Commands as trainers: a training script in any language, started once a run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from coterie._check import positive
from coterie._files import atomic_write, user_path
from coterie._surface import known_arguments
from coterie.errors import ModelError, SettingError
from coterie.training.trainer import PARTS, Outcome, Run, describe_run, read_tasks

#: what a command is told of a run, and what it may be told
_PLACES, _MORE = ("tasks", "seed", "out"), ("variant", "number", "mixture")
#: so many characters of what a failing command printed stand in the message
_TAIL = 600
Answer = TypeVar("Answer")
#: files named in the command count with their content up to this size; larger ones are data, which `version` is for
_SCRIPT_BYTES = 2**20


@known_arguments
class CommandTrainer:
    """A command that trains a subset of tasks and writes its losses into a file.

    Args:
        command: with the places ``{tasks}`` (names with commas between them), ``{seed}`` and ``{out}`` (the file to
            write), and maybe ``{variant}`` and ``{number}`` of a run of a study. In a study of mixtures, ``{mixture}``
            (``web=0.7,code=0.3``) may stand for the tasks. It is split into arguments as a shell
            would, but no shell runs it: for pipes and variables give ``["bash", "-c", "..."]`` or a script.
        tasks: names of all tasks, without commas.
        timeout: seconds after which a run is ended, with all processes that it started; None waits for ever.
        logs: folder for what every run prints, one file a run; None keeps nothing.
        folder: where the command is run; None is the working directory of now.
        version: part of the fingerprint, beside the command and the scripts that it names (files up to 1 MiB, with
            their content). Change it when data, or modules that a script imports, have changed.

    The file holds JSON, ``{"a": 0.3, "b": 0.1}`` or ``{"validation": {...}, "test": {...}, "cost": 12.5}`` with a
    number or a list of one number an example for each task; or CSV with the columns ``task`` and ``validation`` (or
    ``loss``), and maybe ``test``. Losses: lower is better.

    Raises:
        SettingError: when the command lacks a place or has an unknown one, or another argument cannot be meant.

    Example:
        >>> trainer = CommandTrainer("python train.py --tasks {tasks} --seed {seed} --out {out}", ["a", "b"])
        >>> trainer.arguments(Run(("a", "b"), 3), "losses.json")[2:6]
        ['--tasks', 'a,b', '--seed', '3']
    """

    def __init__(
        self,
        command: str | Sequence[str],
        tasks: Sequence[str],
        *,
        timeout: float | None = None,
        logs: str | Path | None = None,
        folder: str | Path | None = None,
        version: str = "",
    ) -> None:
        self.tasks, self.command = read_tasks(tasks), _split(command)
        if commas := [task for task in self.tasks if "," in task]:
            raise SettingError(
                f"Parameter `tasks`: {commas[0]!r} has a comma, which stands between names in {{tasks}}. Rename it."
            )
        self.timeout = None if timeout is None else positive(timeout, "timeout")
        self.logs = None if logs is None else user_path(logs).absolute()
        self.folder, self.version = user_path(folder or ".").absolute(), str(version)
        if not self.folder.is_dir():
            raise SettingError(f"Parameter `folder` should be a folder. Found {str(folder)!r}.")
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([self.command, self.tasks, self.version]).encode())
        for argument in self.command:
            path = self.folder / argument
            with suppress(OSError, ValueError):
                if path.is_file() and path.stat().st_size <= _SCRIPT_BYTES:
                    digest.update(path.read_bytes())
        return f"command-{digest.hexdigest()}"

    def arguments(self, run: Run, out: str | Path) -> list[str]:
        """The command of a run, argument by argument."""
        places = {"tasks": ",".join(run.tasks), "seed": run.seed, "out": out}
        places |= {"variant": getattr(run, "variant", ""), "number": getattr(run, "number", 0)}
        shares: Mapping[str, float] = getattr(run, "shares", None) or {}
        places |= {"mixture": ",".join(f"{name}={share:.6g}" for name, share in shares.items())}
        return [argument.format(**places) for argument in self.command]

    def train(self, run: Run) -> Outcome:
        """Start the command, wait for its end, and read what it wrote.

        Raises:
            ModelError: when it cannot be started, ends with another code than 0, takes too long, or writes no losses.
        """
        return self.call(run, lambda path: Outcome(**read_report_file(path)))

    def report(self, run: Run) -> dict[str, Any]:
        """The same without a look at what was written: `validation`, `test` and `cost` as they are in the file.

        Raises:
            ModelError: see :meth:`train`.
        """
        return self.call(run, read_report_file)

    def call(self, run: Run, read: Callable[[Path], Answer]) -> Answer:
        """Start the command, wait for its end, and have what it wrote read by a function of the file.

        Raises:
            ModelError: see :meth:`train`; also when the function raises OSError or ValueError.
        """
        with tempfile.TemporaryDirectory(prefix="coterie-") as place:
            out = Path(place) / "losses"
            arguments = self.arguments(run, out)
            code, printed = self._call(arguments, run)
            self._log(run, f"{shlex.join(arguments)}\n{printed}")
            tail = f" It printed last: {printed[-_TAIL:].strip()!r}." if printed.strip() else " It printed nothing."
            kept = f"{tail} Runs that are done already are kept."
            if code is None:
                raise ModelError(
                    f"{self._said(run)} took longer than `timeout`={self.timeout:g} s and was ended.{kept}"
                )
            if code != 0:
                raise ModelError(f"{self._said(run)} ended with code {code}.{kept}")
            try:
                return read(out)
            except (OSError, ValueError, SettingError) as error:
                raise ModelError(
                    f"{self._said(run)} ended well but wrote no losses into {{out}}: {error}.{tail} Write JSON such as "
                    f'{{"{run.tasks[0]}": 0.3}}, or CSV with the columns task and loss, into the file that it is given.'
                ) from error

    def _call(self, arguments: Sequence[str], run: Run) -> tuple[int | None, str]:
        """Exit code, None after too long a time, and what was printed."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command, and no shell
                arguments, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ModelError(f"{self._said(run)} cannot be started: {error}. Check it, and `folder`.") from error
        try:
            printed, _ = process.communicate(timeout=self.timeout)
            return process.returncode, printed.decode(errors="replace")
        except subprocess.TimeoutExpired:
            _end(process)
            return None, process.communicate()[0].decode(errors="replace")
        finally:
            if process.poll() is None:  # this program was interrupted
                _end(process)
                process.wait()

    def _log(self, run: Run, text: str) -> None:
        """Keep what a run printed, where logs are wanted."""
        if self.logs is not None:
            self.logs.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(",".join(run.tasks).encode()).hexdigest()[:8]
            number = getattr(run, "number", None)
            name = f"seed-{run.seed}-{digest}" if number is None else f"run-{number}"
            atomic_write(self.logs / f"{name}.log", text.encode())

    def _said(self, run: Run) -> str:
        return f"The command {self.command[0]!r} in the run on {describe_run(run)}"

    def __repr__(self) -> str:
        return f"CommandTrainer({shlex.join(self.command)!r}, {len(self.tasks)} tasks)"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _split(command: Any) -> tuple[str, ...]:
    """The arguments of a command that names each place once or more."""
    try:
        parts = tuple(shlex.split(command) if isinstance(command, str) else map(str, command))
        places = {name for part in parts for _, name, _, _ in Formatter().parse(part) if name is not None}
    except (TypeError, ValueError) as error:
        raise SettingError(f"Parameter `command` cannot be split into arguments: {error}. Found {command!r}.") from None
    missing, unknown = (
        set(_PLACES) - places - ({"tasks"} if "mixture" in places else set()),
        places - {*_PLACES, *_MORE},
    )
    if missing or unknown or not parts:
        what = f"has no {{{min(missing)}}}" if missing else f"has {{{min(unknown)}}}, which is not known"
        raise SettingError(
            "Parameter `command` should have the places {tasks}, {seed} and {out}, and a brace that is meant as such "
            f"twice. It {what}. Found {command!r}."
        )
    return parts


def read_report_file(path: Path) -> dict[str, Any]:
    """What a command wrote, as it is: `validation`, and where they are there `test` and `cost`.

    Raises:
        ValueError: when it is neither JSON nor a table with a column of tasks and one of losses.
    """
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("{"):
        data = json.loads(text)
        if not isinstance(data.get("validation"), Mapping):
            return {"validation": data}
        return {"validation": data["validation"], "test": data.get("test"), "cost": data.get("cost")}
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = list(rows[0]) if rows else []
    chosen = {"validation": "validation" if "validation" in columns else "loss", "test": "test"}
    if "task" not in columns or chosen["validation"] not in columns:
        raise ValueError(f"neither JSON nor a table with the columns task and loss, but {text[:60]!r}")
    parts = [
        {row["task"]: float(row[chosen[part]]) for row in rows} if chosen[part] in columns else None for part in PARTS
    ]
    return {"validation": parts[0] or {}, "test": parts[1]}
