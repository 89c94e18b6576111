"""Naive features: ``autograd.grad`` for each example and task, times a dense projection matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coterie.features.directions import Directions
from coterie.workload import Workload


def dense_matrix(directions: Directions) -> Tensor:
    """P, (parameters, d), in the order of the names."""
    chunk = directions.chunk(0, directions.count)
    return torch.cat([chunk[name].reshape(directions.count, -1) for name in directions.names], 1).T


def plain_gradient(workload: Workload, model: nn.Module, row: int, task: int, names: tuple[str, ...]) -> Tensor:
    """Gradient of one margin, (parameters,)."""
    parameters = dict(model.named_parameters())
    rows = torch.tensor([row])
    margins = workload.margins(workload.outputs(model, workload.batch(rows)), workload.targets[rows])
    chosen = [parameters[name] for name in names]
    grads = torch.autograd.grad(margins[0, task], chosen, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(chosen, grads, strict=True)]
    )


def plain_features(workload: Workload, model: nn.Module, directions: Directions, part: str = "train") -> list[Tensor]:
    """One (n, d) matrix a task, rows in the order of the part."""
    matrix = dense_matrix(directions)
    training = model.training
    model.eval()
    result = []
    for task in range(workload.n_tasks):
        rows = [r for r in workload.split.part(part).tolist() if bool(workload.observed[r, task])]
        grads = [plain_gradient(workload, model, row, task, directions.names) for row in rows]
        result.append(torch.stack(grads) @ matrix if grads else torch.zeros(0, directions.count))
    model.train(training)
    return result
