"""An affinity as a picture and as a table in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from coterie.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from coterie.affinity.affinity import Affinity

_MOST = 40


def heat_map(affinity: Affinity, ax: Axes | None = None) -> Axes:
    """Heat map of an affinity: blue helps, red harms; the colour scale is symmetric about 0."""
    plt = require("matplotlib.pyplot", extra="plot", purpose="Affinity.plot()")
    axes = ax
    if axes is None:
        size = min(16.0, 2.5 + 0.28 * len(affinity))
        axes = plt.subplots(figsize=(size + 0.8, size), layout="constrained")[1]
    limit = _limit(affinity)
    image = axes.imshow(affinity.values, cmap="RdBu", vmin=-limit, vmax=limit)
    ticks = range(len(affinity))
    axes.set_xticks(ticks, affinity.tasks, rotation=90)
    axes.set_yticks(ticks, affinity.tasks)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)  # names are shown as they are: a dollar sign must not start a formula
    axes.set(xlabel="source (trained with)", ylabel="target (measured)", title=affinity.method or "affinity")
    title = "gain: share of the loss saved" if affinity.kind == "gain" else "score"
    axes.figure.colorbar(image, ax=axes, label=title)
    return axes


def html_table(affinity: Affinity) -> str:
    """A coloured HTML table of the first 40 tasks; names are escaped."""
    shown, limit = min(len(affinity), _MOST), _limit(affinity)
    head = "".join(f"<th>{escape(name)}</th>" for name in affinity.tasks[:shown])
    rows: list[str] = []
    for name, row in zip(affinity.tasks[:shown], affinity.values[:shown, :shown].tolist(), strict=True):
        cells = "".join(_cell(value, limit) for value in row)
        rows.append(f'<tr><th style="text-align:left">{escape(name)}</th>{cells}</tr>')
    more = f"; the first {shown} of {len(affinity)} tasks" if shown < len(affinity) else ""
    caption = f"Affinity ({escape(affinity.kind)}, {escape(affinity.method)}); rows: targets, columns: sources{more}"
    return (
        f'<table><caption style="text-align:left">{caption}</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(value: float, limit: float) -> str:
    if np.isnan(value):
        return "<td></td>"
    colour = "33,102,172" if value > 0 else "178,24,43"
    return f'<td style="background:rgba({colour},{0.6 * min(1.0, abs(value) / limit):.2f})">{value:.3g}</td>'


def _limit(affinity: Affinity) -> float:
    """Largest absolute entry off the diagonal: the diagonal may be on another scale."""
    off = affinity.values[~np.eye(len(affinity), dtype=bool)]
    largest = np.nanmax(np.abs(off), initial=0.0) if np.isfinite(off).any() else 0.0
    return float(largest) or 1.0
