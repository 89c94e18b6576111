"""Mean loss of each task for a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import choice
from coterie.errors import SettingError
from coterie.training.job import State
from coterie.workload.workload import Workload

PARTS = ("train", "validation", "test")
ROWS_PER_CHUNK = 1024


def evaluate(
    workload: Workload,
    model: nn.Module | State | Sequence[State],
    part: str = "validation",
    subset: Sequence[int] | None = None,
) -> np.ndarray:
    """Mean loss of each task over its labels in a part of the data; lower is better.

    The model is put in evaluation mode for the passes and back afterwards. Cost: one forward pass over the rows that
    have a label of the subset, in chunks.

    Args:
        workload: tasks and data.
        model: a module on the workload's device, a state of the workload's model, or several states.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        subset: task numbers; None means all tasks.

    Returns:
        (tasks,) float64, or (states, tasks) for several states; NaN outside the subset and for tasks without labels.

    Raises:
        SettingError: for an unknown part, or a state that does not fit the model.
    """
    choice(part, "part", PARTS)
    tasks = list(range(workload.n_tasks)) if subset is None else list(subset)
    rows = workload.rows_of(tasks, part)
    if isinstance(model, nn.Module):
        return rows_losses(workload, model, rows, tasks)
    states = [model] if isinstance(model, Mapping) else list(model)
    module = workload.build_model(0).to(workload.labels.device)
    values: list[np.ndarray] = []
    for state in states:
        load_state(module, state)
        values.append(rows_losses(workload, module, rows, tasks))
    return values[0] if isinstance(model, Mapping) else np.array(values).reshape(-1, workload.n_tasks)


def rows_losses(workload: Workload, model: nn.Module, rows: Tensor, tasks: Sequence[int]) -> np.ndarray:
    """(tasks of the workload,) mean loss over the labels in the given rows; NaN outside `tasks` and without labels."""
    total = np.zeros(workload.n_tasks)
    count = np.zeros(workload.n_tasks)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for chunk in rows.split(ROWS_PER_CHUNK):
                loss, observed = row_losses(workload, model, chunk)
                total += loss.sum(0).cpu().double().numpy()
                count += observed.sum(0).cpu().double().numpy()
    finally:
        model.train(training)
    mean = np.full(workload.n_tasks, np.nan)
    known = [task for task in tasks if count[task]]
    mean[known] = total[known] / count[known]
    return mean


def row_losses(workload: Workload, model: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, tasks) losses with 0 where a label is missing, and (rows, tasks) where one is known."""
    targets, observed = workload.targets[rows], workload.observed[rows]
    outputs = workload.outputs(model, workload.batch(rows))
    losses = workload.losses(workload.margins(outputs, targets), targets)
    return torch.where(observed, losses, torch.zeros_like(losses)), observed


def load_state(model: nn.Module, state: State) -> None:
    """Put a state into a module.

    Raises:
        SettingError: when names or shapes do not fit.
    """
    expected = {name: value.shape for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    found = {name: value.shape for name, value in state.items()}
    if expected != found:
        names = expected.keys() | found.keys()
        odd = sorted(name for name in names if expected.get(name) != found.get(name))
        raise SettingError(
            f"A state should hold the parameters and buffers of the workload's model. Found a difference in {odd[:5]} "
            "(a name or a shape). Take the state from a Fit of the same workload, or from model.state_dict()."
        )
    model.load_state_dict(state, strict=False)


def tensors_of(model: nn.Module) -> State:
    """The tensors of a module's ``state_dict``, copied."""
    return {name: value.detach().clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
