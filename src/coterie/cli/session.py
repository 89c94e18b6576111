"""What every verb does the same way: streams, warnings, errors, exit codes."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.text import Text

from coterie._bars import Bars, shown
from coterie._files import absolute
from coterie.cli.options import Dask, Debug, Json, Overwrite, Quiet, Workers
from coterie.cli.streams import INTERRUPTED, prepare_streams
from coterie.errors import CoterieError, CoterieWarning

FAILED, CLOSED = 1, 141
#: options whose values a session holds -> what Typer is told of them, and what they are when nothing is given
SHARED: dict[str, tuple[Any, Any]] = {
    "workers": (Workers, None),
    "dask": (Dask, None),
    "overwrite": (Overwrite, False),
    "as_json": (Json, False),
    "quiet": (Quiet, False),
    "debug": (Debug, False),
}


class Terminal(Console):
    """A console whose reader may leave early, as in ``coterie run ... | head -1``."""

    def on_broken_pipe(self) -> NoReturn:
        """End quietly."""
        leave(self.file)


def leave(stream: IO[str]) -> NoReturn:
    """End the program without a word because nobody reads any more; what is still to be written goes nowhere.

    Raises:
        SystemExit: with code 141, as programs end that the system stops for this reason.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(AttributeError, OSError, ValueError):  # a stream that is no file of the system
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    raise SystemExit(CLOSED)


def one_paragraph(message: object) -> str:
    r"""Text for a terminal: one paragraph, and nothing that would steer the terminal.

    Example:
        >>> print(one_paragraph("two\nlines \x1b[31m"))
        two lines \x1b[31m
    """
    return shown(" ".join(str(message).split()))


@dataclass(frozen=True)
class Session:
    """The streams of one command, and the options that commands share.

    Attributes:
        out: where the result goes.
        console: the same for rich; people read it.
        progress: feeds the progress bars.
        as_json: whether machines read the result.
        overwrite: whether another run in the same directory may be replaced.
        workers, dask: where the command trains, see :func:`coterie.cli.workers.where`.
    """

    out: TextIO
    console: Console
    progress: Bars
    as_json: bool
    overwrite: bool = False
    workers: int | None = None
    dask: str | None = None

    def executor(self) -> AbstractContextManager[Executor | None]:
        """The executor that --workers or --dask name; None is this process."""
        from coterie.cli.workers import where

        return where(self.workers, self.dask)

    def emit(self, result: Mapping[str, Any]) -> None:
        """Print the one JSON object; numbers that are not finite become null."""
        from coterie.store.files import to_plain

        try:
            self.out.write(json.dumps(to_plain(result), allow_nan=False) + "\n")
            self.out.flush()
        except BrokenPipeError:
            leave(self.out)

    def say(self, text: str) -> None:
        """Print a line for people; silent with ``--json``."""
        if not self.as_json:
            self.progress.stop()
            self.console.print(Text(shown(text)), soft_wrap=True)


def in_session(*shared: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose first parameter is the session that it runs in.

    Args:
        shared: names in `SHARED` of further options that the command has, behind its own; --json, --quiet and --debug
            follow them. Their values are in the session.
    """

    def make(verb: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(verb, eval_str=True).parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        added = [
            inspect.Parameter(name, kind, default=SHARED[name][1], annotation=SHARED[name][0])
            for name in (*shared, "as_json", "quiet", "debug")
        ]

        @functools.wraps(verb)
        def command(**given: Any) -> None:
            held = {option.name: given.pop(option.name) for option in added}
            with session(**held) as s:
                verb(s, **given)

        signature: Any = command
        signature.__signature__ = inspect.Signature([*own, *added])
        signature.__annotations__ = {option.name: option.annotation for option in (*own, *added)}
        return command

    return make


@contextmanager
def session(*, as_json: bool, quiet: bool = False, debug: bool = False, **shared: Any) -> Generator[Session]:
    """Run a verb: progress and messages on stderr, the result on stdout, user errors without a traceback.

    With `as_json`, whatever the user's own code prints goes to stderr, so that stdout holds one JSON object.

    Raises:
        typer.Exit: with code 1 after an error and 130 after an interruption, both said on stderr.
        SystemExit: with code 141 when whoever read the output has left.
    """
    prepare_streams()
    errors = Terminal(stderr=True)
    out = sys.stdout
    with ExitStack() as stack:
        if as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        stack.enter_context(_warnings(errors, quiet=quiet, debug=debug))
        bars = stack.enter_context(Bars(errors, visible=not (as_json or quiet)))
        try:
            absolute(Path())  # packages end the whole program on import where the working directory was deleted
            yield Session(out, Terminal(file=out), bars, as_json, **shared)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            bars.stop()
            _complain(
                errors, "Interrupted. Finished units of a run directory are kept: the same command goes on there."
            )
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            bars.stop()
            if debug:
                errors.file.writelines(f"{shown(line)}\n" for line in traceback.format_exc().splitlines())
            _complain(errors, _explain(error))
            raise typer.Exit(FAILED) from None


def _explain(error: Exception) -> str:
    if isinstance(error, CoterieError):
        return f"Error: {error}"
    if isinstance(error, OSError):
        name = f" {str(error.filename)!r}" if error.filename else ""
        return f"Error: the system refused{name}: {error.strerror or error}. Check the path and its permissions."
    if isinstance(error, MemoryError):
        return "Error: there is not enough memory. Allow less with --memory, or use a smaller workload."
    return (
        f"Error: unexpected {type(error).__name__}: {error}. The cause is in the workload's own code or in coterie; "
        "--debug shows where."
    )


def _complain(console: Console, message: object) -> None:
    console.print(Text(one_paragraph(message)), soft_wrap=not console.is_terminal)


@contextmanager
def _warnings(console: Console, *, quiet: bool, debug: bool) -> Generator[None]:
    """Warnings of Coterie as one line each, once; those of other packages with ``--debug`` only."""
    told: set[str] = set()  # what Python keeps of "once" goes whenever warnings are caught and issued again
    with warnings.catch_warnings():
        warnings.simplefilter("default" if debug else "ignore")
        warnings.filterwarnings("ignore" if quiet else "once", category=CoterieWarning)

        def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
            kind = "" if issubclass(category, CoterieWarning) else f" ({category.__name__})"
            text = f"Warning{kind}: {message}"
            if text not in told:
                told.add(text)
                _complain(console, text)

        warnings.showwarning = show
        yield
