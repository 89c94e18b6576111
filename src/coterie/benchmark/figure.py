"""The plots of the page as a PNG or SVG file (needs matplotlib, extra ``plot``)."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie._files import user_path
from coterie.benchmark.plot import LEAST, Json, Panel, panel
from coterie.errors import SettingError, require
from coterie.report.formats import shorten
from coterie.report.heatmap import group_colour
from coterie.store.files import atomic_write, make_directory

ENDINGS = (".png", ".svg", ".pdf")
_COLUMNS = 2
#: about the size of a panel and the radius of a circle, in points
_PANEL, _RADIUS = (300.0, 260.0), 4.5


def check_figure(path: str | Path) -> Path:
    """The path of a figure, before hours of work.

    Raises:
        SettingError: another ending, or a place where nothing can be written.
        MissingDependencyError: Matplotlib is not installed.
    """
    path = user_path(path)
    if path.suffix.lower() not in ENDINGS:
        raise SettingError(
            f"Parameter `figure` should be a file that ends in {', '.join(ENDINGS)}. Found {str(path)!r}."
        )
    home = next(folder for folder in path.absolute().parents if folder.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        cause = "is read-only for this user" if home.is_dir() else "is a file, not a directory"
        raise SettingError(
            f"Parameter `figure` should be a file that can be written. Found {str(path)!r}, but {str(home)!r} {cause}. "
            "Choose another place."
        )
    require("matplotlib", extra="plot", purpose="Drawing a figure")
    return path


def write_figure(results: Sequence[Json], path: str | Path) -> Path:
    """Draw skill against cost, one panel a data set, and write it.

    Args:
        results: mappings of ``benchmark.json``.
        path: the file; its ending is the format.

    Raises:
        SettingError: another ending, or a place where nothing can be written.
        MissingDependencyError: Matplotlib is not installed.
        StoreError: the file cannot be written.
    """
    path = check_figure(path)
    figure_class: Any = require("matplotlib.figure", extra="plot", purpose="Drawing a figure").Figure
    columns = min(_COLUMNS, len(results))
    rows = math.ceil(len(results) / columns)
    figure = figure_class(figsize=(7.0 * columns, 4.4 * rows), layout="constrained")
    for number, result in enumerate(results, 1):
        _draw(figure.add_subplot(rows, columns, number), panel(result))
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=160)
    make_directory(path.parent)
    atomic_write(path, drawn.getvalue())
    return path


def _draw(axes: Any, one: Panel) -> None:
    for line, style in zip(one.lines, ("-", "--", ":"), strict=False):
        axes.axhline(line.skill, color="0.45", linewidth=1, linestyle=style)
        axes.annotate(
            line.label, (0.01, line.skill), xycoords=("axes fraction", "data"), va="bottom", fontsize=6, color="0.3"
        )
    for path in one.paths:
        colour = group_colour("light", path[0].colour)
        axes.plot([max(p.share, LEAST) for p in path], [p.skill for p in path], color=colour, linewidth=1, alpha=0.6)
    for point, step in zip(one.points, one.aside(*_PANEL, _RADIUS), strict=True):
        colour, at = group_colour("light", point.colour), max(point.share, LEAST)
        if point.low is not None and point.high is not None:
            axes.plot([at, at], [point.low, point.high], color=colour, linewidth=0.8, alpha=0.5)
        axes.annotate(
            str(point.number),
            (at, point.skill),
            xytext=(step, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=5,
            color="white",
            bbox={"boxstyle": f"circle,pad={0.3 if point.number > 9 else 0.4}", "facecolor": colour, "linewidth": 0},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8} if step else None,
        )
    names = "\n".join(f"{point.number}  {shorten(point.label, 36)}" for point in one.points)
    axes.text(1.03, 1, names, transform=axes.transAxes, va="top", fontsize=6, linespacing=1.35, parse_math=False)
    axes.set_xscale("log")
    axes.set_xlim(10**one.left * 0.8, 10**one.right * 1.2)
    axes.set_ylim(one.bottom, 1)
    axes.set_title(one.name, loc="left", fontsize=9, parse_math=False)
    axes.set_xlabel("cost, share of 500 trainings", fontsize=8)
    axes.set_ylabel("within-task correlation", fontsize=8)
    axes.tick_params(labelsize=7)
