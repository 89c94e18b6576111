"""Tasks with a label a pixel: losses to train them with, metrics to judge them by.

| kind | prediction | label | loss | metric |
|---|---|---|---|---|
| segmentation | (n, C, h, w) logits | (n, h, w) class, -1 where unknown | cross-entropy | mean IoU, higher is better |
| depth | (n, 1, h, w) distance | the same, NaN where unknown | mean absolute error | RMSE, lower is better |
| edges | (n, 1, h, w) logit | 1 or 0, NaN where unknown | logistic | average precision, higher is better |
| normals | (n, 3, h, w), any length | unit vectors, NaN where unknown | 1 - cosine | mean angle, lower is better |

Losses are means over the pixels with a label. Metrics are of a whole data set, not means over images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from coterie._surface import known_arguments
from coterie.adapters.dense_metrics import average_precision, depth_error, mean_angle, mean_iou
from coterie.adapters.heads import Dense, Image
from coterie.errors import SettingError


@dataclass(frozen=True)
class DenseTask:
    """How a dense task is trained and judged.

    Attributes:
        kind: one of the table above; says how predictions are drawn.
        head: what a model needs for it.
        loss: (predictions, labels) to a scalar.
        metric: (predictions, labels) of a data set to a number.
        measures: what the metric is, with its unit.
        higher_is_better: direction of the metric.
    """

    kind: str
    head: Dense | Image
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], float]
    measures: str
    higher_is_better: bool


@known_arguments
def dense_task(kind: str, classes: int | None = None) -> DenseTask:
    """The task of a kind.

    Args:
        kind: "segmentation", "depth", "edges" or "normals".
        classes: of a segmentation, the background among them.

    Raises:
        SettingError: for another kind, or a segmentation without its number of classes.

    Example:
        >>> dense_task("depth").measures, dense_task("segmentation", classes=11).head
        ('RMSE', Dense(channels=11))
    """
    if kind == "segmentation":
        if classes is None or classes < 2:
            raise SettingError(f"Parameter `classes` of a segmentation should be 2 or more. Found {classes!r}.")
        return DenseTask(kind, Dense(classes), segmentation_loss, mean_iou, "mean IoU", True)
    kinds = {
        "depth": DenseTask(kind, Dense(1), depth_loss, depth_error, "RMSE", False),
        "edges": DenseTask(kind, Dense(1), edge_loss, average_precision, "average precision", True),
        "normals": DenseTask(kind, Dense(3), normal_loss, mean_angle, "mean angle (degrees)", False),
    }
    if kind not in kinds:
        raise SettingError(f"Parameter `kind` should be one of {['segmentation', *kinds]}. Found {kind!r}.")
    return kinds[kind]


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy; 0 in a batch without a label.

    Example:
        >>> segmentation_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)).exp().round().item()
        4.0
    """
    total = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def depth_loss(predicted: Tensor, depth: Tensor) -> Tensor:
    """Mean absolute error; 0 in a batch without a label.

    Example:
        >>> depth_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.5, torch.nan]]]])).item()
        1.5
    """
    known = depth.isfinite()
    return _mean((predicted - depth.nan_to_num()).abs(), known)


def edge_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Mean logistic loss, all pixels alike; 0 in a batch without a label.

    Example:
        >>> edge_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).exp().item()
        2.0
    """
    losses = functional.binary_cross_entropy_with_logits(logits, edges.nan_to_num(), reduction="none")
    return _mean(losses, edges.isfinite())


def normal_loss(predicted: Tensor, normals: Tensor) -> Tensor:
    """Mean of 1 - cosine, from 0 to 2; 0 in a batch without a label.

    Example:
        >>> up = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
        >>> normal_loss(5 * up, up).item(), normal_loss(-up, up).item()
        (0.0, 2.0)
    """
    cosines = functional.cosine_similarity(predicted, normals.nan_to_num(), dim=1)
    return _mean(1 - cosines, normals.isfinite().all(1))


def delta_m(values: Mapping[str, float], baseline: Mapping[str, float], tasks: Mapping[str, DenseTask]) -> float:
    """Mean relative improvement over tasks in per cent; above 0 is better than the baseline.

    Args:
        values: metric of each task.
        baseline: the same of what is compared with.
        tasks: for the directions.

    Source: K.-K. Maninis et al., "Attentive single-tasking of multiple tasks", CVPR 2019, section 5.

    Example:
        >>> tasks = {"depth": dense_task("depth"), "edges": dense_task("edges")}
        >>> round(delta_m({"depth": 0.9, "edges": 0.6}, {"depth": 1.0, "edges": 0.5}, tasks), 6)
        15.0
    """
    signs = {name: 1 if task.higher_is_better else -1 for name, task in tasks.items()}
    return 100 * sum(signs[t] * (values[t] - baseline[t]) / baseline[t] for t in tasks) / len(tasks)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    # `where` keeps the gradient of unknown pixels at exactly 0
    return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)
