"""Mean loss of each task for a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import choice
from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.training.job import State
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.workload import Workload

PARTS = ("train", "validation", "test")
ROWS_PER_CHUNK = 1024


@known_arguments
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


def row_losses(
    workload: Workload, model: nn.Module, rows: Tensor, *, autocast: str | None = None
) -> tuple[Tensor, Tensor]:
    """(rows, tasks) losses with 0 where a label is missing, and (rows, tasks) where one is known.

    With `autocast`, a data type by its name, the model runs in mixed precision; losses are always computed in full.
    """
    targets, observed = workload.targets[rows], workload.observed[rows]
    if autocast is None:
        outputs = workload.outputs(model, workload.batch(rows))
    else:
        with torch.autocast(rows.device.type, getattr(torch, autocast)):
            outputs = workload.outputs(model, workload.batch(rows)).float()
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


# parameters, gradients, two moments, the best checkpoint and one copy while members are selected
_COPIES = 6
# on a CPU, stacks that outgrow the caches are slower than several smaller ones
_CACHE_BYTES = 24 * 2**20
# parameters of the members of a chunk on a CPU; smaller chunks would be slower, larger ones leave processes idle
_CHUNK_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Footprint:
    """Bytes that one member needs.

    Attributes:
        parameters: bytes of its parameters and buffers.
        row: bytes that a forward and a backward pass keep for one row.
        batch: rows of a batch.
        cpu: whether members live on the CPU.
        share: members may take one part in so many of the memory.
    """

    parameters: int
    row: int
    batch: int
    cpu: bool
    share: int = 1

    @property
    def member(self) -> int:
        """Bytes of one member in training."""
        return _COPIES * self.parameters + self.batch * self.row

    def members(self, memory: int) -> int:
        """How many members to train at once within a number of bytes; 0 when not even one fits."""
        fit = memory // self.share // self.member
        if self.cpu:
            fit = min(fit, max(16, _CACHE_BYTES // (4 * self.parameters)))
        return int(fit)

    @property
    def enough(self) -> int:
        """Members that fill a processor: more of them at once are hardly faster, and fewer chunks are left to share."""
        return max(16, _CHUNK_BYTES // self.parameters) if self.cpu else 10**9

    def cells(self, memory: int) -> int:
        """How many (member, row) pairs to evaluate at once."""
        cells = max(64, memory // 4 // self.row)
        return min(cells, 16384) if self.cpu else cells


def measure_footprint(workload: Workload) -> Footprint:
    """Count the bytes that autograd keeps for a few rows."""
    device = workload.labels.device
    with random_numbers(device):
        model = workload.build_model(0).to(device)
        own = [*model.parameters(), *model.buffers()]
        totals: list[int] = []
        train = workload.split.train
        for size in (4, 8):
            rows = train[torch.arange(size, device=train.device) % len(train)]
            totals.append(saved_bytes(own, lambda rows=rows: row_losses(workload, model, rows)[0].sum()))
    inputs = workload.inputs.example if isinstance(workload.inputs, LazyInputs) else workload.inputs
    parts = inputs.values() if isinstance(inputs, dict) else [inputs]
    input_bytes = sum(value[0].numel() * value.element_size() for value in parts)
    # gradients of the activations pass by as well, hence twice what autograd keeps
    row = 2 * max(0, totals[1] - totals[0]) // 4 + 2 * input_bytes + 16 * workload.labels.shape[1]
    parameters = sum(value.numel() * value.element_size() for value in own)
    return Footprint(max(1, parameters), row, workload.recipe.batch_size, device.type == "cpu")


def saved_bytes(own: Iterable[Tensor], run: Callable[[], object]) -> int:
    """Bytes that autograd keeps of what is computed for a backward pass, besides the tensors that are there anyway."""
    known = {value.untyped_storage().data_ptr() for value in own}
    kept: list[int] = []

    def count(value: Tensor) -> None:
        # nothing is handed back: a graph that holds its own results this way is never freed
        if value.untyped_storage().data_ptr() not in known:
            kept.append(value.numel() * value.element_size())

    with torch.autograd.graph.saved_tensors_hooks(count, _not_kept):
        run()
    return sum(kept)


def _not_kept(packed: None) -> Tensor:
    raise AssertionError("The graph was only measured; there is no way back through it.")
