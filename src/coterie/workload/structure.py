"""Which parameters tasks share, and which belong to one task only.

A parameter that reaches exactly one task's margin is that task's head; one that reaches two or more is trunk. "Reaches"
is found by differentiation: the gradient of each task's margins on a few real rows. The values of the parameters must
not matter (a dead unit or a gate that starts at zero hides what lies behind it), so they are disturbed on a copy, and
disturbed more and more often where a task is computed from parameters that its gradient did not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie._process_lock import process_lock
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import ModelError, WorkloadError
from coterie.workload.initial import copied
from coterie.workload.validate_model import Slices, dependents
from coterie.workload.workload import Workload

#: rows that are looked at unless the caller says which
_ROWS = 32
#: disturbed copies of the model that are looked at, and of how many more where something may be hidden
_DRAWS, _MORE_DRAWS = 2, 8

Rows = tuple[int, ...]


@known_arguments
@dataclass(frozen=True)
class HeadSpec:
    """The parameters of one task.

    Attributes:
        parameters: (name, rows of the tensor, or None for the whole tensor); weight before bias.
        module: qualified name of the ``nn.Linear`` whose outputs are the task's outputs; None when there is none.
        rows: its output rows, in the order of the task's outputs.
        linear: the task's outputs are ``representation @ W[rows].T + b[rows]``, and that is the only way in which the
            task's own parameters act (checked numerically).
    """

    parameters: tuple[tuple[str, Rows | None], ...]
    module: str | None = None
    rows: Rows = ()
    linear: bool = False


@short_repr
@dataclass(frozen=True)
class Structure:
    """How the trained parameters of a model divide over the tasks.

    Attributes:
        trunk: names of parameters that reach two or more tasks.
        heads: one a task.
        unused: names of parameters that reach no task.
    """

    trunk: tuple[str, ...]
    heads: tuple[HeadSpec, ...]
    unused: tuple[str, ...]

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of tensors that belong to heads, each once."""
        return tuple(dict.fromkeys(name for head in self.heads for name, _ in head.parameters))


def find_structure(workload: Workload, model: nn.Module, rows: Tensor | None = None) -> Structure:
    """Trunk and heads of a model, from the gradients of each task's margins on a few training rows.

    Frozen parameters (``requires_grad=False``) appear nowhere. A tensor whose rows (first dimension) are each reached
    by at most one task, as in one ``nn.Linear`` with an output a task, is divided row by row. ``Task.head`` overrides
    what is found. The model is not changed.

    Args:
        workload: tasks and data.
        model: the module.
        rows: row numbers to look at; by default 32 training rows.

    Raises:
        WorkloadError: a task reaches no parameter, the tasks share none, or ``Task.head`` does not fit the model.
        ModelError: the model's outputs cannot be differentiated.

    Cost:
        Two forward passes over the rows, and about three backward passes and a forward pass a task.

    Example:
        >>> from coterie.workload import Split, Task
        >>> n = torch.arange(8)
        >>> tasks, x, y = (Task("a"), Task("b")), torch.randn(8, 3), torch.ones(8, 2)
        >>> work = Workload("w", tasks, x, y, Split(n, n, n), lambda seed: net)
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> found = find_structure(work, net)
        >>> found.trunk, found.heads[1].parameters
        (('0.weight', '0.bias'), (('2.weight', (1,)), ('2.bias', (1,))))
    """
    if rows is None:
        train = workload.split.train
        rows = train[torch.linspace(0, len(train) - 1, min(_ROWS, len(train))).long()]
    reach = _reach(workload, model, rows)
    _check_every_task_reaches(workload, reach)
    owned = _by_hand(workload, reach)
    trunk, unused = [], []
    for name, hits in reach.items():
        if any(name in own for own in owned):
            continue
        tasks = hits.any(1).nonzero().flatten().tolist()
        if not tasks:
            unused.append(name)
        elif len(tasks) == 1:
            owned[tasks[0]][name] = None
        elif hits.shape[1] > 1 and int(hits.sum(0).max()) <= 1:
            for task in tasks:
                owned[task][name] = tuple(hits[task].nonzero().flatten().tolist())
        else:
            trunk.append(name)
    if not trunk:
        raise WorkloadError(
            f"The {workload.n_tasks} tasks share no trained parameter: every parameter of the model reaches one task "
            "only, so training tasks together changes nothing. Give a model with a shared trunk, or unfreeze it."
        )
    return Structure(tuple(trunk), _heads(workload, model, rows, owned), tuple(unused))


def _disturbed(model: nn.Module, seed: int, size: float = 0.1) -> nn.Module:
    """A copy with noise in its parameters: `size` times the root mean square of each."""
    probe = copied(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in probe.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                spread = size * float(parameter.abs().square().mean().sqrt()) if parameter.numel() else 0.0
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += (noise * (spread + 0.01)).to(parameter.device, parameter.dtype)
    return probe


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise WorkloadError("The model has no trained parameter: all have requires_grad=False, or there is none.")
    return parameters


def _weighted_margins(workload: Workload, outputs: Tensor, rows: Tensor) -> Tensor:
    """Sum over the rows of each task's margins, with uneven weights so that nothing cancels: (tasks,)."""
    margins = workload.margins(outputs, workload.targets[rows].to(outputs.dtype))
    weights = torch.linspace(0.5, 1.5, len(rows), dtype=margins.dtype, device=margins.device)
    return weights @ margins


def _reach(workload: Workload, model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    """name -> (tasks, rows of the tensor) bool: does the margin of the task depend on the row of the tensor?"""
    hits = {
        name: torch.zeros(workload.n_tasks, p.shape[0] if p.dim() else 1, dtype=torch.bool)
        for name, p in _trained(model).items()
    }
    everyone = range(workload.n_tasks)
    for seed in range(_DRAWS):
        _look(workload, _disturbed(model, seed), rows, everyone, hits)
    for seed in range(_DRAWS, _DRAWS + _MORE_DRAWS):
        hidden = _hidden(workload, model, rows, hits)
        if not hidden:
            break
        _look(workload, _disturbed(model, seed, 1.0), rows, hidden, hits)
    return hits


def _look(workload: Workload, probe: nn.Module, rows: Tensor, tasks: Iterable[int], hits: dict[str, Tensor]) -> None:
    """Note what the gradients of some tasks reach."""
    parameters = _trained(probe)
    with torch.enable_grad(), process_lock, torch.backends.cudnn.flags(enabled=False):
        totals = _weighted_margins(workload, workload.outputs(probe, workload.batch(rows)), rows)
        if not totals.requires_grad:
            raise ModelError(
                "The model's outputs do not depend on any trained parameter. Look for .detach(), .item(), numpy or "
                "torch.no_grad() between the parameters and the outputs (or in `forward`)."
            )
        for task in tasks:
            grads = _gradients(totals[task], list(parameters.values()))
            for name, grad in zip(parameters, grads, strict=True):
                if grad is not None:
                    hits[name][task] |= (grad.reshape(hits[name].shape[1], -1) != 0).any(1).cpu()


def _hidden(workload: Workload, model: nn.Module, rows: Tensor, hits: dict[str, Tensor]) -> list[int]:
    """Tasks that are computed from what was seen to reach one other task only, or none."""
    probe, batch = _disturbed(model, 0), workload.batch(rows)
    seen = {name: found.sum(0) for name, found in hits.items()}
    hidden = torch.zeros(workload.n_tasks, dtype=torch.bool)
    for task in [None, *range(workload.n_tasks)]:
        chosen = {
            name: seen[name] == 0 if task is None else (seen[name] == 1) & found[task] for name, found in hits.items()
        }
        if task is None:  # rows of a shared tensor that reach nothing do no harm
            chosen = {name: rows_of for name, rows_of in chosen.items() if bool(rows_of.all())}
        slices: list[Slices] = [
            (name, 0, rows_of.nonzero().flatten() if probe.get_parameter(name).dim() else None)
            for name, rows_of in chosen.items()
            if bool(rows_of.any())
        ]
        if slices:
            lost = torch.from_numpy(dependents(workload, probe, batch, slices))
            if task is not None:
                lost[task] = False
            hidden |= lost
    return hidden.nonzero().flatten().tolist()


def _gradients(total: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if not total.requires_grad:
        return (None,) * len(parameters)
    return torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)


def _check_every_task_reaches(workload: Workload, reach: dict[str, Tensor]) -> None:
    reached = torch.stack([hits.any(1) for hits in reach.values()]).any(0)
    lost = [workload.task_names[task] for task in (~reached).nonzero().flatten().tolist()]
    if lost:
        raise WorkloadError(
            f"The outputs of the tasks {lost[:5]} depend on no trained parameter, so they cannot be learnt. "
            "Check that the output columns are in the order of the tasks; look for .detach() or a constant output."
        )


def _by_hand(workload: Workload, reach: dict[str, Tensor]) -> list[dict[str, Rows | None]]:
    """What ``Task.head`` says, tensor by tensor: task -> {name: rows}."""
    owned: list[dict[str, Rows | None]] = [{} for _ in workload.tasks]
    for task, spec in enumerate(workload.tasks):
        for prefix in spec.head:
            for name in _matching(spec.name, prefix, list(reach)):
                owned[task][name] = None
    for name, hits in reach.items():
        claimed = [task for task, own in enumerate(owned) if name in own]
        others = [task for task in hits.any(1).nonzero().flatten().tolist() if task not in claimed]
        divided = len(claimed) > 1 or (bool(claimed) and bool(others))
        if divided and int(hits.sum(0).max()) > 1:
            names = [workload.task_names[task] for task in (claimed + others)[:4]]
            raise WorkloadError(
                f"Task {workload.task_names[claimed[0]]!r} names `{name}` as its own head (Task.head), but several "
                f"tasks use the same numbers of it: {names}. Take it out of `head`; what tasks share is trunk."
            )
        if divided:
            for task in claimed + others:
                owned[task][name] = tuple(hits[task].nonzero().flatten().tolist())
    return owned


def _matching(task: str, prefix: str, names: list[str]) -> list[str]:
    """Names equal to the prefix or below it; only if there are none, names that start with the same letters."""
    below = [name for name in names if name == prefix or name.startswith(prefix.rstrip(".") + ".")]
    found = below or [name for name in names if name.startswith(prefix)]
    if not found:
        raise WorkloadError(
            f"Task {task!r} names {prefix!r} as (part of) its head, but no trained parameter starts with that. "
            f"The parameters are {names[:8]}{' ...' if len(names) > 8 else ''}."
        )
    return found


def _heads(
    workload: Workload, model: nn.Module, rows: Tensor, owned: list[dict[str, Rows | None]]
) -> tuple[HeadSpec, ...]:
    """Head of each task, with its linear layer where it is one."""
    candidates = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            tensors = [f"{name}.weight" if name else "weight"]
            tensors += [f"{name}.bias" if name else "bias"] if module.bias is not None else []  # pyright: ignore[reportUnnecessaryComparison]
            candidates[frozenset(tensors)] = (name, tensors)
    modules = [candidates.get(frozenset(own)) for own in owned]
    probe = _disturbed(model, 0)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {found[0]: [] for found in modules if found}
    hooks = [probe.get_submodule(name).register_forward_hook(_recorder(seen)) for name, seen in calls.items()]
    with torch.enable_grad(), process_lock, torch.backends.cudnn.flags(enabled=False):
        outputs = workload.outputs(probe, workload.batch(rows))
        for hook in hooks:
            hook.remove()
        totals = _weighted_margins(workload, outputs, rows)
        leaf = outputs.detach().requires_grad_()
        slopes = torch.autograd.grad(_weighted_margins(workload, leaf, rows).sum(), leaf)[0]
        heads = []
        for task, (own, found) in enumerate(zip(owned, modules, strict=True)):
            order = None
            if found and len(calls[found[0]]) == 1:
                columns = workload.columns[task]
                order = _output_rows(calls[found[0]][0], outputs[:, columns], own[found[1][0]])
                if order is not None:
                    grad = _gradients(totals[task], [probe.get_parameter(found[1][0])])[0]
                    expected = slopes[:, columns].T @ calls[found[0]][0][0].detach()
                    order = order if grad is not None and _close(grad[list(order)], expected) else None
            if found and order is not None:
                parameters = tuple((name, own[name]) for name in found[1])
                heads.append(HeadSpec(parameters, found[0], order, True))
            else:
                heads.append(HeadSpec(tuple(own.items())))
    return tuple(heads)


def _recorder(seen: list[tuple[Tensor, Tensor]]):  # noqa: ANN202 - a forward hook
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module
        if inputs:
            seen.append((inputs[0], output))

    return record


def _output_rows(call: tuple[Tensor, Tensor], outputs: Tensor, rows: Rows | None) -> Rows | None:
    """Which output of the linear layer is which output of the task; None when they are not the same numbers."""
    representation, produced = call
    if representation.dim() != 2 or len(representation) != len(outputs):
        return None
    candidates = list(range(produced.shape[1])) if rows is None else list(rows)
    if len(candidates) != outputs.shape[1]:
        return None
    order = []
    for column in range(outputs.shape[1]):
        same = [row for row in candidates if row not in order and _close(produced[:, row], outputs[:, column])]
        if not same:
            return None
        order.append(same[0])
    return tuple(order)


def _close(left: Tensor, right: Tensor) -> bool:
    scale = float(right.detach().abs().max()) + 1e-12
    tolerance = 1e-4 if right.dtype in (torch.float32, torch.float64) else 3e-2
    return bool(torch.allclose(left.detach() / scale, right.detach() / scale, rtol=0, atol=tolerance))
