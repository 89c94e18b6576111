"""Tables of runs and of subsets: one row each, one column a task."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import is_number, plain, whole_number
from coterie._files import read_bytes
from coterie._surface import warn
from coterie.errors import DataWarning, SettingError, require
from coterie.study.losses import TRAINED, full_report
from coterie.study.runs import ASKED, TOLD, StudyRun, Wish
from coterie.study.settings import StudySettings

if TYPE_CHECKING:
    import pandas

    from coterie.study.study import Study

#: columns beside those of the tasks
COLUMNS = ("seed", "cost", "variant")
#: what follows a number in a cell: its standard error, and that the task was measured and not trained
_CELL = re.compile(r"(?P<value>[^\s±]+?)(?:\s*(?:\+-|±)\s*(?P<error>\S+))?(?P<untrained>\s+zero-shot)?")


@dataclass(frozen=True)
class TableRun:
    """A run of a table.

    Attributes:
        line: where it stands, for messages.
        tasks: names of the tasks that it trained on.
        losses: task -> (loss, standard error).
        seed, cost, variant: None, None and "" where there are none.
    """

    line: int
    tasks: tuple[str, ...]
    losses: dict[str, tuple[float, float]]
    seed: int | None
    cost: float | None
    variant: str


def read_number(text: str) -> tuple[float, float]:
    """A loss with its standard error, as people write it.

    Raises:
        ValueError: when it is none.

    Example:
        >>> read_number("0.31"), read_number("0.31+-0.02")
        ((0.31, 0.0), (0.31, 0.02))
    """
    match = _CELL.fullmatch(text.strip())
    if match is None or match["untrained"]:
        raise ValueError(f"{text!r} is no number")
    value, error = float(match["value"]), float(match["error"] or 0)
    if not (math.isfinite(value) and math.isfinite(error) and error >= 0):
        raise ValueError(f"{text!r} is not finite")
    return value, error


def read_rows(table: Any, settings: StudySettings) -> list[TableRun]:
    """The runs of a table.

    Args:
        table: a data frame, or the path of a CSV file.
        settings: of the study.

    Raises:
        SettingError: for a column that is neither a task nor known, or a cell that cannot be read, with its line.
    """
    columns, rows, where = read_cells(table)
    names = (*settings.tasks, *(task for task in settings.measured if task not in settings.tasks))
    _check_columns(columns, (*names, *COLUMNS), where, names)
    return [_row(line, dict(zip(columns, cells, strict=True)), names, settings, where) for line, cells in rows]


def read_subsets(table: Any, settings: StudySettings) -> tuple[NDArray[np.bool_], list[str]]:
    """Subsets of a table, any cell that is not empty being a task of the subset, and their variants.

    Raises:
        SettingError: see :func:`read_rows`; also for a row without tasks.
    """
    columns, rows, where = read_cells(table)
    names = (*settings.tasks, *(task for task in settings.measured if task not in settings.tasks))
    _check_columns(columns, (*names, *COLUMNS), where, names)
    found = np.zeros((len(rows), len(settings.tasks)), dtype=bool)
    variants: list[str] = []
    for number, (line, cells) in enumerate(rows):
        given = dict(zip(columns, cells, strict=True))
        found[number] = [bool(given.get(task)) for task in settings.tasks]
        variants.append(given.get("variant", ""))
        if not found[number].any():
            raise SettingError(f"{where}, line {line}: the subset is empty. Mark the tasks in it, with 1 for example.")
    return found, variants


def read_cells(table: Any) -> tuple[list[str], list[tuple[int, list[str]]], str]:
    """Names of the columns, the cells of each row as texts with the number of its line, and where they are from.

    Args:
        table: a data frame, or the path of a CSV file.

    Raises:
        SettingError: for anything else, and for a file that is no table.
    """
    if hasattr(table, "columns") and hasattr(table, "itertuples"):
        rows = [[_text(cell) for cell in row] for row in table.itertuples(index=False)]
        return [str(name) for name in table.columns], list(enumerate(rows)), "The data frame"
    if not isinstance(table, str | Path):
        raise SettingError(
            f"Parameter `table` should be a data frame or the path of a CSV file. Found {type(table).__name__}."
        )
    where = f"The table {str(table)!r}"
    try:
        text = read_bytes(table).decode("utf-8-sig")
        listed = [
            (reader.line_num, [cell.strip() for cell in row])
            for reader in [csv.reader(io.StringIO(text, newline=""), strict=True)]
            for row in reader
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingError(f"{where} is no CSV in UTF-8: {error}.") from error
    listed = [(line, row) for line, row in listed if any(row)]
    if not listed:
        raise SettingError(f"{where} is empty. It should have a header with the names of tasks, and one row a run.")
    columns = listed[0][1]
    for line, row in listed[1:]:
        if len(row) != len(columns):
            raise SettingError(f"{where}, line {line} has {len(row)} cells, but the header has {len(columns)}.")
    return columns, listed[1:], where


def _text(cell: Any) -> str:
    """A cell of a data frame as it would stand in a CSV file."""
    cell = plain(cell)
    if cell is None or (is_number(cell) and math.isnan(cell)) or str(cell) in ("<NA>", "NaT"):
        return ""
    if isinstance(cell, tuple):
        return "+-".join(map(repr, map(plain, cell)))
    return repr(cell) if is_number(cell) else str(cell).strip()


def _check_columns(columns: Sequence[str], known: Sequence[str], where: str, names: Sequence[str]) -> None:
    """Refuse columns that are nothing, or there twice."""
    odd = [name for name in columns if name not in known]
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if odd or twice or not set(columns) & set(names):
        what = (
            f"unknown columns {odd[:5]}" if odd else f"columns twice: {twice[:5]}" if twice else "no column of a task"
        )
        raise SettingError(
            f"{where} has {what}. Each column should be a task of the study ({', '.join(names[:10])}"
            f"{', ...' if len(names) > 10 else ''}), or one of {', '.join(COLUMNS)}. Another study, or a column of row "
            "numbers, is a likely cause. Nothing was added."
        )


def _row(line: int, cells: dict[str, str], names: Iterable[str], settings: StudySettings, where: str) -> TableRun:
    """A run of a table."""
    tasks: list[str] = []
    losses: dict[str, tuple[float, float]] = {}
    for task in names:
        cell = cells.get(task, "")
        untrained = cell.endswith(" zero-shot") or task not in settings.tasks
        if cell and not untrained:
            tasks.append(task)
        if cell and cell != TRAINED and task in settings.measured:
            try:
                losses[task] = read_number(cell.removesuffix(" zero-shot"))
            except ValueError:
                raise SettingError(
                    f"{where}, line {line}: the loss of {task!r} should be a finite number, `trained` where it was not "
                    f"measured, or empty where the task was not in the run. Found {cell!r:.60}. Nothing was added."
                ) from None
    numbers: dict[str, float | None] = {}
    for name in ("seed", "cost"):
        try:
            numbers[name] = float(cells[name]) if cells.get(name) else None
        except ValueError:
            raise SettingError(
                f"{where}, line {line}: `{name}` should be a number or empty. Found {cells[name]!r:.40}."
            ) from None
    seed = numbers["seed"]
    if seed is not None and (seed < 0 or not seed.is_integer()):
        raise SettingError(f"{where}, line {line}: `seed` should be a whole number from 0 on. Found {cells['seed']!r}.")
    return TableRun(
        line, tuple(tasks), losses, None if seed is None else int(seed), numbers["cost"], cells.get("variant", "")
    )


def addable(study: Study, tasks: Sequence[str], seed: int | None, variant: str) -> Wish:
    """A run that is not there yet.

    Raises:
        SettingError: when it is, or a task is not in the study.
    """
    numbers = study.settings.numbers(tasks)
    seed, variant = None if seed is None else whole_number(seed, "seed", low=0), str(variant)
    named = tuple(study.tasks[task] for task in numbers)
    for run in study.runs if seed is not None else ():
        if (run.tasks, run.seed, run.variant) == (named, seed, variant) and run.state in (ASKED, TOLD):
            way = f"Tell it: {run.number}." if run.state == ASKED else "Another training has another seed, or None."
            raise SettingError(
                f"The study has a run on {list(named)!r:.80} with seed {seed} already: run {run.number}, which is "
                f"{run.state}. {way}"
            )
    return Wish(numbers, seed, variant)


def add_rows(study: Study, rows: Sequence[TableRun]) -> list[StudyRun]:
    """Add the runs of a table that are not there yet; all are checked before the first is added.

    Raises:
        SettingError: naming the line.
    """
    runs = study.runs
    there = Counter(_fingerprint(run.tasks, run.losses or {}, run) for run in runs if run.state == TOLD)
    seeded: dict[Any, StudyRun | TableRun] = {
        (run.tasks, run.seed, run.variant): run for run in runs if run.seed is not None
    }
    ready: list[tuple[Wish, dict[str, Any]]] = []
    for row in rows:
        try:
            tasks = tuple(study.tasks[task] for task in study.settings.numbers(row.tasks))
            report = full_report(study.settings, (row.losses, None, row.cost), tasks)
            mark = _fingerprint(tasks, row.losses, row)
            if there[mark] > 0:
                there[mark] -= 1
                continue
            other = seeded.get((tasks, row.seed, row.variant))
            if isinstance(other, StudyRun):
                addable(study, row.tasks, row.seed, row.variant)
            elif other is not None:
                raise SettingError(f"line {other.line} has the same tasks and seed {row.seed}")
        except SettingError as error:
            raise SettingError(f"The table, line {row.line}: {error} Nothing was added.") from error
        if row.seed is not None:
            seeded[(tasks, row.seed, row.variant)] = row
        ready.append((Wish(study.settings.numbers(row.tasks), row.seed, row.variant), report))
    numbers = {study.append_told(wish, report) for wish, report in ready}
    if len(numbers) < len(rows):
        warn(f"{len(rows) - len(numbers)} of {len(rows)} rows are in the study already and were left out.", DataWarning)
    return [run for run in study.runs if run.number in numbers]


def _fingerprint(tasks: Sequence[str], losses: Any, other: TableRun | StudyRun) -> tuple[Any, ...]:
    return tuple(tasks), tuple(sorted(losses.items())), other.seed, other.cost, other.variant


def runs_frame(runs: Sequence[StudyRun], targets: Sequence[str]) -> pandas.DataFrame:
    """One row a run."""
    frames: Any = require("pandas", extra="table", purpose="Study.to_frame()")
    columns: dict[str, list[Any]] = {
        "tasks": [run.tasks for run in runs],
        "seed": [run.seed for run in runs],
        "variant": [run.variant for run in runs],
        "state": [run.state for run in runs],
        "cost": [run.cost for run in runs],
        "reason": [run.reason for run in runs],
    }
    for task in targets:
        name = task if task not in columns else f"loss of {task}"
        columns[name] = [(run.losses or {}).get(task, (math.nan, 0.0))[0] for run in runs]
    return frames.DataFrame(columns, index=frames.Index([run.number for run in runs], name="run"))
