"""Predictions of dense tasks beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.adapters.dense import DenseTask
from coterie.errors import SettingError, require

_DARK = 0.13


def draw_predictions(
    images: Tensor,
    truth: Mapping[str, Tensor],
    predicted: Mapping[str, Mapping[str, Tensor]],
    tasks: Mapping[str, DenseTask],
) -> Any:
    """A figure: image, labels and predictions of each model below them, one column a task.

    Segmentations have a colour a class, the background (class 0) dark. Depth is brighter where it is nearer, on the
    scale of the labels. Edges are probabilities. Normals are coloured by direction, and shown where labels are.

    Args:
        images: (n, channels, h, w) in [0, 1]; a few.
        truth: labels of each task for them.
        predicted: predictions of each task for them, by the title of the model.
        tasks: what is shown, in this order.

    Returns:
        A figure of matplotlib.

    Raises:
        SettingError: without images or tasks.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> from coterie.adapters.dense import dense_task
        >>> depth = torch.rand(1, 1, 8, 8)
        >>> tasks = {"depth": dense_task("depth")}
        >>> len(draw_predictions(torch.rand(1, 1, 8, 8), {"depth": depth}, {"model": {"depth": depth}}, tasks).axes)
        4
    """
    if not len(images) or not tasks:
        raise SettingError(
            f"There should be images and tasks to draw. Found {len(images)} images, tasks {list(tasks)}."
        )
    figures = require("matplotlib.figure", extra="plot", purpose="Drawing predictions")
    lines = 1 + len(predicted)
    size = (1.5 * (1 + len(tasks)) + 0.6, 1.55 * lines * len(images) + 0.3)
    figure = figures.Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines * len(images), 1 + len(tasks), squeeze=False)
    for index in range(len(images)):
        rows = {"truth": truth, **predicted}
        first = axes[lines * index, 0]
        _show(first, _photo(images[index]), "image" if index == 0 else None)
        for line, (title, values) in enumerate(rows.items()):
            row = axes[lines * index + line]
            if line:
                row[0].axis("off")
            row[1].set_ylabel(title, fontsize=9)
            for axis, (name, task) in zip(row[1:], tasks.items(), strict=True):
                shown = picture(values[name][index], truth[name][index], task, predicted=line > 0)
                _show(axis, shown, name if index == line == 0 else None)
    return figure


def picture(values: Tensor, labels: Tensor, task: DenseTask, *, predicted: bool) -> NDArray[np.float64]:
    """(h, w, 3) colours of a prediction, or of labels, of one image.

    Example:
        >>> from coterie.adapters.dense import dense_task
        >>> up = torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1)
        >>> picture(9 * up, up, dense_task("normals"), predicted=True).tolist()
        [[[0.5, 0.5, 1.0]]]
    """
    colormaps = require("matplotlib", extra="plot", purpose="Drawing predictions").colormaps
    values, labels = values.detach().cpu(), labels.detach().cpu()
    if task.kind == "segmentation":
        classes = values.argmax(0) if predicted else values
        last = getattr(task.head, "channels", 2) - 1
        colours = colormaps["tab10" if last <= 10 else "tab20"]((classes.numpy() - 1) % 20)[..., :3]
        return np.where((classes > 0).numpy()[..., None], colours, _DARK)
    if task.kind == "normals":
        directions = values / values.norm(dim=0, keepdim=True).clamp(min=1e-9)
        shown = torch.where(labels.isfinite(), (directions + 1) / 2, _DARK)
        return shown.movedim(0, -1).clamp(0, 1).double().numpy()
    if task.kind == "depth":
        known = labels[labels.isfinite()]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        scaled = (values[0] - low) / max(high - low, 1e-9)
        return colormaps["magma_r"](scaled.nan_to_num(1.0).clamp(0, 1).double().numpy())[..., :3]
    return _photo(values.sigmoid() if predicted else values.nan_to_num())


def _photo(image: Tensor) -> NDArray[np.float64]:
    shown = image.detach().cpu().clamp(0, 1).double()
    return (shown if len(shown) == 3 else shown[:1].expand(3, -1, -1)).movedim(0, -1).numpy()


def _show(axis: Any, shown: NDArray[np.float64], title: str | None) -> None:
    axis.imshow(shown, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    if title:
        axis.set_title(title, fontsize=10)
