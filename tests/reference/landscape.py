"""Naive landscape distances: a real gradient step for each example and task, and plain loops over everything."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import nn

from coterie.workload import Workload

STEP = 0.5


def sample_optimum(workload: Workload, model: nn.Module, row: int, task: int, trunk: tuple[str, ...]) -> np.ndarray:
    """(p,) shared parameters after one step of plain gradient descent on one example of one task, over the step."""
    moved = copy.deepcopy(model).eval()
    solver = torch.optim.SGD(moved.parameters(), lr=STEP)
    rows = torch.tensor([row])
    outputs = workload.outputs(moved, workload.batch(rows))
    targets = workload.targets[rows].to(outputs.dtype)
    workload.losses(workload.margins(outputs, targets), targets)[0, task].backward()
    solver.step()
    start, end = dict(model.named_parameters()), dict(moved.named_parameters())
    return np.concatenate([((end[n] - start[n]) / STEP).detach().double().numpy().ravel() for n in trunk])


def tensor_sizes(model: nn.Module, trunk: tuple[str, ...]) -> list[int]:
    """Size of each tensor of the trunk."""
    named = dict(model.named_parameters())
    return [named[name].numel() for name in trunk]


def optima(workload, model, rows, seen, trunk):
    """{(position, task): (p,)} for the positions where the task has a label."""
    return {
        (i, t): sample_optimum(workload, model, int(rows[i, t]), t, trunk)
        for i in range(len(rows))
        for t in range(workload.n_tasks)
        if seen[i, t]
    }


def in_units(points, tasks, sizes, normalise, per_layer):
    """The same points in units of the mean norms of a task, of a tensor, of both or of none."""
    edges = np.cumsum([0, *sizes])
    units = np.ones((tasks, len(sizes)))
    for t in range(tasks):
        own = [v for (_, task), v in points.items() if task == t]
        for layer in range(len(sizes)):
            units[t, layer] = np.mean([np.abs(v[edges[layer] : edges[layer + 1]]).sum() for v in own])
    if per_layer and not normalise:
        units = np.tile(units.mean(0), (tasks, 1))
    if normalise and not per_layer:
        units = np.repeat(units.sum(1)[:, None], len(sizes), 1)
    if per_layer:
        units = units * len(sizes)
    if not normalise and not per_layer:
        units = np.ones_like(units)
    return {(i, t): v / np.repeat(units[t], sizes) for (i, t), v in points.items()}


def paired(points, tasks):
    """Mean L1 distance over the positions that both tasks have."""
    values = np.zeros((tasks, tasks))
    for a in range(tasks):
        for b in range(tasks):
            both = sorted({i for i, t in points if t == a} & {i for i, t in points if t == b})
            values[a, b] = np.mean([np.abs(points[i, a] - points[i, b]).sum() for i in both])
    return values


def unpaired(points, tasks, count, block):
    """Energy distance over pairs of different positions in one block."""
    cross = np.zeros((tasks, tasks))
    for a in range(tasks):
        for b in range(tasks):
            cross[a, b] = np.mean(
                [
                    np.abs(points[i, a] - points[j, b]).sum()
                    for i in range(count)
                    for j in range(count)
                    if i != j and i // block == j // block
                ]
            )
    values = np.zeros((tasks, tasks))
    for a in range(tasks):
        for b in range(tasks):
            values[a, b] = 0 if a == b else max(0.0, cross[a, b] - cross[a, a] / 2 - cross[b, b] / 2)
    return values


def density(points, tasks):
    """Mean L1 distance of a task's points from their mean."""
    result = []
    for t in range(tasks):
        own = np.array([v for (_, task), v in points.items() if task == t])
        result.append(np.mean([np.abs(v - own.mean(0)).sum() for v in own]))
    return np.array(result)


def attention(x, weight, left, right, edges):
    """Graph attention of one network: x (T, i), weight (heads, i, o), left and right (heads, o), edges (T, T)."""
    heads, _, outputs = weight.shape
    size = len(x)
    result = np.zeros((heads, size, outputs))
    for head in range(heads):
        h = [x[a] @ weight[head] for a in range(size)]
        for a in range(size):
            total = 0.0
            for b in range(size):
                score = float(left[head] @ h[a] + right[head] @ h[b])
                share = edges[a, b] * math.exp(score if score > 0 else 0.2 * score)
                result[head, a] += share * h[b]
                total += share
            result[head, a] /= total
    return result
