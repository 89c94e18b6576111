"""Many models of one architecture as one set of stacked tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from coterie.errors import SettingError
from coterie.training.job import Job, State
from coterie.training.kernels import open_kernels
from coterie.workload.workload import Batch, Workload


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
