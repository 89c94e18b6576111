"""Many models of one architecture as one set of stacked tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from coterie._process_lock import process_lock
from coterie.errors import SettingError
from coterie.training.job import Job, State
from coterie.training.weights import pooled
from coterie.workload.workload import Batch, Workload


@contextmanager
def open_kernels(*, recurrent: bool = False) -> Generator[None]:
    """Attention as matrix products, no fused encoder layers, and (`recurrent`) no fused recurrent layers.

    vmap would run the fused kernels member by member, and the FLOP counter does not see into them.
    """
    with process_lock, ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # torch's remarks about hardware that is not here
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


@dataclass
class Values:
    """Tensors of all members, by parameter or buffer name.

    Attributes:
        trained: (members, ...) parameters that are trained.
        fixed: (members, ...) frozen parameters and buffers that differ between members.
        common: (...) frozen parameters and buffers that all members share.
    """

    trained: State
    fixed: State
    common: State

    def select(self, index: Tensor) -> Values:
        """Some members, copied and without gradients."""
        trained = {name: value.detach().index_select(0, index) for name, value in self.trained.items()}
        fixed = {name: value.index_select(0, index) for name, value in self.fixed.items()}
        return Values(trained, fixed, self.common)

    def member(self, index: int) -> State:
        """The tensors of one member, copied."""
        stacked = {**self.trained, **self.fixed}
        own = {name: value[index].detach().clone() for name, value in stacked.items()}
        return {**own, **{name: value.clone() for name, value in self.common.items()}}


class Outputs(nn.Module):
    """The workload's way to call its model, as a module, so that functional_call can swap the parameters below it."""

    def __init__(self, workload: Workload, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._workload = [workload]

    def forward(self, batch: Batch) -> Tensor:
        """(rows, width) outputs of a batch."""
        return self._workload[0].outputs(self.model, batch)


class Architecture:
    """Runs all members at once.

    Args:
        workload: builds and calls the model.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.model = workload.build_model(0).to(workload.labels.device)
        self._outputs = Outputs(workload, self.model)
        self.trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        self.names = _canonical_names(self.model)
        #: whether members have buffers of their own that are not in the state_dict
        self.loses = False

    def train(self, mode: bool) -> None:
        """Put the model in training or evaluation mode."""
        self._outputs.train(mode)

    def outputs(self, values: Values, batch: Batch, *, shared: bool) -> Tensor:
        """(members, rows, width) outputs; `batch` has a leading dimension of members unless it is shared."""

        def call(trained: State, fixed: State, common: State, batch: Batch) -> Tensor:
            tensors = {f"model.{name}": value for name, value in (trained | fixed | common).items()}
            return functional_call(self._outputs, tensors, (batch,))

        run: Callable[..., Tensor] = vmap(call, in_dims=(0, 0, None, None if shared else 0))
        with open_kernels():
            return run(values.trained, values.fixed, values.common, batch)

    def of_rows(self, values: Values, rows: Tensor, mask: Tensor) -> Tensor:
        """(members, rows, width) outputs of rows of the workload.

        Args:
            values: the members.
            rows: (rows,) for all members, or (members, rows).
            mask: (members, rows, tasks) or (rows, tasks): where a loss is wanted; other outputs may be anything finite.
        """
        del mask
        return self.outputs(values, self.workload.batch(rows), shared=rows.dim() == 1)

    def descend(self, values: Values, rows: Tensor, *, padded: bool, subsets: Tensor) -> Tensor:
        """Add the gradient of each member's mean loss over labels to its parameters; (members,) these losses.

        Arguments are those of :func:`masked_losses`.
        """
        losses, mask = masked_losses(self, values, rows, padded=padded, subsets=subsets)
        weights = label_weights(self.workload, rows)
        means = losses.sum((1, 2)) / mask.sum((1, 2)) if weights is None else pooled(losses, mask, weights)
        means.sum().backward()
        return means.detach()

    def tensors(self, model: nn.Module) -> State:
        """What a member has of its own, by name."""
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: value.detach().to(self.workload.labels.device) for name, value in named.items()}

    def stack(self, jobs: Sequence[Job]) -> Values:
        """Start values of the members of some jobs.

        Raises:
            SettingError: when a start state does not fit the model.
        """
        built: dict[int, State] = {}
        for job in jobs:
            if job.seed not in built:
                built[job.seed] = self.tensors(self.workload.build_model(job.seed))
        own = self.tensors(self.model)
        kept = set(self.names.values()) | {name for name, _ in self.model.named_parameters()}
        self.loses = self.loses or any(
            not torch.equal(start[name].to(value), value)
            for start in built.values()
            for name, value in own.items()
            if name not in kept
        )
        members = [built[job.seed] if job.start is None else self._started(built[job.seed], job.start) for job in jobs]
        names = [name for name in members[0] if name in self.trained]
        trained = {name: torch.stack([member[name] for member in members]).requires_grad_() for name in names}
        fixed: State = {}
        common: State = {}
        for name in members[0].keys() - trained.keys():
            own = {id(member[name]): member[name] for member in members}
            if all(torch.equal(value, members[0][name]) for value in own.values()):
                common[name] = members[0][name]
            else:
                fixed[name] = torch.stack([member[name] for member in members])
        return Values(trained, fixed, common)

    def state(self, member: State) -> State:
        """A member's tensors under the names of ``state_dict``, which lists tied tensors more than once."""
        return {key: member[name] for key, name in self.names.items()}

    def _started(self, built: State, start: Mapping[str, Tensor]) -> State:
        expected = {key: built[name].shape for key, name in self.names.items()}
        odd = sorted(
            key for key in expected.keys() | start.keys() if key not in start or expected.get(key) != start[key].shape
        )
        if odd:
            raise SettingError(
                f"Parameter `start` of a job should hold the parameters and buffers of the workload's model. Found a "
                f"difference in {odd[:5]} (a name or a shape). Take the state from a Fit of the same workload."
            )
        given = {name: start[key].detach().to(built[name]) for key, name in self.names.items()}
        return {**built, **given}


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Names in ``state_dict`` -> the first name of the same tensor."""
    first: dict[int, str] = {}
    every: dict[str, str] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, value in named:
            every[name] = first.setdefault(id(value), name)
    return {key: every[key] for key in model.state_dict() if key in every}


def masked_losses(
    architecture: Architecture, values: Values, rows: Tensor, *, padded: bool, subsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Losses (members, rows, tasks) with 0 where masked, and the mask (broadcastable to it).

    Args:
        architecture: runs the members.
        values: the members.
        rows: (rows,) for all members, or (members, rows).
        padded: whether `rows` has entries of -1, which stand for no row.
        subsets: (members, tasks) bool: other tasks are masked; None means all tasks.
    """
    workload = architecture.workload
    rows, mask = masked(workload, rows, padded=padded, subsets=subsets)
    targets = _take(workload.targets, rows)
    outputs = architecture.of_rows(values, rows, mask)
    losses = workload.losses(workload.margins(outputs, targets), targets)
    return torch.where(mask, losses, torch.zeros((), dtype=losses.dtype, device=losses.device)), mask


def masked(workload: Workload, rows: Tensor, *, padded: bool, subsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows that all exist, and where a label of theirs counts; see :func:`masked_losses`."""
    real = rows >= 0 if padded else None
    rows = rows.clamp(min=0) if padded else rows
    mask = _take(workload.observed, rows)
    if real is not None:
        mask = mask & real[..., None]
    if subsets is not None:
        mask = mask & subsets[:, None, :]
    return rows, mask


def label_weights(workload: Workload, rows: Tensor) -> Tensor | None:
    """Weights (..., rows, tasks) of the labels of rows, any where a row is -1; None where labels have none."""
    weights = workload.label_weights
    return None if weights is None else _take(weights, rows.clamp(min=0))


def _take(values: Tensor, rows: Tensor) -> Tensor:
    return values.index_select(0, rows.reshape(-1)).view(*rows.shape, values.shape[1])


class PartLosses:
    """Mean loss of each task on a part of the data, for any of the members.

    All members share one list of rows unless each needs few of them (one data set a task, many missing labels).

    Args:
        workload: tasks and data.
        part: "validation" or "test".
        subsets: the members' subsets.
        cells: how many (member, row) pairs are evaluated at once.
    """

    def __init__(self, workload: Workload, part: str, subsets: Sequence[tuple[int, ...]], cells: int) -> None:
        self._subsets = subsets
        self._cells = cells
        self._inside = inside(workload, subsets)
        union = sorted({task for subset in subsets for task in subset})
        self._rows = workload.rows_of(union, part)
        found = {subset: workload.rows_of(subset, part) for subset in set(subsets)}
        longest = max(len(rows) for rows in found.values())
        if longest < 0.6 * len(self._rows):
            own = [found[subset] for subset in subsets]
            self._rows = torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=-1)

    def __call__(self, architecture: Architecture, values: Values, members: np.ndarray) -> np.ndarray:
        """(members, tasks) mean losses; `values` holds the members of these numbers. NaN outside the subset."""
        chunk = max(1, self._cells // max(1, min(self._rows.shape[-1], 512)))
        if len(members) <= chunk:
            return self._chunk(architecture, values, members)
        parts: list[np.ndarray] = []
        for start in range(0, len(members), chunk):
            index = torch.arange(start, min(start + chunk, len(members)), device=self._rows.device)
            parts.append(self._chunk(architecture, values.select(index), members[start : start + chunk]))
        return np.concatenate(parts)

    def _chunk(self, architecture: Architecture, values: Values, members: np.ndarray) -> np.ndarray:
        n_tasks = architecture.workload.n_tasks
        total, count = np.zeros((len(members), n_tasks)), np.zeros((len(members), n_tasks))
        index = torch.from_numpy(members).to(self._rows.device)
        rows, subsets = self._rows if self._rows.dim() == 1 else self._rows[index], self._inside[index]
        architecture.train(False)
        with torch.no_grad():
            for block in rows.split(max(1, self._cells // len(members)), dim=-1):
                losses, mask = masked_losses(architecture, values, block, padded=rows.dim() == 2, subsets=subsets)
                total += losses.sum(1).cpu().double().numpy()
                count += mask.sum(-2).cpu().double().numpy()
        mean = np.full_like(total, np.nan)
        for position, member in enumerate(members):
            tasks = [task for task in self._subsets[member] if count[position, task]]
            mean[position, tasks] = total[position, tasks] / count[position, tasks]
        return mean


def inside(workload: Workload, subsets: Sequence[tuple[int, ...]]) -> Tensor:
    """(members, tasks) bool: which tasks are in which subset."""
    made = torch.zeros(len(subsets), workload.n_tasks, dtype=torch.bool, device=workload.labels.device)
    for member, subset in enumerate(subsets):
        made[member, list(subset)] = True
    return made
