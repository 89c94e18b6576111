"""Scripts in processes of their own that need not import torch again: they are forked from one that has done so.

A new interpreter takes three seconds and more until torch, its compiler and the library are there, which is most
of the time of a small script. Here one process imports them and does nothing else, so that what is forked from it is as
good as new: no thread, no random number and no file of another script. What a script says that it needs besides is
imported there, too, and so once for all scripts. Where processes cannot be forked safely, each script gets an
interpreter of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

FORKS = sys.platform == "linux"

SERVER = """
import contextlib, gc, os, sys, importlib, json, threading
for name in ("torch._dynamo", "torch._decomp.decompositions_for_jvp", "sklearn.datasets", "pandas", "scipy.stats",
             "coterie.pipeline", "coterie.cli.app"):
    importlib.import_module(name)
gc.freeze()  # the collector of a child would write to every page, and the system copy it
print("ready", flush=True)
script = None
while script is None:
    line = sys.stdin.readline()
    if not line:
        break
    order = json.loads(line)
    with contextlib.suppress(Exception):  # the script will say what is wrong
        for module, names in order["needs"]:
            for name in names:
                getattr(importlib.import_module(module), name)
    assert threading.active_count() == 1, "a thread would not be copied"
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        script = order
    else:
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
if script is not None:
    import runpy
    for number, path in enumerate((os.devnull, script["stdout"], script["stderr"])):
        to = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(to, number)
        os.close(to)
    os.chdir(script["cwd"])
    sys.argv = [script["path"], *script["arguments"]]
    sys.path[0] = os.path.dirname(script["path"])
    runpy.run_path(script["path"], run_name="__main__")
"""


PROGRAM = """
import sys
del sys.path[0]  # the folder of this file, whose name would hide the package
from coterie.cli import main
sys.argv[0] = "coterie"
sys.exit(main())
"""


class Script:
    """One that was started; its `code` is there when it has ended, negative where a signal ended it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, *, forked: bool) -> None:
        self.process, self.folder, self.forked = process, folder, forked
        self.code: int | None = None
        self.pid = process.pid
        if forked:
            line = self._line(60)
            assert line, "the process that forks does not answer"
            self.pid = int(line)

    def _line(self, seconds: float) -> bytes:
        """What the process that forks says next; nothing after so many seconds."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return b""
        line = self.process.stdout.readline()  # not buffered: takes no more than the line
        assert line, "the process that forks has ended"
        return line

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None where it goes on after so many seconds."""
        if self.code is None and self.forked:
            line = self._line(max(seconds, 0.0))
            self.code = int(line) if line else None
        elif self.code is None:
            with suppress(subprocess.TimeoutExpired):
                self.code = self.process.wait(seconds)
        return self.code

    def kill(self) -> int | None:
        """End it at once."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait(60)

    def text(self, stream: str) -> str:
        """What it has written to ``"stdout"`` or ``"stderr"`` so far."""
        return (self.folder / stream).read_text()


class Scripts:
    """Runs one script at a time; the process that forks is started with the first."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self._server: subprocess.Popen[bytes] | None = None
        self._last: Script | None = None

    def start(
        self, path: str | Path, *arguments: str | Path, cwd: Path, needs: Sequence[tuple[str, list[str]]] = ()
    ) -> Script:
        """The script, in a process of its own; `needs` are modules and names in them that it will import."""
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        streams = {name: str(folder / name) for name in ("stdout", "stderr")}
        for stream in streams.values():
            Path(stream).touch()  # to be read at any time
        words = [str(path), *map(str, arguments)]
        if not FORKS:
            with open(streams["stdout"], "wb") as out, open(streams["stderr"], "wb") as err:
                process = subprocess.Popen([sys.executable, *words], cwd=cwd, stdout=out, stderr=err)
            return Script(process, folder, forked=False)
        if self._last is not None:
            self._last.kill()  # a test that failed may have left it
        server = self._serve()
        assert server.stdin is not None
        order = {"path": words[0], "arguments": words[1:], "cwd": str(cwd), "needs": needs, **streams}
        server.stdin.write(json.dumps(order).encode() + b"\n")
        self._last = Script(server, folder, forked=True)
        return self._last

    def _serve(self) -> subprocess.Popen[bytes]:
        """The process that forks."""
        if self._server is None:
            pipe = subprocess.PIPE
            self._server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, bufsize=0)
            assert self._server.stdout is not None
            assert self._server.stdout.readline() == b"ready\n"
        return self._server

    def warm(self) -> None:
        """Import everything now and not with the first script."""
        if FORKS:
            self._serve()

    def run(
        self,
        path: str | Path,
        *arguments: str | Path,
        cwd: Path,
        seconds: float = 300,
        needs: Sequence[tuple[str, list[str]]] = (),
    ) -> Script:
        """The script, when it has ended.

        Raises:
            TimeoutError: when it goes on for too long.
        """
        script = self.start(path, *arguments, cwd=cwd, needs=needs)
        if script.wait(seconds) is None:
            script.kill()
            raise TimeoutError(f"{path} takes more than {seconds} s:\n{script.text('stderr')}")
        return script

    def command(self, *words: str | Path, cwd: Path, seconds: float = 300) -> Script:
        """The program ``coterie`` with these words, when it has ended."""
        path = self._folder / "coterie.py"
        path.write_text(PROGRAM)
        return self.run(path, *words, cwd=cwd, seconds=seconds)

    def close(self) -> None:
        """End the process that forks."""
        if self._last is not None:
            self._last.kill()
        if self._server is not None:
            self._server.communicate()
