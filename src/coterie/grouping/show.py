"""A grouping as a picture and as a table."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._read import is_frame, read_matrix
from coterie.errors import SettingError, require

if TYPE_CHECKING:
    from coterie.grouping.grouping import Grouping


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
    for text in [*ax.get_yticklabels(), *ax.get_xticklabels()]:
        text.set_parse_math(False)  # a name with dollar signs is a name
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
