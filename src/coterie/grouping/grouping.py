"""The result of grouping: which tasks train together, and which group serves which task."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from coterie._json import SavedAsJson, real, text, whole
from coterie._read import by_task, is_frame, read_matrix
from coterie._show import brief, names
from coterie._surface import known_arguments
from coterie.errors import SettingError, require
from coterie.grouping.matrix import BoolArray, IntArray
from coterie.grouping.objective import as_labels

if TYPE_CHECKING:
    import pandas


def adjusted_rand(first: Sequence[int], second: Sequence[int]) -> float:
    """Adjusted Rand index of two labelings: 1 for the same partition, 0 in the mean over chance, below 0 for less.

    Args:
        first: (n,) labels; their names do not matter.
        second: (n,) labels of the same items.

    Source:
        Hubert and Arabie, Journal of Classification 2 (1985).

    Example:
        >>> adjusted_rand([0, 0, 1, 1], [1, 1, 0, 0])
        1.0
    """
    if len(first) != len(second) or not len(first):
        raise SettingError(
            f"Two labelings should have the same length, at least 1. Found {len(first)} and {len(second)}."
        )
    _, rows = np.unique(np.asarray(first), return_inverse=True)
    _, columns = np.unique(np.asarray(second), return_inverse=True)
    table = np.zeros((int(rows.max()) + 1, int(columns.max()) + 1))
    np.add.at(table, (rows, columns), 1.0)
    together = float(_pairs(table).sum())
    in_first, in_second = float(_pairs(table.sum(axis=1)).sum()), float(_pairs(table.sum(axis=0)).sum())
    total = len(first) * (len(first) - 1) / 2
    chance = in_first * in_second / total if total else 0.0
    largest = (in_first + in_second) / 2
    # Both all in one group, or both all apart: the same partition, and 0 / 0 in the formula.
    return 1.0 if largest == chance else float((together - chance) / (largest - chance))


def _pairs(counts: np.ndarray) -> np.ndarray:
    """Number of pairs within each count."""
    return counts * (counts - 1) / 2


@known_arguments
@dataclass(frozen=True)
class Grouping(SavedAsJson):
    """Groups of tasks. Groups may overlap: a task may be trained in several groups, and is served from one of them.

    Attributes:
        tasks: names, in the order of the workload.
        groups: indices of the tasks of each group, each group not empty.
        serves: for each task the index of the group that serves it; that group contains the task.
        objective: what was maximised (see `method`); None when nothing was.
        bound: certified upper bound on the objective; None where there is none.
        method: how it was found.
        details: further numbers, JSON-ready.

    Raises:
        SettingError: a task is served by no group or by one that does not contain it, an empty group, an index out of
            range.

    Example:
        >>> g = Grouping(("a", "b", "c"), ((0, 1), (1, 2)), serves=(0, 1, 1))
        >>> g.names, g.n_groups, g.overlaps
        ((('a', 'b'), ('b', 'c')), 2, True)
    """

    tasks: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    serves: tuple[int, ...]
    objective: float | None = None
    bound: float | None = None
    method: str = "given"
    details: dict[str, float | str] = field(default_factory=dict, compare=False)

    _saved_as: ClassVar[str] = "a grouping as Grouping.save or `coterie group --out` writes it"

    def __post_init__(self) -> None:
        n = len(self.tasks)
        if not n or len(set(self.tasks)) != n:
            raise SettingError(f"Parameter `tasks` should name each task once, at least one. Found {self.tasks!r}.")
        for index, members in enumerate(self.groups):
            if not members or len(set(members)) != len(members) or not all(0 <= task < n for task in members):
                raise SettingError(
                    f"Each of `groups` should have tasks 0..{n - 1}, at least one, each once. Group {index} is "
                    f"{members!r}."
                )
        if len(self.serves) != n:
            raise SettingError(
                f"Parameter `serves` should name a group for each of {n} tasks. Found {len(self.serves)}."
            )
        for task, index in enumerate(self.serves):
            if not 0 <= index < len(self.groups) or task not in self.groups[index]:
                raise SettingError(
                    f"Task {self.tasks[task]!r} should be served by a group that contains it. Found group {index}, "
                    f"the groups are {self.groups!r}."
                )

    @staticmethod
    def from_labels(
        tasks: Sequence[str],
        labels: ArrayLike | Mapping[str, Any],
        *,
        objective: float | None = None,
        bound: float | None = None,
        method: str = "given",
        details: Mapping[str, float | str] | None = None,
    ) -> Grouping:
        """A partition from one label a task (any whole numbers or texts); groups are numbered by their first task.

        A mapping of task names to labels and a pandas Series with the task names as index are read by name.

        Example:
            >>> Grouping.from_labels(["a", "b", "c"], [7, 2, 7]).groups
            ((0, 2), (1,))
        """
        clean = as_labels(by_task(labels, tuple(tasks), "labels"), len(tasks))
        groups = tuple(
            tuple(int(task) for task in np.flatnonzero(clean == index)) for index in range(int(clean.max()) + 1)
        )
        serves = tuple(int(label) for label in clean)
        return Grouping(tuple(tasks), groups, serves, objective, bound, method, dict(details or {}))

    def __repr__(self) -> str:
        shared = f"; serves={names(self.serves)}" if self.overlaps else ""
        value = "" if self.objective is None else f"; objective={brief(self.objective)}"
        bound = "" if self.bound is None else f"; bound={brief(self.bound)}"
        return f"Grouping({brief(self.names)}{shared}; method={self.method!r}{value}{bound})"

    @property
    def n_groups(self) -> int:
        """Number of groups, which is the number of models to serve."""
        return len(self.groups)

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The groups as task names."""
        return tuple(tuple(self.tasks[task] for task in members) for members in self.groups)

    @property
    def overlaps(self) -> bool:
        """Whether some task is trained in more than one group."""
        return sum(len(members) for members in self.groups) > len(self.tasks)

    @property
    def labels(self) -> IntArray:
        """(T,) serving group of each task."""
        return np.array(self.serves, dtype=np.int64)

    @property
    def subsets(self) -> BoolArray:
        """(groups, T) which tasks each group trains on."""
        member = np.zeros((len(self.groups), len(self.tasks)), dtype=bool)
        for index, members in enumerate(self.groups):
            member[index, list(members)] = True
        return member

    def adjusted_rand_index(self, other: Grouping | Sequence[Sequence[str]]) -> float:
        """Agreement of who is served together: 1 is the same partition, 0 is what chance gives.

        Args:
            other: a grouping of the same tasks, or disjoint groups of task names that cover them.

        Example:
            >>> Grouping.from_labels(["a", "b", "c"], [0, 0, 1]).adjusted_rand_index([["c"], ["a", "b"]])
            1.0
        """
        if isinstance(other, Grouping):
            theirs = dict(zip(other.tasks, other.serves, strict=True))
        else:
            theirs = {name: index for index, members in enumerate(other) for name in members}
        if set(theirs) != set(self.tasks) or (
            not isinstance(other, Grouping) and sum(len(members) for members in other) != len(theirs)
        ):
            missing = sorted(set(self.tasks) ^ set(theirs))
            raise SettingError(
                f"Parameter `other` should put each of the same {len(self.tasks)} tasks into one group. Tasks that "
                f"are on one side only: {missing or 'none, but some are in several groups'}."
            )
        return adjusted_rand(self.serves, [theirs[name] for name in self.tasks])

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `serves` keeps the order of the tasks."""
        return {
            "groups": [list(members) for members in self.names],
            "serves": dict(zip(self.tasks, self.serves, strict=True)),
            "objective": _json_number(self.objective),
            "bound": _json_number(self.bound),
            "method": self.method,
            "details": {key: _json_number(value) for key, value in self.details.items()},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Grouping:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingError: `groups` or `serves` are missing or do not fit together.
        """
        try:
            tasks = tuple(str(name) for name in data["serves"])
            position = {name: index for index, name in enumerate(tasks)}
            groups = tuple(tuple(position[name] for name in members) for members in data["groups"])
            serves = tuple(whole(index) for index in data["serves"].values())
            objective, bound = (None if data.get(key) is None else real(data[key]) for key in ("objective", "bound"))
            method = text(data.get("method", "given"))
            details: dict[str, float | str] = {
                text(key): value if isinstance(value, str | bool) else real(value)
                for key, value in dict(data.get("details") or {}).items()
                if value is not None
            }
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise SettingError(
                "A stored grouping should be an object with `groups` (lists of task names) and `serves` (task name -> "
                f"index of its group) for the same tasks. {_what_is_wrong(data)}"
            ) from error
        return Grouping(tasks, groups, serves, objective, bound, method, details)

    def to_frame(self) -> pandas.DataFrame:
        """One row a task: `group` that serves it, `trained_in` (all groups it is in), `size` of the serving group."""
        frames: Any = require("pandas", extra="table", purpose="Grouping.to_frame()")
        trained = [tuple(index for index, g in enumerate(self.groups) if task in g) for task in range(len(self.tasks))]
        columns = {
            "group": list(self.serves),
            "trained_in": trained,
            "size": [len(self.groups[index]) for index in self.serves],
        }
        return frames.DataFrame(columns, index=frames.Index(self.tasks, name="task"))

    def plot(self, affinity: Any = None, ax: Any = None) -> Any:
        """Heat map of the affinity ordered by groups, or of who is in which group; returns the matplotlib axes."""
        return draw(self, affinity, ax)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return as_html(self)


def _what_is_wrong(data: object) -> str:
    """Why a stored grouping cannot be read, for an error message."""
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "nothing (null)" if data is None else "a single value"
        return f"Found {kind} instead."
    missing = [name for name in ("groups", "serves") if name not in data]
    if missing:
        return f"Found an object without {' and '.join(f'`{name}`' for name in missing)}."
    if not isinstance(data["serves"], dict):
        return "Found `serves` that is no object."
    return "Found groups with tasks that `serves` does not name, or entries of another type."


def _json_number(value: float | str | None) -> float | str | None:
    """JSON has no NaN and no infinity."""
    return value if value is None or isinstance(value, str) or np.isfinite(value) else None


def as_html(grouping: Grouping) -> str:
    """A table of the groups; all names are escaped."""
    rows: list[str] = []
    for index, members in enumerate(grouping.groups):
        cells = ", ".join(_name(grouping, index, task) for task in members)
        rows.append(f"<tr><td>{index}</td><td>{len(members)}</td><td style='text-align:left'>{cells}</td></tr>")
    notes = [f"method {html.escape(grouping.method)}"]
    if grouping.objective is not None:
        notes.append(f"objective {grouping.objective:.6g}")
    if grouping.bound is not None:
        notes.append(f"no grouping reaches more than {grouping.bound:.6g}")
    if grouping.overlaps:
        notes.append("a task in grey is trained here and served by another group")
    return (
        "<table><thead><tr><th>group</th><th>tasks</th><th>names</th></tr></thead><tbody>"
        + "".join(rows)
        + f"</tbody><caption style='caption-side:bottom;text-align:left'>{'; '.join(notes)}</caption></table>"
    )


def draw(grouping: Grouping, affinity: Any = None, ax: Any = None) -> Any:
    """Heat map on `ax` (or on a new figure) with lines between the groups; returns the axes."""
    order = [
        task
        for index in range(grouping.n_groups)
        for task in range(len(grouping.tasks))
        if grouping.serves[task] == index
    ]
    if ax is None:
        figures: Any = require("matplotlib.figure", extra="plot", purpose="Grouping.plot()")
        side = 2.5 + 0.22 * len(order)
        ax = figures.Figure(figsize=(side, side), layout="constrained").subplots()
    names = [grouping.tasks[task] for task in order]
    if affinity is None:
        image = grouping.subsets[:, order].T.astype(float)
        ax.imshow(image, cmap="Greys", vmin=0, vmax=1.6, aspect="auto")
        ax.set_xticks(range(grouping.n_groups))
        ax.set_xlabel("group")
    else:
        named = tuple(getattr(affinity, "tasks", ())) if not is_frame(affinity) else ()
        values = read_matrix(affinity.values if named else affinity, named or grouping.tasks, "affinity")
        if named != grouping.tasks and set(named) == set(grouping.tasks):
            place = [named.index(task) for task in grouping.tasks]
            values = values[np.ix_(place, place)]
        if values.shape != (len(order), len(order)):
            raise SettingError(
                f"Parameter `affinity` should be {len(order)} x {len(order)}. Found shape {values.shape}."
            )
        off = values[~np.eye(len(values), dtype=bool)]
        limit = float(np.nanmax(np.abs(off))) if np.isfinite(off).any() else 1.0
        # The diagonal is on another scale in many methods; the colours are for the pairs.
        image = ax.imshow(values[np.ix_(order, order)], cmap="RdBu", vmin=-(limit or 1.0), vmax=limit or 1.0)
        ax.figure.colorbar(image, ax=ax, shrink=0.7, label="affinity (blue helps)")
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_xlabel("source")
        ax.set_ylabel("target")
    ax.set_yticks(range(len(names)), names)
    for label in [*ax.get_yticklabels(), *ax.get_xticklabels()]:
        label.set_parse_math(False)  # a name with dollar signs is a name
    edges = np.cumsum([grouping.serves.count(index) for index in range(grouping.n_groups)])[:-1]
    for edge in edges:
        ax.axhline(edge - 0.5, color="black", linewidth=1)
        if affinity is not None:
            ax.axvline(edge - 0.5, color="black", linewidth=1)
    return ax


def _name(grouping: Grouping, index: int, task: int) -> str:
    """A task's name, grey where another group serves it."""
    name = html.escape(grouping.tasks[task])
    return name if grouping.serves[task] == index else f"<span style='color:#888'>{name}</span>"
