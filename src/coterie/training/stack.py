"""Many models of one architecture as one set of stacked tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from coterie._process_lock import process_lock
from coterie._random import random_numbers, seed_numbers
from coterie.errors import CoterieError, ModelError, SettingError
from coterie.training.job import Job, State
from coterie.training.optimizer import reason_of_recipe
from coterie.workload.initial import check_kept, numbers_of
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

    def stack(self, jobs: Sequence[Job]) -> Values:
        """Start values of the members of some jobs.

        Raises:
            SettingError: when a start state does not fit the model.
        """
        built: dict[int, State] = {}
        for job in jobs:
            if job.seed not in built:
                built[job.seed] = _tensors(self.workload.build_model(job.seed), self.workload.labels.device)
        own, kept = dict(self.model.named_buffers()), set(self.names.values())
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


def _tensors(model: nn.Module, device: torch.device) -> State:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach().to(device) for name, value in named.items()}


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Names in ``state_dict`` -> the first name of the same tensor."""
    first: dict[int, str] = {}
    every: dict[str, str] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, value in named:
            every[name] = first.setdefault(id(value), name)
    return {key: every[key] for key in model.state_dict() if key in every}


_CACHE: WeakKeyDictionary[Workload, tuple[bool, str]] = WeakKeyDictionary()
_ROWS = 6


def is_stackable(workload: Workload) -> tuple[bool, str]:
    """Whether population training gives what the plain loop gives, and why not.

    A recipe may need the plain loop (:func:`coterie.training.optimizer.reason_of_recipe`). The rest is found by trying
    it on a few rows: a model with dropout or other randomness in training, with statistics that change
    in training (BatchNorm), with rows that influence each other, or with an operation that vmap cannot stack is not
    stackable. Remembered for each workload.

    Returns:
        (True, "") or (False, the reason).
    """
    if workload not in _CACHE:
        device = workload.labels.device
        with random_numbers(device):
            reason = _reason(workload)
        _CACHE[workload] = (not reason, reason)
    return _CACHE[workload]


def _reason(workload: Workload) -> str:
    train = workload.split.train
    batch = workload.batch(train[torch.arange(_ROWS, device=train.device) % len(train)])
    model = workload.build_model(0).to(workload.labels.device).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reason = reason_of_recipe(workload.recipe, trained) or _reason_of_modules(model)
    return reason or _reason_of_passes(workload, model, batch) or _reason_of_vmap(workload, batch)


def _reason_of_modules(model: nn.Module) -> str:
    for name, module in model.named_modules():
        label = f"{type(module).__name__} ({name or 'the model itself'})"
        if isinstance(module, nn.modules.batchnorm._NormBase) and (module.track_running_stats or _mixes_rows(module)):
            return f"{label} keeps or uses statistics of the batch in training"
        rate = getattr(module, "p", getattr(module, "dropout", 0.0))
        random = isinstance(module, nn.modules.dropout._DropoutNd | nn.RNNBase | nn.MultiheadAttention)
        if random and isinstance(rate, float) and rate > 0:
            return f"{label} is random in training"
    return ""


def _mixes_rows(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _reason_of_passes(workload: Workload, model: nn.Module, batch: Batch) -> str:
    """Randomness, changing buffers and rows that influence each other, in modules that no list knows."""
    before, numbers = {name: value.clone() for name, value in model.named_buffers()}, numbers_of(model)
    results: list[Tensor] = []
    try:
        with torch.no_grad():
            for seed in (0, 1):
                seed_numbers(seed, workload.labels.device)
                results.append(workload.outputs(model, batch))
            half = workload.outputs(model, _head(batch, _ROWS // 2))
    except CoterieError:
        raise
    except Exception as error:
        return f"a pass over {_ROWS} rows fails with {_first_line(error)}"
    for name, value in model.named_buffers():
        if not torch.equal(value, before[name]):
            return f"the buffer {name!r} changes in training"
    for name, value in numbers_of(model).items():
        if value != numbers.get(name, value) and value == value:  # NaN is never itself
            return f"the attribute {name!r} changes in training"
    try:
        check_kept(workload, model, "after passes in training mode")
    except ModelError:
        return "what a pass in training mode changes is no part of the state_dict"
    if not torch.equal(results[0], results[1]):
        return "two training passes over the same rows differ (dropout or other randomness)"
    if not _close(half, results[0][: _ROWS // 2]):
        return "the outputs of a row depend on the other rows of the batch"
    return ""


def _reason_of_vmap(workload: Workload, batch: Batch) -> str:
    try:
        architecture = Architecture(workload)
        values = architecture.stack([Job((0,), 0), Job((0,), 1)])
        for shared in (True, False):
            stacked = batch if shared else _twice(batch)
            architecture.train(False)
            with torch.no_grad():
                evaluated = architecture.outputs(values, stacked, shared=shared)
            architecture.train(True)
            outputs = architecture.outputs(values, stacked, shared=shared)
            for seed in (0, 1):
                if not _member_agrees(workload, seed, batch, outputs[seed], evaluated[seed], values):
                    return "vmap over stacked parameters gives other outputs or gradients than one model alone"
    except CoterieError:
        raise
    except Exception as error:
        return f"vmap over stacked parameters fails with {_first_line(error)}"
    return ""


def _member_agrees(
    workload: Workload, seed: int, batch: Batch, outputs: Tensor, evaluated: Tensor, values: Values
) -> bool:
    model = workload.build_model(seed).to(workload.labels.device)
    with torch.no_grad():
        alone_evaluated = workload.outputs(model.eval(), batch)
    alone = workload.outputs(model.train(), batch)
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    weights = torch.linspace(0.5, 1.5, alone.numel(), device=alone.device, dtype=alone.dtype).view_as(alone)
    stacked = [values.trained[name] for name in named]
    expected = _gradients((alone * weights).sum(), list(named.values()))
    found = _gradients((outputs * weights).sum(), stacked)
    if not (_close(outputs, alone) and _close(evaluated, alone_evaluated)):
        return False
    # one scale for all: gradients that are 0 but for rounding (the bias of an attention's keys) have none of their own
    scale = max((float(b.abs().max()) for b in expected if b is not None), default=0.0)
    pairs = zip(found, expected, strict=True)
    return all((a is None) == (b is None) and (a is None or b is None or _close(a[seed], b, scale)) for a, b in pairs)


def _gradients(value: Tensor, parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not parameters:
        return ()
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return cast("tuple[Tensor | None, ...]", found)


def _close(a: Tensor, b: Tensor, scale: float | None = None) -> bool:
    a, b = a.detach(), b.detach()
    scale = float(b.abs().max()) if scale is None else scale
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * scale + 1e-7))


def _head(batch: Batch, rows: int) -> Batch:
    return {name: value[:rows] for name, value in batch.items()} if isinstance(batch, dict) else batch[:rows]


def _twice(batch: Batch) -> Batch:
    if isinstance(batch, dict):
        return {name: torch.stack([value, value]) for name, value in batch.items()}
    return torch.stack([batch, batch])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line[:160]}"


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
    real = rows >= 0 if padded else None
    rows = rows.clamp(min=0) if padded else rows
    targets = _take(workload.targets, rows)
    mask = _take(workload.observed, rows)
    if real is not None:
        mask = mask & real[..., None]
    if subsets is not None:
        mask = mask & subsets[:, None, :]
    outputs = architecture.outputs(values, workload.batch(rows), shared=rows.dim() == 1)
    losses = workload.losses(workload.margins(outputs, targets), targets)
    return torch.where(mask, losses, torch.zeros((), dtype=losses.dtype, device=losses.device)), mask


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
        rows = self._rows if self._rows.dim() == 1 else self._rows[torch.from_numpy(members).to(self._rows.device)]
        architecture.train(False)
        with torch.no_grad():
            for block in rows.split(max(1, self._cells // len(members)), dim=-1):
                losses, mask = masked_losses(architecture, values, block, padded=rows.dim() == 2)
                total += losses.sum(1).cpu().double().numpy()
                count += mask.sum(-2).cpu().double().numpy()
        mean = np.full_like(total, np.nan)
        for position, member in enumerate(members):
            tasks = [task for task in self._subsets[member] if count[position, task]]
            mean[position, tasks] = total[position, tasks] / count[position, tasks]
        return mean
