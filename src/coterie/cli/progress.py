"""Progress bars on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from coterie.cli.streams import shown


class Bars:
    """One bar a stage, fed by calls ``bars(stage, done, total)`` (:data:`coterie._progress.Progress`).

    Nothing is shown when `visible` is False or the console is no terminal; calls are then free of effect.
    """

    def __init__(self, console: Console, *, visible: bool) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        if visible and console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
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
