"""Matplotlib versions of the report's pictures, for ``plot()`` and notebooks.

Matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._read import read_matrix
from coterie.errors import SettingError, require
from coterie.report import heatmap as palette
from coterie.report.data import AffinityData, Floats, Groups, ReportedInterval
from coterie.report.formats import clean, shorten
from coterie.report.heatmap import CELLS, order, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    pyplot = require("matplotlib.pyplot", extra="plot", purpose="Drawing a figure")
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _colours() -> Any:
    colours = require("matplotlib.colors", extra="plot", purpose="Drawing a figure")
    steps = [tuple(v / 255 for v in palette.colour("light", s / 64)) for s in range(-64, 65)]
    return colours.LinearSegmentedColormap.from_list("coterie", steps).with_extremes(bad="#d9d9d9")


def affinity_figure(
    values: Floats,
    tasks: Sequence[str],
    *,
    groups: Sequence[Sequence[str]] | None = None,
    kind: str = "gain",
    ax: Axes | None = None,
) -> Axes:
    """Draw an affinity matrix.

    Args:
        values: (T, T), rows are targets, columns are sources, NaN where not estimated.
        tasks: the T names.
        groups: lists of task names; orders and frames the tasks.
        kind: "gain" (values are shares, shown in percent) or "raw".
        ax: where to draw; a new figure without it.

    Raises:
        SettingError: ``values`` does not fit ``tasks``.
        MissingDependencyError: Matplotlib is not installed.
    """
    matrix = read_matrix(values, [str(task) for task in tasks], "values")
    names = tuple(clean(t) for t in tasks)
    if matrix.shape != (len(names), len(names)):
        raise SettingError(
            f"values: shape {matrix.shape} for {len(names)} task names. The matrix must have one row (target) and one "
            "column (source) for each task; pass the names of its rows as `tasks`."
        )
    grouping = None
    if groups is not None:
        sets = tuple(tuple(clean(t) for t in g) for g in groups)
        grouping = Groups(sets, {t: i for i, g in enumerate(sets) for t in g}, None, None, "")
    return _draw(AffinityData(names, matrix, None, kind, ""), grouping, ax)


def _draw(data: AffinityData, grouping: Groups | None, ax: Axes | None) -> Axes:
    ordered, blocks = order(data.tasks, grouping)
    shown = data.values[np.ix_(ordered, ordered)].copy()
    centre, limit = scale(shown, data.kind)
    np.fill_diagonal(shown, np.nan)
    size = min(12.0, 3.5 + 0.22 * len(ordered))
    target: Any = _axes(ax, (size + 1.0, size))
    factor = 100.0 if data.kind == "gain" else 1.0
    image = target.imshow(
        factor * shown,
        cmap=_colours(),
        vmin=factor * (centre - limit),
        vmax=factor * (centre + limit),
        interpolation="nearest",
    )
    label = "estimated gain of the target, %" if data.kind == "gain" else "affinity (larger is better)"
    target.figure.colorbar(image, ax=target, label=label, extend="both", shrink=0.8)
    names = [shorten(data.tasks[i], 28) for i in ordered] if len(ordered) <= CELLS else []
    target.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
    target.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    target.set(xlabel="source", ylabel="target")
    rectangle = require("matplotlib.patches", extra="plot", purpose="Drawing a figure").Rectangle
    for block in blocks if len(blocks) > 1 else ():
        length = block.stop - block.start
        colour = palette.group_colour("light", block.group)
        corner = (block.start - 0.5, block.start - 0.5)
        target.add_patch(rectangle(corner, length, length, fill=False, edgecolor=colour, linewidth=1.8))
    return target


def gains_figure(
    names: Sequence[str],
    gains: Sequence[tuple[float | None, float | None, float | None]],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw gains with their intervals, one row a name.

    Args:
        names: the rows from top to bottom.
        gains: (mean, low, high) a row, as shares; None where unknown.
        title: above the figure, for example what the intervals are.
        ax: where to draw; a new figure without it.

    Raises:
        SettingError: ``gains`` does not fit ``names``.
        MissingDependencyError: Matplotlib is not installed.
    """
    if len(names) != len(gains):
        raise SettingError(
            f"gains: {len(gains)} entries for {len(names)} names. Give one (mean, low, high) for each name."
        )
    target: Any = _axes(ax, (7.0, 1.2 + 0.28 * len(names)))
    for row, (mean, low, high) in enumerate(gains):
        verdict = ReportedInterval(mean, low, high).verdict
        colour = {1: palette.colour("light", 0.8), -1: palette.colour("light", -0.8)}.get(verdict or 0, (110, 110, 110))
        paint = tuple(v / 255 for v in colour)
        if low is not None and high is not None:
            target.plot([100 * low, 100 * high], [row, row], color=paint, linewidth=1.6, solid_capstyle="butt")
        if mean is not None:
            target.plot([100 * mean], [row], "o", color=paint, markersize=5)
    target.axvline(0.0, color="0.4", linewidth=0.8)
    shown = [shorten(clean(n), 40) for n in names]
    target.set_yticks(range(len(shown)), shown, fontsize=8, parse_math=False)
    target.set_ylim(len(shown) - 0.4, -0.6)
    target.set_xlabel("gain against single-task training, %")
    target.set_title(clean(title) if title else "", loc="left", fontsize=9, parse_math=False)
    return target
