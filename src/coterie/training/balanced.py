"""Training steps of one model in which tasks are balanced."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coterie._random import random_numbers
from coterie.balancing import Balancing, task_means
from coterie.training.evaluate import row_losses
from coterie.training.job import Schedule, diverged
from coterie.workload.structure import find_structure
from coterie.workload.workload import Workload

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
            values, observed = row_losses(self._workload, self._model, rows)
            observed = observed & self._inside
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
