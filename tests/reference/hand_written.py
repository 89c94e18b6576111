"""A training loop as one writes it by hand with torch, one example of every piece of a recipe."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from coterie.training.job import BatchStream, Job
from coterie.workload import Workload


def label_losses(workload: Workload, outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(rows, tasks) losses from torch's own functions; anything where a label is missing."""
    found = []
    for task, columns in zip(workload.tasks, workload.columns, strict=True):
        y, z = workload.targets[rows, workload.tasks.index(task)], outputs[:, columns]
        if task.kind == "regression":
            found.append((z[:, 0] - y) ** 2)
        elif task.kind == "binary":
            found.append(binary_cross_entropy_with_logits(z[:, 0], y, reduction="none"))
        else:
            found.append(cross_entropy(z, y.long(), reduction="none"))
    return torch.stack(found, 1)


def run(model, x):
    """Outputs side by side."""
    out = model(x)
    return torch.cat(out, 1) if isinstance(out, list) else out


def train_by_hand(
    workload: Workload, job: Job, optimizer_of, *, schedule_of=None, clip=None, pieces=1, ema=None, weights=None,
    autocast=False,
):  # fmt: skip
    """Parameters after every step, or their average.

    Args:
        workload: tasks, data, model and batches.
        job: `max_steps` says how long.
        optimizer_of: named parameters -> optimiser.
        schedule_of: optimiser -> scheduler.
        clip: longest gradient.
        pieces: of a batch.
        ema: decay.
        weights: (rows, tasks) of labels.
        autocast: bfloat16.
    """
    model, tasks = workload.build_model(job.seed), list(job.subset)
    optimizer = optimizer_of(dict(model.named_parameters()))
    scheduler = schedule_of(optimizer) if schedule_of else None
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema is not None else None
    stream = BatchStream(workload.rows_of(job.subset, "train"), workload.recipe.batch_size, job.order)
    weights = torch.ones_like(workload.labels) if weights is None else weights
    states = []
    for step in range(job.max_steps):
        rows = stream.batch(step)
        seen = ~workload.labels[rows][:, tasks].isnan()
        total = (weights[rows][:, tasks] * seen).sum()
        optimizer.zero_grad()
        for part in rows.tensor_split(pieces):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                outputs = run(model, workload.inputs[part])
            losses = (label_losses(workload, outputs.float(), part) * weights[part])[:, tasks]
            (losses[~workload.labels[part][:, tasks].isnan()].sum() / total).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if averaged is not None:
            averaged.update_parameters(model)
        kept = averaged.module if averaged is not None else model
        states.append({name: value.detach().clone() for name, value in kept.state_dict().items()})
    return states


def validation_losses(workload: Workload, job: Job, states) -> np.ndarray:
    """Mean over tasks of their mean validation losses, for each state."""
    model, found = workload.build_model(0), []
    rows = workload.rows_of(job.subset, "validation")
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            losses = label_losses(workload, run(model, workload.inputs[rows]), rows)
        losses[workload.labels[rows].isnan()] = torch.nan
        found.append(float(losses[:, list(job.subset)].nanmean(0).mean()))
    return np.array(found)
