"""Naive scores of a probe run: textbook optimiser, one gradient, one copy of the model and one pass at a time."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch

from coterie.training.job import BatchStream, Job
from reference.plain_training import Textbook, subset_loss, train


def task_loss(workload, model, rows, task):
    """Mean loss of a task over its labels in these rows; None without a label."""
    rows = [int(row) for row in rows if not math.isnan(float(workload.labels[row, task]))]
    return subset_loss(workload, model, torch.tensor(rows), [task]) if rows else None


def trunk_gradients(workload, model, trunk, rows, task):
    """name -> gradient of a task's loss."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(task_loss(workload, model, rows, task), [named[name] for name in trunk])
    return dict(zip(trunk, found, strict=True))


def moved_model(model, optimizer, gradients, rate):
    """A copy of the model whose trunk has taken a step, with a copy of the optimiser; rate None: the optimiser's."""
    model, optimizer = copy.deepcopy(model), copy.deepcopy(optimizer)
    named = dict(model.named_parameters())
    for p in named.values():
        p.grad = None
    for name, gradient in gradients.items():
        named[name].grad = gradient.clone()
    if rate is None:
        optimizer.step(named)
    else:
        with torch.no_grad():
            for name, gradient in gradients.items():
                named[name] -= rate * gradient
    return model


def inner(a, b, smallest=0):
    """Inner product over tensors with at least so many dimensions."""
    return sum(float((a[name] * b[name]).sum()) for name in a if a[name].dim() >= smallest)


def measurement(workload, model, optimizer, trunk, rows, rate):
    """score -> {(target, source): (above, below the line)} on one batch."""
    model = copy.deepcopy(model).eval()
    tasks = [task for task in range(workload.n_tasks) if task_loss(workload, model, rows, task) is not None]
    gradients = {task: trunk_gradients(workload, model, trunk, rows, task) for task in tasks}
    found = {"tag": {}, "etap": {}, "cosine": {}, "cosine_all": {}}
    for source in tasks:
        moved = moved_model(model, optimizer, gradients[source], rate)
        for target in tasks:
            g, u, pair = gradients[target], gradients[source], (target, source)
            loss = float(task_loss(workload, model, rows, target).detach())
            found["tag"][pair] = loss - float(task_loss(workload, moved, rows, target).detach()), loss
            found["etap"][pair] = inner(g, u), loss
            for name, smallest in (("cosine_all", 0), ("cosine", 2)):
                lengths = math.sqrt(inner(g, g, smallest) * inner(u, u, smallest))
                if lengths:
                    found[name][pair] = inner(g, u, smallest), lengths
    return found


def probe_scores(workload, trunk, seed, every, rate=None):
    """score -> ((targets, sources) mean of ratios with NaN where nothing was measured, counts, ratio of sums)."""
    job = Job(tuple(range(workload.n_tasks)), seed)
    steps = train(workload, job)[2]
    model = workload.build_model(seed)
    stream = BatchStream(workload.rows_of(job.subset, "train"), workload.recipe.batch_size, seed)
    optimizer, named = Textbook(workload.recipe), dict(model.named_parameters())
    seen = {name: {} for name in ("tag", "etap", "cosine", "cosine_all")}
    for step in range(steps):
        rows = stream.batch(step)
        if step % every == 0:
            for name, pairs in measurement(workload, model, optimizer, trunk, rows, rate).items():
                for pair, value in pairs.items():
                    seen[name].setdefault(pair, []).append(value)
        model.zero_grad(set_to_none=True)
        subset_loss(workload, model, rows, job.subset).backward()
        optimizer.step(named)
    results = {}
    for name, pairs in seen.items():
        mean = np.full((workload.n_tasks, workload.n_tasks), np.nan)
        counts, pooled = np.zeros(mean.shape, int), mean.copy()
        for (target, source), values in pairs.items():
            mean[target, source] = sum(above / below for above, below in values) / len(values)
            pooled[target, source] = sum(above for above, _ in values) / sum(below for _, below in values)
            counts[target, source] = len(values)
        results[name] = (mean, counts, pooled)
    return results
