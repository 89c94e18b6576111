"""What a terminal or a file takes: letters that its encoding lacks, and characters that would steer it."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from typer.core import TyperGroup

from coterie._bars import shown

#: exit code of an interrupted program
INTERRUPTED = 130
_ERRORS = "coterie"
#: what stands for letters of our own texts where an encoding lacks them
_PLAIN = {
    "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2026": "...",
    "\u00b7": "*", "\u2022": "*", "\u00d7": "x", "\u00b1": "+-", "\u2248": "~", "\u2264": "<=", "\u2265": ">=",
    "\u2260": "!=", "\u2190": "<-", "\u2192": "->", "\u2191": "^", "\u2193": "v", "\u2018": "'", "\u2019": "'",
    "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u221e": "inf",
    "\u00b2": "^2", "\u00b3": "^3", "\u00b5": "micro", "\u221a": "sqrt", "\u2211": "sum", "\u00b0": " degrees",
}  # fmt: skip


def plain_letter(letter: str) -> str:
    r"""ASCII for a letter: a sign that looks like it, the name of a Greek letter, else an escape.

    Example:
        >>> [plain_letter(c) for c in "\u2212\u03bb\u2502\u00e9"]
        ['-', 'lambda', '|', '\\xe9']
    """
    if letter in _PLAIN:
        return _PLAIN[letter]
    name = unicodedata.name(letter, "")
    if name.startswith("GREEK ") and " LETTER " in name and " WITH " not in name:
        word = name.split(" LETTER ")[1].lower().replace("lamda", "lambda")  # as Unicode spells it
        return word.capitalize() if "CAPITAL" in name else word
    if name.startswith("BOX DRAWINGS"):
        across, down = "HORIZONTAL" in name, "VERTICAL" in name
        return "-" if across and not down else "|" if down and not across else "+"
    if name.endswith("BLOCK"):
        return "#"
    return letter.encode("unicode_escape").decode()


def _degrade(error: UnicodeError) -> tuple[str, int]:
    """The handler of letters that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(plain_letter, error.object[error.start : error.end])), error.end


codecs.register_error(_ERRORS, _degrade)


def prepare_streams() -> None:
    """Let stdout and stderr take every text, whatever their encoding; harmless when called again."""
    for stream in (sys.stdout, sys.stderr):
        change: Any = getattr(stream, "reconfigure", None)
        if change is not None:
            with suppress(OSError, ValueError):  # closed, or in the middle of something
                change(errors=_ERRORS)


class Streamed(TyperGroup):
    """A group of commands. What users wrote is shown in messages about usage, never sent to the terminal."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the command line."""
        with _harmless():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        with _harmless():
            return super().invoke(ctx)


@contextmanager
def _harmless() -> Generator[None]:
    try:
        yield
    except Exception as error:
        say: Any = getattr(error, "format_message", None)
        if say is not None:
            text = "\n".join(map(shown, say().splitlines()))
            error.format_message = lambda: text  # pyright: ignore[reportAttributeAccessIssue]
        raise


def quiet_interrupts() -> None:
    """Let the first Ctrl-C end the program in order, and the second at once, without a traceback in either case."""
    with suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _first)


def _first(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _second)
    signal.default_int_handler(number, frame)


def _second(*_: object) -> None:
    """End at once: every file is whole at any moment, and processes of our own end with this one."""
    with suppress(OSError):
        cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hides it
        os.write(2, cursor + b"\nInterrupted twice: stopped at once.\n")
    os._exit(INTERRUPTED)
