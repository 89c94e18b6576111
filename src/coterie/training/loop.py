"""The plain loop: one model after the other, any module."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from coterie._progress import Progress, silent
from coterie._random import random_numbers, seed_numbers
from coterie.errors import ModelError
from coterie.training.balanced import BalancedStep
from coterie.training.evaluate import load_state, row_losses, rows_losses, tensors_of
from coterie.training.heads import OtherHeads
from coterie.training.job import Fit, Job, Schedule, State, diverged
from coterie.training.optimizer import make_optimizer
from coterie.training.stream import derive
from coterie.training.tracker import Tracker
from coterie.workload.kept import check_kept
from coterie.workload.workload import Workload


def fit_one(workload: Workload, job: Job, *, progress: Progress | None = None, keep_states: bool = True) -> Fit:
    """Train one model on the tasks of a job.

    Each step minimises the sum of the observed losses of the subset's tasks in the batch over their number, unless the
    job has a balancing. A last batch of a single row is left out of its epoch. The global random numbers are left as
    they were.

    Args:
        workload: tasks, data, model and recipe.
        job: subset, seed and limits.
        progress: called with the steps done and the steps at most, at every check.
        keep_states: False leaves `Fit.state` empty.

    Returns:
        The fit; the same job gives the same fit, bit for bit, on the same machine and number of threads.

    Raises:
        ModelError: when a loss becomes NaN or infinite, or the model has nothing to train.
        WorkloadError: when the subset has no label in the training or validation part.
    """
    device = workload.labels.device
    with random_numbers(device):
        model = build(workload, job)
        seed_numbers(derive(job.seed, 2), device)
        return _Run(workload, job, model).train(progress or silent, keep_states)


class _Run:
    """One training under way."""

    def __init__(self, workload: Workload, job: Job, model: nn.Module) -> None:
        self.workload, self.job, self.model = workload, job, model
        self.schedule = Schedule(workload, job)
        self.tracker = Tracker(self.schedule, workload.recipe.patience)
        self.rows = workload.rows_of(job.subset, "validation")
        self.optimizer = make_optimizer(workload.recipe, trainable(model))
        named = dict(model.named_parameters())
        self.others = OtherHeads(workload, [job.subset], named, self.optimizer, stacked=False)
        self.state: State = tensors_of(model)
        self.losses = np.full(workload.n_tasks, np.nan)

    def train(self, progress: Progress, keep_states: bool) -> Fit:
        """Run to the end."""
        self.model.train()
        balancing = self.job.balancing
        balanced = balancing and BalancedStep(self.workload, self.schedule, balancing, self.model, self.optimizer)
        self.check(0)
        step = 0
        while not self.tracker.finished:
            rows = self.schedule.stream.batch(step).to(self.workload.labels.device)
            step += 1
            if balanced:
                balanced(step, rows)
            else:
                self.step(step, rows)
            if step % self.schedule.check_every == 0 or step == self.schedule.max_steps:
                self.check(step)
                progress("training", step, self.schedule.max_steps)
        return self.finish(step, keep_states)

    def step(self, step: int, rows: Tensor) -> None:
        """One step on the loss pooled over labels."""
        loss = batch_loss(self.workload, self.model, rows, self.schedule.tasks)
        if not torch.isfinite(loss):
            raise diverged(self.workload, self.job, step, "training loss")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def check(self, step: int) -> None:
        """Evaluate on the validation part and keep the state when it is the best so far."""
        self.others.put_back()
        if not self.job.checks:
            if self.tracker.reach(step):
                self.state = tensors_of(self.model)
            return
        losses = rows_losses(self.workload, self.model, self.rows, self.schedule.tasks)
        loss = float(np.nanmean(losses))
        if not loss < float("inf"):
            raise diverged(self.workload, self.job, step, "validation loss")
        if self.tracker.observe(step, loss):
            self.losses, self.state = losses, tensors_of(self.model)

    def finish(self, step: int, keep_states: bool) -> Fit:
        """Evaluate the kept checkpoint on the test part."""
        test = np.full(self.workload.n_tasks, np.nan)
        if self.job.checks:
            load_state(self.model, self.state)
        check_kept(self.workload, self.model, "after training")
        if self.job.checks:
            rows = self.workload.rows_of(self.job.subset, "test")
            test = rows_losses(self.workload, self.model, rows, self.schedule.tasks)
        return Fit(
            job=self.job,
            state=self.state if keep_states else {},
            steps=step,
            best_step=self.tracker.best_step,
            history=tuple(self.tracker.history),
            validation=self.losses,
            test=test,
        )


def build(workload: Workload, job: Job) -> nn.Module:
    """The model of a job at its start, on the workload's device."""
    model = workload.build_model(job.seed).to(workload.labels.device)
    if job.start is not None:
        load_state(model, job.start)
    return model


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained.

    Raises:
        ModelError: when there are none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError(
            "The model has no parameters with requires_grad=True, so there is nothing to train. "
            "Let build_model(seed) return a module with trainable parameters."
        )
    return parameters


def batch_loss(workload: Workload, model: nn.Module, rows: Tensor, tasks: list[int]) -> Tensor:
    """Sum of the observed losses of the tasks in the given rows, over their number."""
    losses, observed = row_losses(workload, model, rows)
    return losses[:, tasks].sum() / observed[:, tasks].sum()
