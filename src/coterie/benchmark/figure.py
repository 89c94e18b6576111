"""The plots of the page as a PNG or SVG file (needs matplotlib, extra ``plot``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.benchmark.plot import LEAST, Json, Panel, panel
from coterie.errors import SettingError, require
from coterie.report.formats import shorten
from coterie.report.palette import group_colour

ENDINGS = (".png", ".svg", ".pdf")
_COLUMNS = 3


def check_figure(path: str | Path) -> Path:
    """The path of a figure, before hours of work.

    Raises:
        SettingError: another ending.
        MissingDependencyError: Matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise SettingError(
            f"Parameter `figure` should be a file that ends in {', '.join(ENDINGS)}. Found {str(path)!r}."
        )
    require("matplotlib", extra="plot", purpose="Drawing a figure")
    return path


def write_figure(results: Sequence[Json], path: str | Path) -> Path:
    """Draw skill against cost, one panel a bed, and write it.

    Args:
        results: mappings of ``benchmark.json``.
        path: the file; its ending is the format.

    Raises:
        SettingError: another ending.
        MissingDependencyError: Matplotlib is not installed.
    """
    path = check_figure(path)
    figure_class: Any = require("matplotlib.figure", extra="plot", purpose="Drawing a figure").Figure
    columns = min(_COLUMNS, len(results))
    rows = math.ceil(len(results) / columns)
    figure = figure_class(figsize=(5.2 * columns, 4.4 * rows), layout="constrained")
    for number, result in enumerate(results, 1):
        _draw(figure.add_subplot(rows, columns, number), panel(result))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    return path


def _draw(axes: Any, one: Panel) -> None:
    for line, style in zip(one.lines, ("-", "--", ":"), strict=False):
        axes.axhline(line.skill, color="0.45", linewidth=1, linestyle=style)
        axes.annotate(
            line.label, (1, line.skill), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7
        )
    for path in one.paths:
        colour = group_colour("light", path[0].colour)
        axes.plot([max(p.share, LEAST) for p in path], [p.skill for p in path], color=colour, linewidth=1, alpha=0.6)
    for point in one.points:
        colour, at = group_colour("light", point.colour), max(point.share, LEAST)
        if point.low is not None and point.high is not None:
            axes.plot([at, at], [point.low, point.high], color=colour, linewidth=0.8, alpha=0.5)
        axes.plot([at], [point.skill], "o", color=colour, markersize=5)
        axes.annotate(
            shorten(point.label, 30), (at, point.skill), xytext=(4, 3), textcoords="offset points", fontsize=6
        )
    axes.set_xscale("log")
    axes.set_xlim(10**one.left * 0.8, 10**one.right * 1.2)
    axes.set_ylim(one.bottom, 1)
    axes.set_title(one.name, loc="left", fontsize=9, parse_math=False)
    axes.set_xlabel("cost, share of 500 trainings", fontsize=8)
    axes.set_ylabel("within-task correlation", fontsize=8)
    axes.tick_params(labelsize=7)
