"""A naive trainer: one model, one example at a time in the loss, textbook optimisers written out."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from coterie.training.job import BatchStream


def example_loss(workload, outputs, row, task):
    """Loss of one example and task, with torch's own loss functions."""
    kind, columns = workload.tasks[task].kind, workload.columns[task]
    label = workload.labels[row, task]
    if kind == "multiclass":
        return F.cross_entropy(outputs[columns][None], label.long()[None])
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(outputs[columns.start], label)
    return (outputs[columns.start] - label) ** 2


def subset_loss(workload, model, rows, subset):
    """Mean over all observed labels of the subset in these rows."""
    outputs = workload.outputs(model, workload.batch(rows))
    losses = [
        example_loss(workload, outputs[position], int(row), task)
        for position, row in enumerate(rows)
        for task in subset
        if not math.isnan(float(workload.labels[row, task]))
    ]
    return torch.stack(losses).mean()


def task_losses(workload, model, part, subset):
    """Mean loss of each task over its labels, as a dict; tasks without labels are left out."""
    found = {}
    with torch.no_grad():
        for task in subset:
            rows = workload.rows_of([task], part)
            if len(rows):
                found[task] = float(subset_loss(workload, model, rows, [task]))
    return found


class Textbook:
    """AdamW, Adam and SGD with momentum, parameter by parameter; parameters without a gradient are left alone."""

    def __init__(self, recipe):
        self.recipe, self.step_count, self.memory = recipe, 0, {}

    def step(self, named):
        r = self.recipe
        self.step_count += 1
        for name, p in named.items():
            if p.grad is None:
                continue
            g = p.grad.double()
            value = p.detach().double()
            m, v = self.memory.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
            if r.optimizer == "adamw":
                value = value * (1 - r.learning_rate * r.weight_decay)
            else:
                g = g + r.weight_decay * value
            if r.optimizer == "sgd":
                m = r.momentum * m + g
                value = value - r.learning_rate * m
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                corrected = (v / (1 - 0.999**self.step_count)).sqrt() + 1e-8
                value = value - r.learning_rate * (m / (1 - 0.9**self.step_count)) / corrected
            self.memory[name] = (m, v)
            with torch.no_grad():
                p.copy_(value.to(p.dtype))


def train(workload, job):
    """(state, history, steps, best_step, validation losses) for a job, with early stopping spelled out."""
    recipe = workload.recipe
    model = workload.build_model(job.seed)
    if job.start is not None:
        model.load_state_dict(job.start)
    stream = BatchStream(workload.rows_of(job.subset, "train"), recipe.batch_size, job.order)
    last = recipe.epochs * stream.steps_per_epoch if job.max_steps is None else job.max_steps
    every = recipe.check_every or stream.steps_per_epoch
    optimizer, named = Textbook(recipe), dict(model.named_parameters())
    history, best, waited, step = [], None, 0, 0
    while True:
        if step % every == 0 or step == last:
            losses = task_losses(workload, model, "validation", job.subset)
            loss = sum(losses.values()) / len(losses)
            history.append((step, loss))
            state = {name: value.clone() for name, value in model.state_dict().items()}
            if job.stop_below is not None and loss <= job.stop_below:
                best = (loss, step, state, losses)
                break
            if job.early_stopping:
                if best is None or loss < best[0]:
                    best, waited = (loss, step, state, losses), 0
                else:
                    waited += 1
                if recipe.patience is not None and waited >= recipe.patience:
                    break
            else:
                best = (loss, step, state, losses)
            if step == last:
                break
        model.zero_grad(set_to_none=True)
        subset_loss(workload, model, stream.batch(step), job.subset).backward()
        optimizer.step(named)
        step += 1
    return best[2], history, step, best[1], best[3]
