"""New linear heads on the frozen trunks of single-task models, and how well they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.affinity.costs import Prepared
from coterie.affinity.scores.single_tasks import representations
from coterie.training.job import Fit
from coterie.workload import Workload
from coterie.workload.losses import MarginLoss

#: ridge of the bias: next to nothing, but a label without variation still has a solution
BIAS_RIDGE = 1e-6
_NEWTON, _GRADIENT = 50, 1000
_TOLERANCE = 1e-9


def fit_margins(x: Tensor, y: Tensor, loss: MarginLoss, penalty: Tensor) -> Tensor:
    """Weights (S, q) that minimise mean loss(x w, y) + penalty . w^2 / 2, by Newton's method with step halving.

    Args:
        x: (S, n, q) features of S independent problems, float64.
        y: (n,) labels.
        loss: of a single output.
        penalty: (q,) ridge of each weight.
    """
    n = len(y)

    def objective(w: Tensor) -> Tensor:
        return loss.value((x @ w[..., None])[..., 0], y).mean(1) + (penalty * w * w).sum(1) / 2

    w = x.new_zeros(x.shape[0], x.shape[2])
    value = objective(w)
    for _ in range(_NEWTON):
        h = (x @ w[..., None])[..., 0]
        slope = (x.mT @ loss.first(h, y)[..., None])[..., 0] / n + penalty * w
        curvature = x.mT @ (loss.curvature(h, y)[..., None] * x) / n + torch.diag(penalty)
        move = torch.linalg.solve(curvature, slope)
        gain = (move * slope).sum(1)
        if float(gain.max()) < _TOLERANCE**2:
            break
        size = torch.ones_like(value)
        for _ in range(30):
            worse = objective(w - size[:, None] * move) > value - 1e-4 * size * gain + 1e-14 * value.abs()
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        w = w - size[:, None] * move
        value = objective(w)
    return w


def fit_classes(x: Tensor, y: Tensor, classes: int, penalty: Tensor) -> Tensor:
    """Weights (S, q, classes) that minimise mean cross-entropy + penalty . w^2 / 2.

    Accelerated descent under the fixed bound of the Hessian, (I - 1/C) / 2 times the Gram matrix of the features
    (Boehning 1992): one factorisation for all steps.
    """
    n = len(y)
    hot = torch.nn.functional.one_hot(y.long(), classes).to(x.dtype)
    factor = torch.linalg.cholesky(x.mT @ x / (2 * n) + torch.diag(penalty))
    w = ahead = x.new_zeros(x.shape[0], x.shape[2], classes)
    speed = x.new_ones(x.shape[0], 1, 1)
    for _ in range(_GRADIENT):
        slope = x.mT @ (torch.softmax(x @ ahead, -1) - hot) / n + penalty[:, None] * ahead
        if float(slope.abs().max()) < _TOLERANCE:
            break
        new = ahead - torch.cholesky_solve(slope, factor)
        # momentum that points uphill is dropped
        uphill = (slope * (new - w)).sum((1, 2), keepdim=True) > 0
        speed = torch.where(uphill, 1.0, speed)
        faster = (1 + (1 + 4 * speed**2).sqrt()) / 2
        ahead = new + torch.where(uphill, 0.0, (speed - 1) / faster) * (new - w)
        w, speed = new, faster
    return ahead


def head_losses(workload: Workload, task: int, train: Tensor, validation: Tensor, ridge: float) -> Tensor:
    """(S,) validation losses of a task's new linear heads on S frozen representations; lower is better.

    Args:
        workload: brings the labels.
        task: the target.
        train: (S, rows, width) representations of the training part, in its order.
        validation: the same for the validation part.
        ridge: on the weights of features that are standardised on the target's training rows; a feature without
            variation counts for nothing.
    """
    spec = workload.tasks[task]
    (x, y), (x_val, y_val) = (
        (rows[:, seen], workload.targets[part, task][seen].double())
        for rows, part, seen in (
            (train, workload.split.train, workload.observed[workload.split.train, task]),
            (validation, workload.split.validation, workload.observed[workload.split.validation, task]),
        )
    )
    mean, scale = x.mean(1, keepdim=True), x.std(1, unbiased=False, keepdim=True)
    dead = scale <= 1e-9 * mean.abs().clamp_min(1e-30)

    def ready(rows: Tensor) -> Tensor:
        scaled = torch.where(dead, 0.0, (rows - mean) / torch.where(dead, 1.0, scale))
        return torch.cat([scaled, torch.ones_like(scaled[..., :1])], -1)

    penalty = torch.full((x.shape[2] + 1,), ridge, dtype=torch.float64, device=x.device)
    penalty[-1] = BIAS_RIDGE
    if spec.loss.per_class:
        outputs = ready(x_val) @ fit_classes(ready(x), y, spec.width, penalty)
        return spec.loss.value(spec.loss.margin(outputs, y_val), y_val).mean(1)
    h = (ready(x_val) @ fit_margins(ready(x), y, spec.loss, penalty)[..., None])[..., 0]
    return spec.loss.value(h, y_val).mean(1)


def transfer_losses(
    prepared: Prepared, fits: Sequence[Fit], ridge: float, tell: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """(T, T) validation losses: row = target, column = the task whose single-task trunk is used.

    Cost: one forward pass over training and validation part a trunk, T^2 small linear fits.
    """
    workload, split = prepared.workload, prepared.workload.split
    rows, cut = torch.cat([split.train, split.validation]), len(split.train)
    values = np.full((workload.n_tasks, len(fits)), np.nan)
    held: list[Tensor] = []
    first = 0
    for source, features in enumerate(representations(prepared, fits, rows)):
        held.append(features)
        full = (len(held) + 1) * features.numel() * 40 > prepared.context.memory  # features and their scaled copies
        if source + 1 < len(fits) and not full:
            continue
        for group in _alike(held):
            stacked = torch.stack(group)
            for target in range(workload.n_tasks):
                found = head_losses(workload, target, stacked[:, :cut], stacked[:, cut:], ridge)
                values[target, first : first + len(group)] = found.cpu().numpy()
            first += len(group)
            tell(first, len(fits))
        held = []
    return values


def _alike(held: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of the same shape together; encoders of several widths are rare."""
    groups: list[list[Tensor]] = []
    for features in held:
        if groups and groups[-1][0].shape == features.shape:
            groups[-1].append(features)
        else:
            groups.append([features])
    return groups
