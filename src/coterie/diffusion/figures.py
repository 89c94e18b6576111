"""PNG figures of a study, for slides and papers (need matplotlib, extra ``plot``)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._files import user_path
from coterie.errors import MissingDependencyError, require
from coterie.store.files import atomic_write

if TYPE_CHECKING:
    from coterie.diffusion.study import StepStudy

#: what is written into the run directory
NAMES = ("affinity.png", "samples.png")
_SIDE, _DPI = 8, 160


def write_figures(study: StepStudy, folder: str | Path) -> tuple[Path, ...]:
    """Write the map with its curve, and the samples.

    Returns:
        The files; none where matplotlib is not installed.

    Raises:
        StoreError: they cannot be written.
    """
    drawn = figures(study)
    for name, data in drawn.items():
        atomic_write(user_path(folder) / name, data)
    return tuple(user_path(folder) / name for name in drawn)


def figures(study: StepStudy) -> dict[str, bytes]:
    """Name of the file -> PNG; nothing where matplotlib is not installed."""
    try:
        figure_class: Any = require("matplotlib.figure", extra="plot", purpose="Drawing a figure").Figure
    except MissingDependencyError:
        return {}
    found: dict[str, bytes] = {}
    for name, draw in zip(NAMES, (_affinity, _samples), strict=True):
        file = io.BytesIO()
        draw(study, figure_class).savefig(file, format="png", dpi=_DPI)
        found[name] = file.getvalue()
    return found


def _affinity(study: StepStudy, figure_class: Any) -> Any:
    """The map with the cuts, and affinity against the gap in time and in log SNR."""
    figure, found = figure_class(figsize=(10.0, 4.8), layout="constrained"), study.facts["affinity"]
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1.0))
    study.affinity.plot(study.intervals, ax=left.subplots()).invert_yaxis()
    upper, lower = right.subplots(2, 1, sharey=True)
    for curve in found["curves"] if len(found["curves"]) > 1 else ():
        upper.plot(found["gaps"], curve, color="0.65", linewidth=0.8)
    upper.plot(found["gaps"], found["curve"], color="#14599c", linewidth=1.8)
    upper.set(xlabel="gap in time steps", ylabel="affinity")
    lower.plot(*found["snr_gaps"], "o", color="#14599c", markersize=2.5, alpha=0.45, linewidth=0)
    lower.set(xlabel="gap in log SNR", ylabel="affinity")
    for axes in (upper, lower):
        axes.axhline(0.0, color="0.4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _samples(study: StepStudy, figure_class: Any) -> Any:
    """Grids side by side, real images first."""
    columns = min(4, len(study.samples))
    rows = -(-len(study.samples) // columns)
    figure = figure_class(figsize=(3.0 * columns, 3.25 * rows), layout="constrained")
    for place, (name, images) in enumerate(study.samples.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(tiled(images), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title("real images" if name == "data" else name, loc="left", fontsize=10)
        axes.set_axis_off()
    return figure


def tiled(images: np.ndarray[Any, Any], gap: int = 255) -> np.ndarray[Any, Any]:
    """One picture of up to 8 x 8 images (n, H, W), with lines of one pixel between them.

    Example:
        >>> tiled(np.zeros((9, 1, 1), dtype=np.uint8)).shape
        (3, 15)
    """
    images = images[: _SIDE * _SIDE]
    height, width = images.shape[1:]
    rows = -(-len(images) // _SIDE)
    canvas = np.full((rows * (height + 1) - 1, _SIDE * (width + 1) - 1), gap, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // _SIDE) * (height + 1), (i % _SIDE) * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas
