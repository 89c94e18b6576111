"""Metrics of dense tasks: over the pixels with a label of a whole data set, not means over images."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mean_iou(logits: Tensor, labels: Tensor) -> float:
    """Mean over classes of intersection over union of all pixels, from 0 to 1; higher is better.

    Classes that are neither in the labels nor predicted do not count.

    Example:
        >>> logits = torch.tensor([[[[2.0, 2.0]], [[1.0, 3.0]]]])  # predicts 0, 1
        >>> mean_iou(logits, torch.tensor([[[0, 0]]]))
        0.25
    """
    classes, known = logits.shape[1], labels >= 0
    pairs = labels[known] * classes + logits.argmax(1)[known]
    confusion = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return float((confusion.diagonal() / union)[union > 0].mean())


def depth_error(predicted: Tensor, depth: Tensor) -> float:
    """Root of the mean squared error over pixels, in the unit of the labels; lower is better.

    Example:
        >>> depth_error(torch.zeros(1, 1, 1, 2), torch.tensor([[[[2.0, torch.nan]]]]))
        2.0
    """
    known = depth.isfinite()
    return float((predicted[known].double() - depth[known]).square().mean().sqrt())


def average_precision(logits: Tensor, edges: Tensor) -> float:
    """Area under precision over recall of all pixels, in steps, from 0 to 1; higher is better.

    Pixels with the same logit are taken in together, so ties have no order.

    Example:
        >>> average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
        0.8333...
    """
    known = edges.isfinite()
    scores, order = logits[known].sort(descending=True)
    hits = edges[known][order].double().cumsum(0)
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] < scores[:-1]
    taken = torch.arange(1, len(scores) + 1, device=scores.device, dtype=torch.float64)[last]
    found = hits[last]
    return float((found.diff(prepend=found.new_zeros(1)) * found / taken).sum() / found[-1])


def mean_angle(predicted: Tensor, normals: Tensor) -> float:
    """Mean angle between predicted and true normals in degrees, from 0 to 180; lower is better.

    A prediction of length 0 has no direction; it counts 90 degrees, as far from right as from opposite.

    Example:
        >>> right, up = torch.eye(3)[0].reshape(1, 3, 1, 1), torch.eye(3)[2].reshape(1, 3, 1, 1)
        >>> round(mean_angle(2 * right, up), 3)
        90.0
    """
    known = normals.isfinite().all(1)
    a, b = (values.movedim(1, -1)[known].double() for values in (predicted, normals))
    # the sine from the cross product: the arc cosine alone loses half the digits near 0
    sine, cosine = torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(1)
    angles = torch.where((sine == 0) & (cosine == 0), math.pi / 2, torch.atan2(sine, cosine))
    return float(angles.rad2deg().mean())
