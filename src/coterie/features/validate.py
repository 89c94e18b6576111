"""Comparing fast gradients with a plain loop, and naming the module at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from coterie._context import Context
from coterie._process_lock import process_lock
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import GradientMismatchError, SettingError
from coterie.features.directions import Directions, RandomDirections
from coterie.features.features import FeatureOptions, compute_features
from coterie.workload.workload import Split, Workload


@short_repr
@dataclass(frozen=True)
class GradientReport:
    """What a comparison with the plain loop found.

    Attributes:
        mode: the mode that was compared.
        batched: whether directions (or examples) went through the model together.
        examples: rows that were compared.
        tolerance: largest relative difference that passes.
        worst: largest relative difference found.
        modules: (module, relative difference) for every module with parameters, in the order of the model.
    """

    mode: str
    batched: bool
    examples: int
    tolerance: float
    worst: float
    modules: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return asdict(self)


class _BlockDirections(Directions):
    """Each module alone, `repeats` random directions a module: differences show where they come from."""

    def __init__(self, blocks: Sequence[Mapping[str, tuple[int, ...]]], repeats: int, seed: int) -> None:
        self._blocks = [RandomDirections(block, repeats, seed) for block in blocks]
        self._repeats = repeats

    @property
    def count(self) -> int:
        return self._repeats * len(self._blocks)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for block in self._blocks for name, shape in block.shapes.items()}

    def chunk(self, start: int, stop: int) -> dict[str, Tensor]:
        result = {name: torch.zeros(stop - start, *shape) for name, shape in self.shapes.items()}
        for index in range(start, stop):
            block, repeat = divmod(index, self._repeats)
            for name, value in self._blocks[block].chunk(repeat, repeat + 1).items():
                result[name][index - start] = value[0]
        return result


@known_arguments
def validate_gradients(
    workload: Workload,
    model: nn.Module | None = None,
    examples: int = 4,
    *,
    mode: str = "auto",
    part: str = "train",
    tolerance: float = 1e-3,
    repeats: int = 2,
    seed: int = 0,
    memory: int = 2**30,
) -> GradientReport:
    """Compare the gradients that :func:`compute_features` uses with a plain loop, module by module.

    The loop is ``torch.autograd.grad`` for each example and task, with none of the library's switches. Every module
    with parameters gets directions of its own, so that a difference names its module.

    Args:
        workload: tasks and data.
        model: the module; by default a fresh one, ``workload.build_model(0)``.
        examples: rows to compare.
        mode: ``"auto"``, ``"forward"`` or ``"reverse"``.
        part: which rows.
        tolerance: relative difference that passes (single precision gives about 1e-6).
        repeats: random directions a module.
        seed: of the directions.
        memory: as in :func:`compute_features`.

    Raises:
        GradientMismatchError: a module's gradients differ; the message names it.

    Cost:
        `repeats` x modules directional derivatives and `examples` x tasks backward passes.
    """
    if examples < 1 or repeats < 1:
        raise SettingError(f"`examples` and `repeats` should be at least 1. Found {examples} and {repeats}.")
    model = workload.build_model(0).to(workload.labels.device) if model is None else model
    rows = workload.rows_of(range(workload.n_tasks), part)[:examples]
    small = replace(workload, split=Split(rows, rows, rows))
    blocks = _blocks(model)
    directions = _BlockDirections(list(blocks.values()), repeats, seed)
    fast = compute_features(
        small, model, directions, FeatureOptions(heads="projected", mode=mode), Context(memory=memory)
    )
    plain = _plain_loop(small, model, fast.rows, fast.starts, directions)
    fast_values = fast.g.cpu().double().reshape(-1, len(blocks), repeats)
    plain_values = plain.reshape(-1, len(blocks), repeats)
    # relative to the module's own size, but not below a thousandth of the whole: tiny blocks are all rounding
    scale = plain_values.abs().amax((0, 2))
    floor = 1e-3 * float(scale.max()) + 1e-30
    errors = ((fast_values - plain_values).abs().amax((0, 2)) / scale.clamp_min(floor)).tolist()
    modules = tuple(zip(blocks, errors, strict=True))
    report = GradientReport(fast.plan.mode, fast.plan.batched, len(rows), tolerance, max(errors), modules)
    if not report.worst <= tolerance:
        raise GradientMismatchError(_complaint(small, model, report))
    return report


def _blocks(model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
    """module -> its own parameters and their shapes."""
    blocks: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            blocks.setdefault(name.rpartition(".")[0] or "the model", {})[name] = tuple(parameter.shape)
    return blocks


def _plain_loop(workload: Workload, model: nn.Module, rows: Tensor, starts: Tensor, directions: Directions) -> Tensor:
    """(N, d) by ordinary differentiation of an ordinary forward pass in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    parameters = {name: p for name, p in model.named_parameters() if name in directions.shapes}
    chunk = directions.chunk(0, directions.count)
    result = torch.zeros(len(rows), directions.count, dtype=torch.float64)
    model.eval()
    try:
        for task in range(workload.n_tasks):
            for pair in range(int(starts[task]), int(starts[task + 1])):
                row = rows[pair : pair + 1]
                with torch.enable_grad(), process_lock, torch.backends.cudnn.flags(enabled=False):
                    outputs = workload.outputs(model, workload.batch(row))
                    margins = workload.margins(outputs, workload.targets[row].to(outputs.dtype))
                    grads = torch.autograd.grad(margins[0, task], list(parameters.values()), allow_unused=True)
                for name, grad in zip(parameters, grads, strict=True):
                    if grad is not None:  # pyright: ignore[reportUnnecessaryComparison] - allow_unused gives None
                        flat = chunk[name].reshape(directions.count, -1).double()
                        result[pair] += flat @ grad.reshape(-1).cpu().double()
    finally:
        for module, training in modes:
            module.training = training
    return result


def _complaint(workload: Workload, model: nn.Module, report: GradientReport) -> str:
    """Name the last wrong module in the order of execution, and what runs between it and the next right one."""
    errors = dict(report.modules)
    order = _execution_order(workload, model)
    known = [name for name in order if name in errors] or list(errors)
    wrong = [name for name in known if not errors[name] <= report.tolerance] or [max(errors, key=lambda n: errors[n])]
    last = wrong[-1]
    kinds = {name or "the model": type(module).__name__ for name, module in model.named_modules()}
    after = order[order.index(last) + 1 :] if last in order else []
    between: list[str] = []
    for name in after:
        if name in errors:
            break
        between.append(f"`{name}` ({kinds[name]})")
    where = f"`{last}` ({kinds.get(last, 'module')})"
    if between:
        where += f" or what runs after it: {', '.join(between[:4])}"
    listed = ", ".join(f"`{name}` {errors[name]:.1e}" for name in wrong[-4:])
    return (
        f"The gradients of {report.mode} mode differ from a plain autograd loop by {report.worst:.1e} (tolerance "
        f"{report.tolerance:.0e}) on {report.examples} examples. At fault: {where}. Differing modules: {listed}. "
        "Likely causes: an autograd.Function whose jvp disagrees with its backward, a module that changes its "
        "state or draws random numbers in evaluation mode, or rows that influence one another. "
        "Way out: mode='reverse', or mend the module."
    )


def _execution_order(workload: Workload, model: nn.Module) -> list[str]:
    """Modules that run something of their own (leaves, and those with parameters), in the order of finishing."""
    own = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    order: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        if name in own or not any(True for _ in module.children()):
            label = name or "the model"
            hooks.append(module.register_forward_hook(lambda *_, label=label: order.append(label)))
    try:
        with torch.no_grad():
            workload.outputs(model, workload.batch(workload.split.train[:1]))
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))
