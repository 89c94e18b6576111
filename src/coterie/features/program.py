"""A workload's margins as a pure function of the model's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from coterie.errors import ModelError, SettingError
from coterie.workload.workload import Batch, Workload


class _Margins(nn.Module):
    """Model and margins in one module, so that ``functional_call`` also reaches models behind a user's `forward`."""

    def __init__(self, workload: Workload, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._workload = (workload,)  # in a tuple: a plain attribute, whatever a workload holds

    def forward(self, batch: Batch, targets: Tensor) -> Tensor:
        """Margins (rows, tasks)."""
        return self._workload[0].margins(self._workload[0].outputs(self.model, batch), targets)


class MarginProgram:
    """Margins (rows, tasks) of a workload under a model, with some of its parameters as arguments.

    Args:
        workload: tasks and data.
        model: the module; its parameters are read once and never changed.
        names: the parameters that are arguments.
    """

    def __init__(self, workload: Workload, model: nn.Module, names: Sequence[str]) -> None:
        known = dict(model.named_parameters())
        missing = [name for name in names if name not in known]
        if missing:
            raise SettingError(
                f"Parameter `directions` names parameters that the model does not have: {missing[:5]}. "
                "Use names of model.named_parameters(); a shared tensor goes by the first of its names."
            )
        refuse_complex({name: known[name] for name in names})
        self.workload = workload
        self.model = model
        self.parameters = {name: known[name].detach() for name in names}
        self.recurrent = any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in model.modules())
        self._wrapper = _Margins(workload, model)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers of the features: double for double models, else single."""
        double = any(value.dtype == torch.float64 for value in self.parameters.values())
        return torch.float64 if double else torch.float32

    def margins(self, parameters: Mapping[str, Tensor], batch: Batch, targets: Tensor) -> Tensor:
        """Margins (rows, tasks) with `parameters` in the place of the model's own."""
        moved = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(self._wrapper, moved, (batch, targets))

    def data(self, rows: Tensor) -> tuple[Batch, Tensor]:
        """Inputs and targets of rows."""
        return self.workload.batch(rows), self.workload.targets[rows].to(self.dtype)

    def tangents(self, chunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Directions on the device and in the type of the parameters they move."""
        return {name: chunk[name].to(value.device, value.dtype) for name, value in self.parameters.items()}


def refuse_complex(parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters along which no features can be computed.

    Raises:
        ModelError: when one is complex.
    """
    odd = [name for name, value in parameters.items() if value.is_complex()]
    if odd:
        raise ModelError(
            f"Gradients of single examples need real parameters. Found complex ones: {', '.join(odd[:5])}. Keep them "
            "as pairs of real numbers and use torch.view_as_complex in forward, or choose a method that takes no such "
            "gradients: secants, tag, cosine or kernel-surrogate, for example."
        )


def example(batch: Batch) -> Batch:
    """One example as a batch of one: for use inside vmap."""
    if isinstance(batch, Mapping):
        items: Any = batch.items()
        return {name: value[None] for name, value in items}
    return batch[None]
