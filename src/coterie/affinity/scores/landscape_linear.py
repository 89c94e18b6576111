"""Per-example gradients of linear layers as outer products: one ordinary backward pass for many examples and tasks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coterie.workload import Workload

#: of the largest entry, by which two ways of taking a gradient may differ
_TOLERANCE = 1e-4


class LinearTrunk:
    """A trunk of linear layers that each read one vector an example.

    The gradient of a loss at one example with respect to a layer's weight is ``delta x^T``, with x what the layer reads
    and delta the gradient with respect to what it returns. So the L1 distance of two tasks at the same example is
    ``|delta_a - delta_b|_1 |x|_1``: as many numbers as the layer has outputs, in place of outputs times inputs.

    Args:
        workload: tasks and data.
        model: in evaluation mode.
        names: the trunk's parameters, all of them weights and biases of linear layers; see :meth:`find`.
    """

    def __init__(self, workload: Workload, model: nn.Module, names: tuple[str, ...]) -> None:
        self._workload, self._model = workload, model
        self._parts = [name.rpartition(".")[::2] for name in names]
        self._modules = tuple(dict.fromkeys(module for module, _ in self._parts))
        #: numbers that are left of each parameter
        self.widths: list[int] = [len(model.get_parameter(name)) for name in names]

    @staticmethod
    def find(
        workload: Workload, model: nn.Module, names: tuple[str, ...], trial: Tensor, expected: Callable[[], Tensor]
    ) -> LinearTrunk | None:
        """The trunk as linear layers, or None when it is something else.

        Args:
            workload: tasks and data.
            model: in evaluation mode.
            names: the trunk's parameters.
            trial: a few row numbers with a label of task 0.
            expected: gives the gradients (rows, p) of the loss of task 0 there, found in another way.
        """
        for name in names:
            module, _, kind = name.rpartition(".")
            if kind not in ("weight", "bias") or not isinstance(model.get_submodule(module), nn.Linear):
                return None
        made = LinearTrunk(workload, model, names)
        found = made.gradients(trial, torch.zeros_like(trial))
        if found is None:
            return None
        wanted = expected()
        close = float((found[0] - wanted).abs().max()) <= _TOLERANCE * float(wanted.abs().max())
        return made if close else None

    def gradients(self, rows: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor] | None:
        """Gradients of the losses of n (row, task) pairs, and what is left of them for distances at the same row.

        Returns:
            (n, p), and (n, sum of widths), whose L1 distances between tasks at the same row are the same; None when a
            layer does not read one vector an example, once.
        """
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._modules}
        hooks = [self._model.get_submodule(name).register_forward_hook(_recorder(seen[name])) for name in self._modules]
        try:
            with torch.enable_grad():
                outputs = self._workload.outputs(self._model, self._workload.batch(rows))
                targets = self._workload.targets[rows].to(outputs.dtype)
                losses = self._workload.losses(self._workload.margins(outputs, targets), targets)
                total = losses.gather(1, tasks[:, None]).sum()
                if any(len(calls) != 1 or calls[0][0].dim() != 2 for calls in seen.values()):
                    return None
                found = torch.autograd.grad(total, [calls[0][1] for calls in seen.values()], materialize_grads=True)
        finally:
            for hook in hooks:
                hook.remove()
        inputs = {name: calls[0][0].detach() for name, calls in seen.items()}
        if any(len(value) != len(rows) for value in inputs.values()):
            return None
        deltas = dict(zip(self._modules, found, strict=True))
        whole, narrow = [], []
        for module, kind in self._parts:
            delta, x = deltas[module], inputs[module]
            whole.append((delta[:, :, None] * x[:, None]).flatten(1) if kind == "weight" else delta)
            narrow.append(delta * x.abs().sum(1, keepdim=True) if kind == "weight" else delta)
        return torch.cat(whole, 1), torch.cat(narrow, 1)


def _recorder(calls: list[tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        del module
        calls.append((args[0], output))

    return record
