"""The affinity of tasks: how much training with one helps another."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._check import choice
from coterie._files import atomic_write, read_bytes
from coterie._json import SavedAsJson, text
from coterie._read import read_matrix
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import WorkloadError, require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


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


KINDS = ("gain", "raw")


def check_names(tasks: Sequence[str]) -> None:
    """Refuse names of tasks by which nobody could ask.

    Raises:
        WorkloadError: when a name is empty, or stands twice.
    """
    if any(not name.strip() for name in tasks):
        raise WorkloadError(f"Task {[not name.strip() for name in tasks].index(True)} has an empty name.")
    if len(set(tasks)) < len(tasks):
        twice = next(name for name in tasks if list(tasks).count(name) > 1)
        raise WorkloadError(f"Task names should be unique. Found {twice!r} more than once.")


@known_arguments
@short_repr
@dataclass(frozen=True, eq=False)
class Affinity(SavedAsJson):
    """How much each task (source, column) helps each other task (target, row); larger is better.

    Attributes:
        values: (T, T) float64, ``values[target, source]``; NaN (or masked) where nothing is known. Rows and columns of
            a data frame are found by the names of the tasks. The diagonal of kind ``"gain"`` is 0: a task alone is
            what gains are measured against.
        tasks: names of the tasks.
        counts: (T, T) number of subsets behind each entry; None where that has no meaning.
        kind: ``"gain"``: relative loss reduction against training alone, ``(f({t}, t) - f(S, t)) / f({t}, t)``;
            ``"raw"``: any other score.
        method: how it was found.

    Raises:
        WorkloadError: for shapes that do not match, infinite values, or names that are empty or not unique.
        SettingError: for an unknown kind.

    Example:
        >>> a = Affinity(np.array([[0.0, 0.2], [-0.1, 0.0]]), ("cat", "dog"), method="by hand")
        >>> a.symmetric()
        array([[0.  , 0.05],
               [0.05, 0.  ]])
    """

    values: NDArray[np.float64]
    tasks: tuple[str, ...]
    counts: NDArray[np.int64] | None = None
    kind: str = "gain"
    method: str = ""

    _saved_as: ClassVar[str] = "a saved affinity; a table is read by from_csv"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(str(task) for task in self.tasks))
        object.__setattr__(self, "values", read_matrix(self.values, self.tasks, "values", WorkloadError))
        size = len(self.tasks)
        if self.values.shape != (size, size):
            raise WorkloadError(
                f"An affinity of {size} tasks should be a ({size}, {size}) matrix. Found shape {self.values.shape}."
            )
        if np.isinf(self.values).any():
            row, column = np.argwhere(np.isinf(self.values))[0].tolist()
            raise WorkloadError(
                f"The affinity of target {self.tasks[row]!r} and source {self.tasks[column]!r} is infinite."
            )
        check_names(self.tasks)
        if self.counts is not None:
            object.__setattr__(self, "counts", np.asarray(self.counts, dtype=np.int64))
            if self.counts.shape != self.values.shape:
                raise WorkloadError(f"`counts` should have the shape of `values`. Found {self.counts.shape}.")
        choice(self.kind, "kind", KINDS, of="an affinity")

    def __len__(self) -> int:
        return len(self.tasks)

    def symmetric(self) -> NDArray[np.float64]:
        """(T, T) mean of both directions."""
        return (self.values + self.values.T) / 2

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: NaN becomes None."""
        return {
            "tasks": list(self.tasks),
            "values": [[None if np.isnan(value) else value for value in row] for row in self.values.tolist()],
            "counts": None if self.counts is None else self.counts.tolist(),
            "kind": self.kind,
            "method": self.method,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Affinity:
        """The inverse of :meth:`to_dict`."""
        size = len(data["tasks"])
        values = np.array(
            [[np.nan if value is None else value for value in row] for row in data["values"]], dtype=float
        )
        counts = None if data.get("counts") is None else np.array(data["counts"], dtype=np.int64).reshape(size, size)
        kind, method = data.get("kind", "gain"), text(data.get("method", ""))
        return Affinity(values.reshape(size, -1) if size else values, tuple(data["tasks"]), counts, kind, method)

    def to_csv(self, path: str | Path) -> None:
        """Write a table with a header and a first column of task names; rows are targets, every digit is kept.

        Whole or not at all; a file that was cut afterwards is refused by :meth:`from_csv`.

        Raises:
            StoreError: when the file cannot be written.
        """
        write_table(path, self.values, self.tasks)

    @staticmethod
    def from_csv(path: str | Path, *, kind: str = "gain") -> Affinity:
        """Read a square table with a header of task names (sources); a first column of names (targets) is optional.

        Raises:
            StoreError: when the file cannot be read.
            WorkloadError: when it is no such table; the message names the line and the cell.
        """
        values, tasks = read_table(path)
        return Affinity(values, tasks, kind=kind, method=f"read from {Path(path).name}")

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame; index: targets, columns: sources.

        Raises:
            MissingDependencyError: without pandas.
        """
        frame: pd.DataFrame = require("pandas", extra="table", purpose="Affinity.to_frame()").DataFrame(
            self.values, index=list(self.tasks), columns=list(self.tasks)
        )
        return frame.rename_axis(index="target", columns="source")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw a heat map: blue helps, red harms.

        Raises:
            MissingDependencyError: without matplotlib.
        """
        from coterie.affinity.draw import heat_map

        return heat_map(self, ax)

    def _repr_html_(self) -> str:
        from coterie.affinity.draw import html_table

        return html_table(self)
