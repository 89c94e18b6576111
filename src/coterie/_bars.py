"""Progress that is shown: bars on a terminal, one line in a notebook, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from coterie._progress import Progress, silent

#: seconds between two changes of the line in a notebook
_EVERY = 0.2


def shown(text: object) -> str:
    r"""Text of which nothing steers a terminal: what cannot be printed is shown as an escape.

    Example:
        >>> print(shown("runs/a\x1b[31m\n"))
        runs/a\x1b[31m\n
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class Bars:
    """One bar a stage, fed by calls ``bars(stage, done, total)`` (:data:`coterie._progress.Progress`).

    Each tells the time that it took, and the time that is left at its rate. Nothing is shown when `visible` is False or
    the console is no terminal; calls are then free of effect.
    """

    def __init__(self, console: Console, *, visible: bool) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._progress: RichProgress | None = None
        if visible and console.is_terminal:
            self._progress = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` steps of a stage are finished."""
        if self._progress is None:
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(shown(stage), total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def __enter__(self) -> Bars:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bars away, before results or errors are printed."""
        if self._progress is not None:
            self._progress.stop()


class Line:
    """One line in a notebook, which changes: the stage, how much of it is done, and the time that is left at its rate.

    Args:
        display: ``IPython.display.display``.
    """

    def __init__(self, display: Any) -> None:
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        self._stage, self._begun, self._last = "", 0.0, -_EVERY

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` steps of a stage are finished."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._last = stage, now, now - _EVERY
        if now - self._last < _EVERY and done < total:
            return
        self._last = now
        left = f", {(now - self._begun) * (total - done) / done:.0f} s left" if 0 < done < total else ""
        self._say(f"{shown(stage)}: {done} of {total}{left}")

    def stop(self) -> None:
        """Empty the line."""
        self._say("")

    def _say(self, text: str) -> None:
        self._handle.update({"text/plain": text}, raw=True)


@contextmanager
def following(progress: Progress | bool | None) -> Generator[Progress]:
    """The callable to tell progress to: that of the caller, bars or a line where it is True, else nobody."""
    if progress is not True:
        yield progress or silent
    elif (display := notebook_display()) is not None:
        line = Line(display)
        try:
            yield line
        finally:
            line.stop()
    else:
        with Bars(Console(stderr=True), visible=True) as bars:
            yield bars


def notebook_display() -> Any | Literal[None]:
    """The function that shows something below a cell of a notebook; None elsewhere."""
    ask: Any = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if ask is None else ask()
    if type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import display  # pyright: ignore  # comes with the notebook

    return display  # pyright: ignore
