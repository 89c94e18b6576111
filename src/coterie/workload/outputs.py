"""What models return, as one tensor: a tensor, one output a task in order, or outputs by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from coterie.errors import WorkloadError
from coterie.workload.task import Task

#: what models of transformers call the scores among their outputs
_SCORES = "logits"
_PICK = "Give `forward=lambda model, batch: ...` to pick the right part."


def by_name(model: nn.Module, batch: Mapping[str, Tensor]) -> bool:
    """Whether a mapping of inputs is passed by the names of its parts, not as one argument.

    By name where `forward` takes these names; as a whole where it does not and has a single positional parameter
    without a default.

    Example:
        >>> by_name(nn.Linear(2, 1), {"input": torch.zeros(1, 2)}), by_name(nn.Linear(2, 1), {"u": torch.zeros(1, 2)})
        (True, False)
    """
    inner = getattr(model, "_orig_mod", model)  # torch.compile hides the parameters of what it wraps
    inner = inner.module if isinstance(inner, nn.DataParallel) else inner
    try:
        signature = inspect.signature(inner.forward)
    except (TypeError, ValueError):  # builtins without a signature
        return True
    try:
        signature.bind(**batch)
    except TypeError:
        places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        required = [p for p in signature.parameters.values() if p.kind in places and p.default is p.empty]
        return len(required) != 1
    return True


def join_outputs(raw: Any, tasks: Sequence[Task]) -> Tensor:
    """One (rows, sum of widths) tensor from whatever a model returns.

    Args:
        raw: a tensor; a list or tuple with one tensor a task, in order; a mapping, named tuple or dataclass with one
            tensor a task, by name. Where names are no tasks, the part ``logits`` is taken, as models of transformers
            call it, or the only part that is not None.
        tasks: of the workload.

    Raises:
        WorkloadError: when a task is missing, or a part does not have the width of its task.

    Example:
        >>> tasks = [Task("sick"), Task("stage", "multiclass", classes=3)]
        >>> tuple(join_outputs({"stage": torch.zeros(5, 3), "sick": torch.zeros(5)}, tasks).shape)
        (5, 4)
    """
    if isinstance(raw, Tensor):
        return _whole(raw, tasks)
    named = _named(raw)
    if named is not None:
        return _from_names(named, tasks, type(raw).__name__)
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return _from_places(list(cast("Sequence[Any]", raw)), tasks)
    raise WorkloadError(
        "The model should return a tensor, a sequence, a mapping, a named tuple or a dataclass of tensors. Found "
        f"{type(raw).__name__}. {_PICK}"
    )


def _named(raw: Any) -> dict[Any, Any] | None:
    """Parts by name; None for what has no names."""
    if isinstance(raw, Mapping):
        return dict(cast("Mapping[Any, Any]", raw))
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return dict(zip(cast("Any", raw)._fields, cast("tuple[Any, ...]", raw), strict=True))
    if dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        return {field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}
    return None


def _from_names(named: dict[Any, Any], tasks: Sequence[Task], kind: str) -> Tensor:
    missing = [task.name for task in tasks if named.get(task.name) is None]
    if not missing:
        return _joined([named[task.name] for task in tasks], tasks)
    there = [name for name, part in named.items() if part is not None]
    if len(missing) == len(tasks) and (_SCORES in there or len(there) == 1):
        return join_outputs(named[_SCORES if _SCORES in there else there[0]], tasks)
    raise WorkloadError(
        f"The model should return a part for each task by its name. Found {kind} with the names {there[:8]}; without "
        f"the tasks {missing[:5]}. Name the parts as the tasks are named. {_PICK}"
    )


def _from_places(parts: list[Any], tasks: Sequence[Task]) -> Tensor:
    there = [part for part in parts if part is not None]
    if len(there) == 1:  # (scores,) or (scores, None)
        return join_outputs(there[0], tasks)
    if len(there) < len(parts) or len(parts) != len(tasks):
        raise WorkloadError(
            f"The model should return one part for each of the {len(tasks)} tasks. Found {len(parts)} parts"
            f"{f', {len(parts) - len(there)} of them None' if len(there) < len(parts) else ''}. {_PICK}"
        )
    return _joined(parts, tasks)


def _whole(raw: Tensor, tasks: Sequence[Task]) -> Tensor:
    width = sum(task.width for task in tasks)
    raw = raw[:, None] if raw.dim() == 1 else raw
    if raw.dim() != 2 or raw.shape[1] != width:
        turned = raw.dim() == 2 and raw.shape[0] == width
        raise WorkloadError(
            f"The model should return (rows, {width}) outputs for {len(tasks)} tasks. Found shape {tuple(raw.shape)}. "
            f"Multi-class tasks read one output a class.{' The likely cause is a transpose.' if turned else ''}"
        )
    return _dense(raw, "of the model")


def _joined(parts: list[Any], tasks: Sequence[Task]) -> Tensor:
    """Parts side by side, each with as many columns as its task reads."""
    columns: list[Tensor] = []
    for part, task in zip(parts, tasks, strict=True):
        if not isinstance(part, Tensor):
            raise WorkloadError(
                f"The model should return tensors. Found {type(part).__name__} for task {task.name!r}. The likely "
                "cause is .numpy(), .item() or a list inside forward."
            )
        own = part[:, None] if part.dim() == 1 and task.width == 1 else part
        if own.dim() != 2 or own.shape[1] != task.width:
            raise WorkloadError(
                f"The model should return (rows, {task.width}) for the {task.kind} task {task.name!r}. Found shape "
                f"{tuple(part.shape)}. {_width_cause(task, part)}"
            )
        columns.append(_dense(own, f"for task {task.name!r}"))
    rows = {task.name: len(part) for part, task in zip(columns, tasks, strict=True)}
    if len(set(rows.values())) > 1:
        raise WorkloadError(
            f"The model should return as many rows for each task. Found {dict(list(rows.items())[:5])}."
        )
    return torch.cat(columns, -1)


def _dense(part: Tensor, which: str) -> Tensor:
    if part.layout != torch.strided or part.is_quantized:
        what = "quantised" if part.is_quantized else str(part.layout).removeprefix("torch.")
        raise WorkloadError(
            f"The outputs {which} should be an ordinary tensor. Found a {what} one. Return part.to_dense() or "
            "part.dequantize()."
        )
    return part


def _width_cause(task: Task, part: Tensor) -> str:
    if part.dim() != 2:
        return "Rows are the first dimension and outputs the second; take off others with flatten(1) or squeeze(-1)."
    if task.loss.discrete and task.width == 1:
        return (
            "A binary task reads one number, the logit of label 1; of two logits return z[:, 1] - z[:, 0], or give "
            "kind='multiclass' with classes=2. Another likely cause is outputs in another order than the tasks."
        )
    return "Multi-class tasks read one output a class. A likely cause is outputs in another order than the tasks."
