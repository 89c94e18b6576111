"""The affinity of tasks: how much training with one helps another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._check import choice
from coterie._json import SavedAsJson, text
from coterie._read import read_matrix
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.affinity.table import read_table, write_table
from coterie.errors import WorkloadError, require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

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
