"""The plain loop: one model after the other, any module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from coterie._progress import Progress, silent
from coterie._random import random_numbers, seed_numbers
from coterie.balancing import Balancing, task_means
from coterie.errors import ModelError
from coterie.training.evaluate import load_state, row_losses, rows_losses, tensors_of
from coterie.training.heads import OtherHeads
from coterie.training.job import BatchStream, Fit, Job, Schedule, State, derive, diverged
from coterie.training.optimizer import Stepper
from coterie.training.weights import pooled, weighted
from coterie.workload.initial import check_kept
from coterie.workload.lazy.inputs import LazyInputs, training_step
from coterie.workload.structure import find_structure
from coterie.workload.workload import Workload


class Tracker:
    """Follows the validation loss of one job.

    Args:
        schedule: the job with its number of steps.
        patience: checks without improvement before stopping; None trains to the end.
    """

    def __init__(self, schedule: Schedule, patience: int | None) -> None:
        self._job = schedule.job
        self._max_steps = schedule.max_steps
        self._patience = patience
        self._best = math.inf
        self._waited = 0
        self.best_step = 0
        self.finished = False
        self.history: list[tuple[int, float]] = []

    def observe(self, step: int, loss: float) -> bool:
        """Take the validation loss of a check into account; True when this checkpoint is to be kept."""
        self.history.append((step, loss))
        ended = step >= self._max_steps
        if self._job.stop_below is not None and loss <= self._job.stop_below:
            keep = self.finished = True
        elif not self._job.early_stopping:
            keep = self.finished = ended
        else:
            keep = loss < self._best
            self._waited = 0 if keep else self._waited + 1
            self.finished = ended or (self._patience is not None and self._waited >= self._patience)
        if keep:
            self._best, self.best_step = loss, step
        return keep

    def reach(self, step: int) -> bool:
        """Take note of a step at which nothing was checked; True when this is the last one, which is kept."""
        self.finished = step >= self._max_steps
        if self.finished:
            self.best_step = step
        return self.finished


# row numbers that are held at once, at most
_ENTRIES = 2**20


class Windows:
    """The rows of each step for the members of a population.

    Streams that yield the same batches are found and drawn once. While all members share one stream, a single list of
    rows stands for all of them, so that their inputs need not be repeated.

    Args:
        streams: one a member.
        device: where the row numbers are needed.
    """

    def __init__(self, streams: Sequence[BatchStream], device: torch.device) -> None:
        numbers: dict[object, int] = {}
        self._number = np.array([numbers.setdefault(stream.key, len(numbers)) for stream in streams])
        self._streams = [streams[int(np.flatnonzero(self._number == number)[0])] for number in range(len(numbers))]
        self._device = device
        self._start = self._stop = 0
        self._ids = np.zeros(0, int)

    def rows(self, step: int, ids: np.ndarray) -> tuple[Tensor, bool]:
        """Rows of a step (counted from 0) for some members, and whether entries of -1 are among them.

        Returns:
            (rows,) when these members share one stream, never padded; else (members, rows).
        """
        if step >= self._stop or len(ids) != len(self._ids):
            self._draw(step, ids)
        offset = step - self._start
        length = self._lengths[:, offset]
        if len(length) == 1:
            return self._window[0, offset, : length[0]], False
        longest = length.max()
        return self._window[self._place, offset, :longest], bool((length < longest).any())

    def _draw(self, step: int, ids: np.ndarray) -> None:
        used, place = np.unique(self._number[ids], return_inverse=True)
        streams = [self._streams[number] for number in used]
        width = max(stream.width for stream in streams)
        count = max(1, min(64, _ENTRIES // (width * len(streams))))
        window = torch.stack([stream.window(step, step + count, width) for stream in streams])
        self._lengths = (window >= 0).sum(-1).numpy()
        self._window = window.to(self._device)
        self._place = torch.from_numpy(place).to(self._device)
        self._start, self._stop, self._ids = step, step + count, ids


_CACHE: WeakKeyDictionary[Workload, tuple[str, ...]] = WeakKeyDictionary()


class BalancedStep:
    """Takes the place of backward pass and optimiser step where a job has a balancing.

    Only the parameters that tasks share are balanced. Methods that weight losses get one loss a task of the workload,
    NaN for those outside the subset, so that they do what they do for a member of a population. Methods that combine
    gradients get the tasks of the subset only.

    Args:
        workload: tasks and data.
        schedule: of the job.
        balancing: the job's.
        model: in training mode.
        optimizer: of the model's parameters.
    """

    def __init__(
        self,
        workload: Workload,
        schedule: Schedule,
        balancing: Balancing,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._workload, self._job, self._model, self._optimizer = workload, schedule.job, model, optimizer
        self._passes = compiled(workload, model)
        self._columns = list(range(workload.n_tasks)) if balancing.stackable else schedule.tasks
        self._inside = torch.zeros(workload.n_tasks, dtype=torch.bool, device=workload.labels.device)
        self._inside[schedule.tasks] = True
        #: the balancer, with its state
        self.balancer = balancing.make(
            len(self._columns), seeds=[schedule.job.seed], windows=[schedule.stream.steps_per_epoch]
        )
        named = dict(model.named_parameters())
        self._shared = [named[name] for name in trunk_names(workload)]

    def __call__(self, step: int, rows: Tensor) -> None:
        """One step on these rows.

        Raises:
            ModelError: when a loss is NaN or infinite.
        """

        def losses() -> Tensor:
            values, observed = row_losses(self._workload, self._passes, rows, autocast=self._workload.recipe.autocast)
            observed = observed & self._inside
            if self._workload.label_weights is not None:
                values = weighted(values, observed, self._workload.label_weights[rows])
            first = torch.is_grad_enabled()  # later calls look at losses that the balancer checks itself
            if first and not bool(torch.where(observed, values, 0.0).isfinite().all()):
                raise diverged(self._workload, self._job, step, "training loss")
            return task_means(values[:, self._columns], observed[:, self._columns])

        self.balancer.step(losses, self._optimizer, model=self._model, shared=self._shared)


def trunk_names(workload: Workload) -> tuple[str, ...]:
    """Names of the parameters that tasks share, remembered for each workload.

    Raises:
        WorkloadError: when they share none.
    """
    if workload not in _CACHE:
        device = workload.labels.device
        with random_numbers(device):
            _CACHE[workload] = find_structure(workload, workload.build_model(0).to(device)).trunk
    return _CACHE[workload]


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
        return PlainRun(workload, job, model).train(progress or silent, keep_states)


class PlainRun:
    """One training in the plain loop.

    Args:
        workload: tasks, data, model and recipe.
        job: subset, seed and limits.
        model: at its start.
        watch: called before each step with its number, counted from 0, and its rows; it may change nothing.
        tests: whether the kept checkpoint is evaluated on the test part.
    """

    def __init__(
        self,
        workload: Workload,
        job: Job,
        model: nn.Module,
        *,
        watch: Callable[[int, Tensor], None] | None = None,
        tests: bool = True,
    ) -> None:
        self.workload, self.job, self.model = workload, job, model
        self.watch, self.tests = watch, tests
        self.schedule = Schedule(workload, job)
        self.tracker = Tracker(self.schedule, workload.recipe.patience)
        self.rows = workload.rows_of(job.subset, "validation")
        self.stepper = Stepper(workload.recipe, trainable(model), self.schedule.max_steps, stacked=False)
        self.optimizer = self.stepper.optimizer
        self.others = OtherHeads(workload, [job.subset], trainable(model), self.optimizer, stacked=False)
        self.passes = compiled(workload, model)
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
            if self.watch is not None:
                self.watch(step, rows)
            step += 1
            lazy = isinstance(self.workload.inputs, LazyInputs)  # other rows are what they are at any step
            with training_step(self.job.seed, step) if lazy else nullcontext():
                if balanced:
                    balanced(step, rows)
                else:
                    self.step(step, rows)
            self.stepper.stepped()
            if step % self.schedule.check_every == 0 or step == self.schedule.max_steps:
                self.check(step)
                progress("training", step, self.schedule.max_steps)
        return self.finish(step, keep_states)

    def step(self, step: int, rows: Tensor) -> None:
        """One step on the loss pooled over labels."""
        self.optimizer.zero_grad()
        pieces = min(self.workload.recipe.accumulate, max(1, len(rows) // 2))  # no piece of one row, for BatchNorm
        if pieces == 1:
            loss = batch_loss(self.workload, self.passes, rows, self.schedule.tasks)
            self.backward(step, loss)
        else:
            total = _total(self.workload, rows, self.schedule.tasks)
            for piece in rows.tensor_split(pieces):
                loss = batch_loss(self.workload, self.passes, piece, self.schedule.tasks, total=total)
                self.backward(step, loss)
        self.optimizer.step()

    def backward(self, step: int, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        if not torch.isfinite(loss):
            raise diverged(self.workload, self.job, step, "training loss")
        loss.backward()

    def check(self, step: int) -> None:
        """Evaluate on the validation part and keep the state when it is the best so far."""
        self.others.put_back()
        with self.stepper.averaged():
            self.others.put_back()
            self.evaluate(step)

    def evaluate(self, step: int) -> None:
        """The check itself, at the present parameters."""
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
        if self.job.checks and self.tests:
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


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name.

    Raises:
        ModelError: when there are none.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise ModelError(
            "The model has no parameters with requires_grad=True, so there is nothing to train. "
            "Let build_model(seed) return a module with trainable parameters."
        )
    return parameters


def compiled(workload: Workload, model: nn.Module) -> nn.Module:
    """The model for training passes: compiled where the recipe says so, with the same parameters."""
    backend = workload.recipe.compile
    if backend is False:
        return model
    return torch.compile(model, backend="inductor" if backend is True else backend)  # pyright: ignore[reportReturnType]


def batch_loss(
    workload: Workload, model: nn.Module, rows: Tensor, tasks: list[int], *, total: Tensor | None = None
) -> Tensor:
    """Sum of the observed losses of the tasks in the given rows, over their number; weighted where labels have weights.

    Args:
        workload: tasks, data and recipe, whose `autocast` the pass is made with.
        model: in training mode.
        rows: of the batch, or of a piece of it.
        tasks: numbers of the tasks.
        total: number or weight of the labels of the whole batch, where the rows are a piece of it.
    """
    losses, observed = row_losses(workload, model, rows, autocast=workload.recipe.autocast)
    weights = workload.label_weights
    if weights is None and total is None:
        if len(tasks) < workload.n_tasks:  # picking all columns costs as much as the losses themselves
            losses, observed = losses[:, tasks], observed[:, tasks]
        return losses.sum() / observed.sum()
    return pooled(losses[:, tasks], observed[:, tasks], None if weights is None else weights[rows][:, tasks], total)


def _total(workload: Workload, rows: Tensor, tasks: list[int]) -> Tensor:
    """Number, or weight, of the labels of the tasks in a batch."""
    observed, weights = workload.observed[rows][:, tasks], workload.label_weights
    return observed.sum() if weights is None else torch.where(observed, weights[rows][:, tasks], 0.0).sum()
