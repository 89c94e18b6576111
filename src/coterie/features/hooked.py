"""Reverse mode by hooks: one ordinary forward and backward pass has the gradients of a whole batch.

Hooks keep what every layer with projected parameters reads, and catch the gradients that reach its outputs. Each layer
is projected as soon as the backward pass arrives there, so gradients of two layers are never held together, and the
directions of a layer are drawn once for all examples of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from coterie._progress import Progress
from coterie.features.directions import Directions, RandomDirections
from coterie.features.heads import HeadCapture
from coterie.features.layers import HooksUnsupportedError, LayerGradient, refuse_unsupported
from coterie.features.plan import FeaturePlan
from coterie.features.program import MarginProgram
from coterie.features.reverse import Jobs
from coterie.features.storage import Pairs

#: module -> {name of the parameter in the module: name in the model}
Taps = Mapping[nn.Module, Mapping[str, str]]
#: takes the name of a parameter and its gradients at one call of a module that owns it
Receive = Callable[[str, LayerGradient], None]

#: relative difference to ordinary differentiation that passes: of single precision on the CPU; where devices round
#: products to fewer bits; of half precision. An unsupported model is wrong by about 1.
_TOLERANCE, _DEVICE_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-3, 3e-2
#: parameters whose gradient is this much smaller than the largest hold rounding only
_FLOOR = 1e-3
#: a pair of a later batch may differ by this much more, and one in so many pairs is compared at the most
_LATER, _SPACED = 10.0, 32


class Hooks:
    """Gradients of a program by hooks on its model.

    Args:
        program: margins, with the parameters that are projected as arguments.

    Example:
        >>> from coterie.workload import Split, Task, Workload
        >>> n, net = torch.arange(4), nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> work = Workload("w", (Task("a"),), torch.randn(4, 3), torch.ones(4, 1), Split(n, n, n), lambda seed: net)
        >>> Hooks(MarginProgram(work, net, ["0.weight"])).check(n[:3])
    """

    def __init__(self, program: MarginProgram) -> None:
        self._program = program
        self._taps: Taps = {}
        #: how many rows of its tensors a layer has for each example, 0 where all share one; known from the check
        self._shares: dict[nn.Module, set[int]] = {}

    def check(self, rows: Tensor) -> None:
        """Compare the gradients of a few examples, taken together by hooks, with those of each example alone.

        The gradients are those of all labelled margins of an example, each with a weight of its own, so that the heads
        of all tasks are tried. Each parameter's are compared along one random direction. That finds parameters that
        are used elsewhere, layers whose tensors are ordered otherwise, and examples that influence one another.

        Args:
            rows: (n,) row numbers, at least two: one example alone would tell nothing.

        Raises:
            HooksUnsupportedError: they differ, or :meth:`backward` cannot be used.
        """
        program = self._program
        self._taps, self._shares = _owners(program), {}
        shapes = {name: tuple(value.shape) for name, value in program.parameters.items()}
        along = RandomDirections(shapes, 1)
        observed = program.workload.observed[rows]
        weights = torch.linspace(1.0, 2.0, observed.numel(), device=observed.device).reshape(observed.shape) * observed
        together = {name: torch.zeros(len(rows), dtype=torch.float64) for name in shapes}

        def receive(name: str, gradient: LayerGradient) -> None:
            together[name] += gradient.project(along.part(name, 0, 1))[:, 0].double().cpu()

        self._pass(rows, lambda margins: _weighted(margins, weights), receive, learn=True)
        alone = {name: torch.zeros(len(rows), dtype=torch.float64) for name in shapes}
        sizes = dict.fromkeys(shapes, 0.0)
        for index in range(len(rows)):
            found = _alone(program, rows[index : index + 1], weights[index : index + 1], along)
            for name, (product, size, _) in found.items():
                alone[name][index] = product
                sizes[name] = max(sizes[name], size)
        tolerance, floor = _tolerance(program.model), _FLOOR * max(sizes.values())
        for name, size in sizes.items():
            error = float((together[name] - alone[name]).abs().max())
            if not error <= tolerance * max(size, floor):
                raise HooksUnsupportedError(f"gradients of `{name}` by hooks differ from those of each example alone")

    def backward(self, rows: Tensor, tasks: Tensor, receive: Receive) -> Tensor:
        """Pass n (row, task) pairs through the model and back; hand over every layer's gradients on the way.

        The sum of the chosen margins is differentiated. Its gradient at an example's part of a layer's outputs is that
        of the example's own margin, since examples do not influence one another (see :meth:`check`, which comes first).

        Args:
            rows: (n,) row numbers.
            tasks: (n,) task of each.
            receive: called with the name of a parameter and its gradients, for each call of a module that owns it.

        Returns:
            The outputs of the model.

        Raises:
            HooksUnsupportedError: a layer is not called with one tensor, or the tensor does not divide over the
                examples as it did in the check.
        """
        return self._pass(rows, lambda margins: margins[torch.arange(len(rows), device=margins.device), tasks], receive)

    def _pass(
        self, rows: Tensor, choose: Callable[[Tensor], Tensor], receive: Receive, *, learn: bool = False
    ) -> Tensor:
        """See :meth:`backward`; `learn` notes how tensors divide over examples, instead of insisting on it."""
        program = self._program
        anchor = torch.zeros((), requires_grad=True)
        batch, targets = program.data(rows)
        with torch.enable_grad(), self._tapped(len(rows), anchor, receive, learn):
            outputs = program.workload.outputs(program.model, batch)
            total = choose(program.workload.margins(outputs, targets)).sum()
        if total.requires_grad:
            # towards the anchor, so that no gradient of a parameter is formed: only what leads to the layers' outputs
            torch.autograd.grad(total, anchor, allow_unused=True)
        return outputs.detach()

    def compute(self, jobs: Jobs, pairs: Pairs, plan: FeaturePlan, progress: Progress, capture: HeadCapture) -> None:
        """Write the features of all pairs to the writers; show the passes to `capture`. A row is passed once a label.

        One pair of every chunk is compared with the same pair alone: rows may mix that were not in the check.

        Raises:
            HooksUnsupportedError: a pair differs, or see :meth:`backward`; the writers may be partly written then.
        """
        owned = [frozenset(directions.names) for directions, _ in jobs]
        order = torch.argsort(pairs.local, stable=True)
        width, spaced = plan.directions_per_chunk, max(plan.rows_per_chunk, _SPACED)
        for start in range(0, pairs.count, plan.rows_per_chunk):
            index = order[start : start + plan.rows_per_chunk]
            local = pairs.local[index]
            totals = [local.new_zeros(len(local), each.count, dtype=self._program.dtype) for each, _ in jobs]

            def receive(name: str, gradient: LayerGradient, totals: list[Tensor] = totals) -> None:
                for (directions, _), names, total in zip(jobs, owned, totals, strict=True):
                    for first in range(0, directions.count if name in names else 0, width):
                        last = min(first + width, directions.count)
                        part = gradient.project(directions.part(name, first, last))
                        total[:, first:last] += part.to(total.device)

            with capture.listening():
                outputs = self.backward(pairs.rows[local], pairs.task[index], receive)
            if start % spaced < plan.rows_per_chunk:
                self._compare(jobs, pairs, index, totals)
            capture.take(local, outputs)
            for (_, writer), total in zip(jobs, totals, strict=True):
                writer.put(index, total, 0)
            progress("features", min(start + plan.rows_per_chunk, pairs.count), pairs.count)

    def _compare(self, jobs: Jobs, pairs: Pairs, index: Tensor, totals: Sequence[Tensor]) -> None:
        """The middle one of the pairs `index`, with features `totals`, alone and along the first of the directions."""
        if len(index) == 1:
            return
        program, at = self._program, len(index) // 2
        weights = nn.functional.one_hot(pairs.task[index[at]][None], program.workload.n_tasks)
        row = pairs.rows[pairs.local[index[at]]][None]
        for (directions, _), total in zip(jobs, totals, strict=True):
            alone = _alone(program, row, weights, directions).values()
            want, usual = (sum(each[number] for each in alone) for number in (0, 2))
            allowed = _LATER * _tolerance(program.model) * max(abs(want), usual)
            if not abs(float(total[at, 0]) - want) <= allowed:
                raise HooksUnsupportedError("features of a batch by hooks differ from those of an example alone")

    @contextmanager
    def _tapped(self, rows: int, anchor: Tensor, receive: Receive, learn: bool) -> Generator[None]:
        """Hooks on the modules that own the parameters, for one forward pass."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
            if len(args) != 1 or kwargs or not (isinstance(args[0], Tensor) and isinstance(output, Tensor)):
                raise HooksUnsupportedError(
                    f"a {type(module).__name__} with parameters takes or returns not one tensor"
                )
            inputs = args[0].detach()
            self._count(module, inputs, rows, learn)
            if rows > 1 and len(inputs) == len(output) == 1:
                # what all examples share (embedded positions) gets a gradient for each
                inputs, output = (value.expand(rows, *value.shape[1:]) for value in (inputs, output))

            def catch(kept: Tensor, slopes: Tensor) -> None:
                for attribute, name in self._taps[module].items():
                    receive(name, LayerGradient(module, attribute, kept, slopes, rows, self._program.dtype))

            return _Catch.apply(output, anchor, inputs, catch)  # pyright: ignore[reportReturnType]

        handles = [module.register_forward_hook(hook, prepend=True, with_kwargs=True) for module in self._taps]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, module: nn.Module, inputs: Tensor, rows: int, learn: bool) -> None:
        """Refuse tensors that divide over the examples otherwise than in the check (parts picked out by the data)."""
        if rows == 1:  # all that there is belongs to the one example
            return
        length = inputs.shape[0] if inputs.dim() else 0
        share = 0 if length == 1 else length / rows
        known = self._shares.setdefault(module, set())
        if not length or share != int(share) or not (learn or share in known):
            raise HooksUnsupportedError(f"a {type(module).__name__} has {tuple(inputs.shape)} for {rows} examples")
        known.add(int(share))


def _owners(program: MarginProgram) -> Taps:
    """The modules that own the parameters of a program; a shared tensor has several."""
    known = dict(program.model.named_parameters())
    wanted = {id(known[name]): name for name in program.parameters}
    taps: dict[nn.Module, dict[str, str]] = {}
    for label, module in program.model.named_modules():
        own = {attribute: wanted[id(p)] for attribute, p in module._parameters.items() if id(p) in wanted}
        if own:
            refuse_unsupported(module, label or "the model")
            taps[module] = own
    return taps


def _weighted(margins: Tensor, weights: Tensor) -> Tensor:
    """Margins times weights; where that is 0, nothing that is infinite comes through."""
    return torch.where(weights != 0, margins * weights, 0.0)


def _alone(
    program: MarginProgram, row: Tensor, weights: Tensor, along: Directions
) -> dict[str, tuple[float, float, float]]:
    """The weighted margins of one example by ordinary differentiation.

    Gradients are let go one by one, so that no two are held.

    Returns:
        For the parameters that `along` moves: scalar product with its first direction, norm of the gradient, and the
        scalar product that is usual for such norms.
    """
    found: dict[str, tuple[float, float, float]] = {}
    parameters = {name: value.detach().requires_grad_() for name, value in program.parameters.items()}
    chosen = {name: parameters[name] for name in along.names}

    def taker(name: str) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            if parameter.grad is None:
                return
            flat = parameter.grad.reshape(-1).to(torch.promote_types(parameter.dtype, torch.float32))
            parameter.grad = None
            direction = along.part(name, 0, 1).reshape(-1).to(flat.device, flat.dtype)
            size = float(flat.norm())
            usual = size * float(direction.norm()) / max(1, flat.numel()) ** 0.5
            found[name] = float(flat @ direction), size, usual

        return take

    for name, parameter in chosen.items():
        parameter.register_post_accumulate_grad_hook(taker(name))
    with torch.enable_grad():
        total = _weighted(program.margins(parameters, *program.data(row)), weights).sum()
    if total.requires_grad:
        torch.autograd.backward(total, inputs=list(chosen.values()))
    return found


def _tolerance(model: nn.Module) -> float:
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if kinds - {torch.float32, torch.float64}:
        return _HALF_TOLERANCE
    return _TOLERANCE if all(p.device.type == "cpu" for p in model.parameters()) else _DEVICE_TOLERANCE


class _Catch(torch.autograd.Function):
    """Identity that hands over the gradient of its output.

    A copy, not the tensor itself: what comes after the layer may work in place (``nn.ReLU(inplace=True)``), and the
    gradient must be that of the layer's own output.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, inputs: Tensor, receive: Callable[..., None]) -> Tensor:
        del anchor
        ctx.save_for_backward(inputs)  # which also notices when the inputs are changed in place meanwhile
        ctx.receive = receive
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        ctx.receive(inputs, slopes[0])
        return slopes[0], None, None, None
