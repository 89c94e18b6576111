"""Square tables of task names and numbers in CSV files, with errors that point at the cell."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._files import atomic_write, read_bytes
from coterie.errors import WorkloadError


@dataclass(frozen=True)
class _Line:
    """A line of the file: its number, its first cell, and the others, read already where all are finite numbers."""

    number: int
    first: str
    rest: list[str] | NDArray[np.float64]

    @property
    def width(self) -> int:
        """Number of cells."""
        return 1 + len(self.rest)


#: a cell that begins with one of these is a formula to some spreadsheets
_FORMULA = frozenset("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def name_cell(name: str) -> str:
    """A task name as the cell of a table: text to spreadsheets, and with the white space around it.

    Names that begin like a formula or have white space around them get an apostrophe in front, which :func:`cell_name`
    takes off; so do those that could be taken for such a cell.

    Example:
        >>> [name_cell(name) for name in ("=1+1", "a = b", "'=1+1", "'tis")]
        ["'=1+1", 'a = b', "''=1+1", "'tis"]
    """
    return f"'{name}" if _needs_mark(name) else name


def cell_name(cell: str) -> str:
    """The inverse of :func:`name_cell`; white space around a cell without its mark does not count.

    Example:
        >>> [cell_name(cell) for cell in ("'=1+1", "''=1+1", "'tis", " a")]
        ['=1+1', "'=1+1", "'tis", 'a']
    """
    return cell[1:] if cell[:1] == "'" and _needs_mark(cell[1:]) else cell.strip()


def _needs_mark(name: str) -> bool:
    bare = name.lstrip("'")  # an apostrophe before such a name is a part of it
    return bare != bare.strip() or name != name.strip() or bare[:1] in _FORMULA


def write_table(path: str | Path, values: NDArray[np.float64], names: Sequence[str]) -> None:
    """Write a header, a column of names and every digit of the numbers, all or nothing; NaN is an empty cell.

    A diagonal of NaN can be read again; NaN in other places cannot.

    Raises:
        StoreError: when the file cannot be written.
    """
    atomic_write(path, table_bytes(values, names))


def table_bytes(values: NDArray[np.float64], names: Sequence[str]) -> bytes:
    """The content of such a file."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    cells = [name_cell(name) for name in names]
    writer.writerow(["target", *cells])
    for name, row in zip(cells, values.tolist(), strict=True):
        writer.writerow([name, *("" if math.isnan(value) else repr(value) for value in row)])
    # a lone surrogate, from a name that was no UTF-8, is shown as what it is
    return file.getvalue().encode("utf-8", "backslashreplace")


def read_table(path: str | Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The (T, T) numbers and the T names of a square table with a header; a first column of names is optional.

    An empty cell or NaN on the diagonal becomes NaN.

    Cost:
        Memory for the numbers, not for their text; a few seconds for 5,000 x 5,000.

    Raises:
        StoreError: when the file cannot be read.
        WorkloadError: when it is no such table.
    """
    header, body = _lines(path)
    names, rows, first = _without_names(path, header, body)
    _check_names(path, names, repeated=first == 1)
    if len(body) != len(names):
        raise WorkloadError(
            f"{path} should be a square table: as many rows as columns. Found {len(names)} columns of numbers and "
            f"{len(body)} rows below the header."
        )
    store = rows[0].rest.base if first and isinstance(rows[0].rest, np.ndarray) else None
    if store is not None and all(isinstance(line.rest, np.ndarray) and line.rest.base is store for line in rows):
        return store, names
    values = np.empty((len(names), len(names)))
    for row, line in enumerate(rows):
        cells = line.rest if first else [line.first, *line.rest]
        if not isinstance(cells, list):
            values[row] = cells
            continue
        for column, cell in enumerate(cells):
            if row == column and isinstance(cell, str) and cell.lower() in ("", "nan"):
                values[row, column] = math.nan
            elif isinstance(cell, str):
                values[row, column] = _number(path, line.number, column + first, names[column], cell)
            else:
                values[row, column] = cell
    return values, names


def _lines(path: str | Path) -> tuple[list[str], list[_Line]]:
    """The header and the other lines that are not empty, with their line numbers."""
    data = read_bytes(path)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        header = next((found for cells in reader if any(found := [cell_name(cell) for cell in cells])), [])
        body = _body(reader, len(data))
    except (UnicodeDecodeError, csv.Error) as error:
        raise WorkloadError(f"{path} is no CSV text in UTF-8: {error}. Save the table as CSV (UTF-8).") from error
    if not body:
        raise WorkloadError(f"{path} should hold a header and a row for each task. Found {len(header) and 1} lines.")
    if not data.endswith((b"\n", b"\r")):
        raise WorkloadError(
            f"{path} does not end with a line end, so its last number may have been cut: 0.25 reads as 0.2. A copy or "
            "a download that stopped is the likely cause. Get it again; if it is whole, add a line end."
        )
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        mark = "semicolons" if ";" in header[0] else "tabs"
        raise WorkloadError(f"{path} is separated by {mark}. Separate the cells by commas.")
    return header, body


def _body(reader: Any, size: int) -> list[_Line]:
    """The lines that are not empty; their numbers go into one square matrix, so that a large table is stored once."""
    lines = list[_Line]()
    store = np.empty((0, 0))
    for cells in reader:
        if not lines:
            width = max(len(cells) - 1, 0)
            # a square table has a letter or more for each of its cells: a line that is too wide reserves nothing
            store = np.empty((width,) * 2 if width**2 <= size else (0, 0))
        line = _line(reader.line_num, cells, store, len(lines))
        if line is not None:
            lines.append(line)
    return lines


def _line(number: int, cells: list[str], store: NDArray[np.float64], row: int) -> _Line | None:
    """A line, its numbers read at once where that works; None for an empty one."""
    try:
        values = np.fromiter(map(float, cells[1:]), dtype=np.float64, count=len(cells) - 1)
        if len(values) and np.isfinite(values).all():
            if row < len(store) and len(values) == len(store):
                store[row] = values
                values = store[row]
            return _Line(number, cell_name(cells[0]), values)
    except ValueError:
        pass  # looked at cell by cell, once the names of the columns are known
    stripped = [cell.strip() for cell in cells]
    return _Line(number, cell_name(cells[0]), stripped[1:]) if any(stripped) else None


def _without_names(path: str | Path, header: list[str], body: list[_Line]) -> tuple[tuple[str, ...], list[_Line], int]:
    """Task names of the header, lines without their names, and the number of leading name columns (0 or 1)."""
    width = body[0].width
    if len(header) == width and all(_is_number(cell) for cell in header):
        raise WorkloadError(
            f"{path}, line 1 has no header: it holds numbers only ({', '.join(header[:3])}) where task names should "
            "be. Add a header of task names as the first line. Tasks whose names are numbers need a first column of "
            "row names, too, with the word `target` above it."
        )
    for line in body:
        if line.width != width:
            raise WorkloadError(
                f"{path}, line {line.number}: {line.width} cells, where line {body[0].number} has {width}."
            )
    if width not in (len(header), len(header) + 1):
        raise WorkloadError(f"{path}: the header has {len(header)} cells and the rows have {width}. Both should match.")
    cornered = width == len(header)
    numbers = [_is_number(line.first) for line in body]
    named = set(header[1:])
    claimed = len(body) == width - 1 and any(line.first in named for line in body)
    if cornered and header[0] and any(numbers) and not claimed:
        return tuple(header), body, 0
    names = tuple(header[1:] if cornered else header)
    for line, name in zip(body, names, strict=False):
        if line.first != name:
            raise WorkloadError(
                f"{path}, line {line.number}, cell 1: the row is named {line.first!r}, the header has {name!r} there. "
                "Rows (targets) and columns (sources) should have the same names in the same order."
            )
    return names, body, 1


def _check_names(path: str | Path, names: tuple[str, ...], *, repeated: bool) -> None:
    """`repeated`: whether the rows have these names, too, so that they are names even where they look like numbers."""
    if not repeated and all(_is_number(name) and "." in name for name in names):
        raise WorkloadError(f"{path}, line 1 holds numbers where task names should be. Add a header of task names.")
    for name in names:
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
            raise WorkloadError(
                f"{path}: the task name {name!r} has a line break or another control character in it. A quotation "
                "mark that is never closed is a frequent cause. Rename the task."
            )
    seen = set[str]()
    for column, name in enumerate(names):
        if not name:
            raise WorkloadError(f"{path}, line 1: the name of task {column + 1} is empty. Name every task.")
        if name in seen:
            raise WorkloadError(f"{path}, line 1: the task name {name!r} occurs twice. Names should be unique.")
        seen.add(name)


def _number(path: str | Path, line: int, column: int, source: str, cell: str) -> float:
    place = f"{path}, line {line}, cell {column + 1} (source {source!r})"
    if not cell:
        raise WorkloadError(f"{place} is empty. Every cell off the diagonal needs a number.")
    if not _is_number(cell):
        raise WorkloadError(f"{place} holds {cell!r}, which is no number. Use a point as the decimal mark.")
    value = float(cell)
    if not math.isfinite(value):
        raise WorkloadError(f"{place} holds {cell!r}. Every entry should be finite.")
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
