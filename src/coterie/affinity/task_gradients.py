"""Directions spanned by the tasks' own mean gradients at the base: one backward pass over the training rows a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from coterie.workload import Workload

_CHUNK = 4096


def task_gradients(workload: Workload, state: Mapping[str, Tensor], trunk: Sequence[str]) -> Tensor:
    """(tasks, trunk parameters) gradients of each task's mean training loss, float64.

    Cost: one forward pass and one backward pass a task over the training rows.
    """
    model = workload.build_model(0).to(workload.labels.device).eval()
    model.load_state_dict(dict(state))
    named = dict(model.named_parameters())
    parameters = [named[name] for name in trunk]
    total = torch.zeros(workload.n_tasks, sum(p.numel() for p in parameters), dtype=torch.float64)
    counts = workload.observed[workload.split.train].sum(0).clamp_min(1)
    for rows in workload.split.train.split(_CHUNK):
        targets, seen = workload.targets[rows], workload.observed[rows]
        margins = workload.margins(workload.outputs(model, workload.batch(rows)), targets)
        losses = torch.where(seen, workload.losses(margins, targets), 0.0).sum(0) / counts
        for task in range(workload.n_tasks):
            last = task == workload.n_tasks - 1
            grads = torch.autograd.grad(losses[task], parameters, retain_graph=not last, materialize_grads=True)
            total[task] += torch.cat([g.reshape(-1) for g in grads]).double().cpu()
    return total
