"""What is to be trained, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie._check import whole_number
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie._units import Payload
from coterie.balancing import Balancing
from coterie.balancing.methods import as_balancing
from coterie.errors import ModelError, SettingError, WorkloadError
from coterie.workload.workload import Workload


class BatchStream:
    """Batches of row numbers, reshuffled every epoch.

    The order of an epoch depends on the seed, the epoch and the number of rows alone and is drawn on the CPU, so any
    step can be asked for at any time and on any device. A last batch of a single row is left out of its epoch
    (normalisation layers cannot train on it), unless it would be the only batch or batches have one row anyway.

    Args:
        rows: (n,) row numbers on the CPU.
        batch_size: rows of a batch; the last batch of an epoch may have fewer.
        seed: of the order.

    Raises:
        SettingError: when there are no rows.

    Example:
        >>> stream = BatchStream(torch.arange(10), batch_size=4, seed=0)
        >>> [len(stream.batch(step)) for step in range(4)]
        [4, 4, 2, 4]
    """

    def __init__(self, rows: Tensor, batch_size: int, seed: int) -> None:
        if rows.dim() != 1 or not len(rows):
            raise SettingError(
                f"Parameter `rows` should hold at least one row number. Found shape {tuple(rows.shape)}."
            )
        self.rows = rows
        self.seed = seed
        self.width = min(batch_size, len(rows))
        full, rest = divmod(len(rows), self.width)
        #: batches of an epoch
        self.steps_per_epoch = full + (rest > 1)
        self._epoch: tuple[int, Tensor] | None = None

    @property
    def key(self) -> tuple[int, int, bytes]:
        """Equal for streams that yield the same batches."""
        return self.seed, self.width, self.rows.numpy().tobytes()

    def order(self, epoch: int) -> Tensor:
        """Row numbers of an epoch, in the order in which they are seen."""
        if self._epoch is None or self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, epoch))
            order = self.rows[torch.randperm(len(self.rows), generator=generator)]
            self._epoch = (epoch, order[: self.steps_per_epoch * self.width])
        return self._epoch[1]

    def batch(self, step: int) -> Tensor:
        """Row numbers of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[position * self.width : (position + 1) * self.width]

    def window(self, start: int, stop: int, width: int) -> Tensor:
        """(stop - start, width) row numbers of several steps, padded with -1."""
        first, last = start // self.steps_per_epoch, (stop - 1) // self.steps_per_epoch
        blocks = torch.full((last - first + 1, self.steps_per_epoch * self.width), -1, dtype=torch.int64)
        for epoch in range(first, last + 1):
            order = self.order(epoch)
            blocks[epoch - first, : len(order)] = order
        blocks = blocks.view(-1, self.width)[start - first * self.steps_per_epoch :][: stop - start]
        return torch.nn.functional.pad(blocks, (0, width - self.width), value=-1)


def derive(seed: int, *path: int) -> int:
    """An independent seed for each path of numbers below a seed."""
    mixed = np.random.SeedSequence([seed % 2**64, *path]).generate_state(1, np.uint64)
    return int(mixed[0]) % 2**63


#: a model's parameters and buffers under their names in ``state_dict``
State = dict[str, Tensor]


@known_arguments
@short_repr
@dataclass(frozen=True)
class Job:
    """One model to be trained: on which tasks, from where, for how long.

    Args:
        subset: numbers of the tasks that are trained together; kept sorted.
        seed: of the initial parameters, and of dropout.
        order_seed: of the order of the rows; None means `seed`. Jobs with the same order seed see the same batches
            (common random numbers) where their tasks have labels in the same rows.
        start: parameters and buffers to start from instead of the initial ones; the optimiser starts afresh.
        max_steps: steps at most; None means the recipe's epochs.
        stop_below: stop at the first check whose validation loss is at most this, and keep that checkpoint.
        early_stopping: False trains to the end and keeps the last state, whatever the validation loss says.
        checks: False does not look at validation or test data at all, which saves their forward passes: the last state
            is kept, `Fit.history` is empty and the losses are NaN. Needs `early_stopping` to be False.
        balancing: how much each task counts at every step: a name of :data:`coterie.balancing.METHODS`, or a
            :class:`coterie.balancing.Balancing` with options. ``"equal"`` is the mean of the tasks' mean losses. None
            is the mean over all labels in the batch, in which a task counts as much as it has labels. A job of one task
            has nothing to balance, so that its balancing becomes None.
        rows: numbers of the rows that are trained on, each as often as it is named, as for a mixture of data sets; None
            means the training rows with a label of the subset, once each. Only these may be named.

    Raises:
        SettingError: when a value is out of range.

    Example:
        >>> Job((2, 0), seed=1).subset
        (0, 2)
        >>> Job((0,), seed=1).order
        1
    """

    subset: tuple[int, ...]
    seed: int
    order_seed: int | None = None
    start: State | None = field(default=None, repr=False, hash=False)
    max_steps: int | None = None
    stop_below: float | None = None
    early_stopping: bool = True
    checks: bool = True
    balancing: Balancing | None = None
    rows: tuple[int, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        subset = tuple(sorted(whole_number(task, "subset", low=0) for task in self.subset))
        if not subset or subset[0] < 0 or len(set(subset)) < len(subset):
            raise SettingError(
                "Parameter `subset` of a job should name at least one task, each once, by numbers from 0. "
                f"Found {subset}."
            )
        object.__setattr__(self, "subset", subset)
        object.__setattr__(self, "seed", whole_number(self.seed, "seed", low=0))
        balancing = as_balancing(self.balancing)
        object.__setattr__(self, "balancing", balancing if len(subset) > 1 else None)
        for name in ("order_seed", "max_steps"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(value, name, low=0))
        if self.rows is not None:
            object.__setattr__(self, "rows", tuple(whole_number(row, "rows", low=0) for row in self.rows))
        if self.max_steps is not None and self.max_steps < 0:
            raise SettingError(f"Parameter `max_steps` of a job should be at least 0. Found {self.max_steps}.")
        if not self.checks and (self.early_stopping or self.stop_below is not None):
            raise SettingError(
                "Parameter `checks`=False of a job needs early_stopping=False and no `stop_below`: both look at the "
                "validation loss."
            )

    def __eq__(self, other: object) -> bool:
        # tensors have no truth value, so a start state is the same only when it is the same object
        if not isinstance(other, Job):
            return NotImplemented
        return self.start is other.start and self._key == other._key

    @property
    def _key(self) -> tuple[object, ...]:
        limits = (self.max_steps, self.stop_below, self.early_stopping, self.checks)
        return (self.subset, self.seed, self.order_seed, *limits, self.balancing, self.rows)

    @property
    def order(self) -> int:
        """Seed of the order of the rows."""
        return self.seed if self.order_seed is None else self.order_seed

    def describe(self, workload: Workload) -> str:
        """Tasks and seed in words, for messages."""
        names = [repr(workload.task_names[task]) for task in self.subset]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return f"tasks {shown}; seed {self.seed}"


@short_repr
@dataclass(frozen=True, eq=False)
class Fit:
    """A trained model and how it came about.

    Attributes:
        job: what was asked for.
        state: parameters and buffers at the kept checkpoint, on the workload's device; empty when states are not kept.
            Parameters of tasks outside the subset that had no gradient are at their start values.
        steps: steps trained.
        best_step: step of the kept checkpoint.
        history: (step, validation loss) of every check, step 0 included. The loss is the mean over the subset's tasks
            of the mean over their labels; lower is better.
        validation: (tasks,) mean validation loss of each task at the kept checkpoint; NaN outside the subset.
        test: (tasks,) the same for the test part.
    """

    job: Job
    state: State = field(repr=False)
    steps: int
    best_step: int
    history: tuple[tuple[int, float], ...] = field(repr=False)
    validation: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)

    @property
    def loss(self) -> float:
        """Validation loss at the kept checkpoint: mean over the subset's tasks; lower is better."""
        return float(np.nanmean(self.validation))


class Schedule:
    """When a job sees which rows, and when it is checked; the same for both backends.

    Args:
        workload: brings the rows and the recipe.
        job: the job.

    Raises:
        SettingError: when the job names a task that does not exist, or its balancing does not go with the recipe.
        WorkloadError: when the subset has no label in the training or the validation part.
    """

    def __init__(self, workload: Workload, job: Job) -> None:
        if job.subset[-1] >= workload.n_tasks:
            raise SettingError(
                f"Parameter `subset` of a job should hold numbers below {workload.n_tasks}, the number of tasks. "
                f"Found {job.subset}."
            )
        self._workload = workload
        self.job = job
        rows = workload.rows_of(job.subset, "train").cpu()
        for part, found in (("train", rows), ("validation", workload.rows_of(job.subset, "validation"))):
            if not len(found):
                raise WorkloadError(
                    f"No label in the {part} part for {job.describe(workload)}. "
                    "Leave these tasks out, or split the data so that each task has labels in every part."
                )
        if job.rows is not None:
            rows = _chosen(job.rows, rows)
        recipe = workload.recipe
        if job.balancing is not None and recipe.accumulate > 1:
            raise SettingError(
                f"Parameter `accumulate`={recipe.accumulate} of the recipe does not go with balancing="
                f"{str(job.balancing)!r}, which needs the losses of a whole batch at once. Leave one of them out."
            )
        self.stream = BatchStream(rows, recipe.batch_size, job.order)
        self.max_steps = recipe.epochs * self.stream.steps_per_epoch if job.max_steps is None else job.max_steps
        self.check_every = recipe.check_every or self.stream.steps_per_epoch
        if not job.checks:
            self.check_every = max(1, self.max_steps)

    @cached_property
    def tasks(self) -> list[int]:
        """Numbers of the subset's tasks, as a list for indexing."""
        return list(self.job.subset)


def _chosen(wanted: Sequence[int], known: Tensor) -> Tensor:
    """The rows that a job names, all of which are among those that it may train on."""
    rows = torch.tensor(wanted, dtype=torch.int64)
    odd = rows[~torch.isin(rows, known)]
    if len(odd) or not len(rows):
        raise SettingError(
            "Parameter `rows` of a job should name training rows with a label of its subset, at least one. Found "
            f"{odd[:5].tolist() if len(odd) else 'none'}. The likely cause is rows of the validation or test part, or "
            "numbers that count within one data set: `workload.split.train` has those of the workload."
        )
    return rows


def diverged(workload: Workload, job: Job, step: int, what: str, position: int | None = None) -> ModelError:
    """The error for a loss that is NaN or infinite."""
    where = "" if position is None else f"job {position}, "
    return ModelError(
        f"Training diverged: the {what} became NaN or infinite at step {step} ({where}{job.describe(workload)}). "
        f"Likely causes: the learning rate{_rate(workload)} is too large, inputs or regression "
        "targets are not standardised, or the model divides by or takes the logarithm of 0. "
        "Try a learning rate ten times smaller, or standardize=True."
    )


def _rate(workload: Workload) -> str:
    recipe = workload.recipe
    return "" if "optimizer" in recipe.functions else f" ({recipe.learning_rate:g})"


def pack_fits(fits: Sequence[Fit], *, states: bool = True) -> Payload:
    """One payload for many trainings; `states` says whether the parameters are kept."""
    arrays: dict[str, Any] = {
        "validation": np.stack([fit.validation for fit in fits]),
        "test": np.stack([fit.test for fit in fits]),
    }
    meta: dict[str, Any] = {
        "steps": [fit.steps for fit in fits],
        "best_step": [fit.best_step for fit in fits],
        "history": [[[step, loss] for step, loss in fit.history] for fit in fits],
    }
    if states and fits:
        for name in fits[0].state:
            arrays[f"state/{name}"] = torch.stack([fit.state[name].detach().cpu() for fit in fits])
    return Payload(arrays, meta)


def unpack_fits(jobs: Sequence[Job], payload: Payload) -> list[Fit]:
    """The inverse of :func:`pack_fits`, for the same jobs in the same order."""
    states = {name[6:]: torch.as_tensor(a) for name, a in payload.arrays.items() if name.startswith("state/")}
    validation, test = np.asarray(payload.arrays["validation"]), np.asarray(payload.arrays["test"])
    return [
        Fit(
            job=job,
            state=_member(states, i),
            steps=int(payload.meta["steps"][i]),
            best_step=int(payload.meta["best_step"][i]),
            history=tuple(
                (int(step), float("nan") if loss is None else float(loss)) for step, loss in payload.meta["history"][i]
            ),
            validation=validation[i],
            test=test[i],
        )
        for i, job in enumerate(jobs)
    ]


def _member(states: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: stack[index].clone() for name, stack in states.items()}
