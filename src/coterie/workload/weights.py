"""How much each label counts in the training loss: weights of examples and of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.errors import SettingError, WorkloadError
from coterie.workload.recipe import Recipe
from coterie.workload.sparse import SparseView
from coterie.workload.task import Task


def as_weights(weights: Any, rows: int, tasks: int) -> Tensor | None:
    """Weights of rows, or of labels, as a (rows, 1) or (rows, tasks) tensor.

    Raises:
        WorkloadError: when the shape is another one, or a weight is negative, NaN or infinite.

    Example:
        >>> as_weights([1.0, 2.0], 2, 3)
        tensor([[1.],
                [2.]])
    """
    if weights is None:
        return None
    try:
        found = torch.as_tensor(np.asarray(weights, dtype=np.float32)).clone()
    except (TypeError, ValueError) as error:
        raise WorkloadError(f"Parameter `weights` should hold numbers. Found {type(weights).__name__}.") from error
    found = found[:, None] if found.dim() == 1 else found
    if tuple(found.shape) not in ((rows, 1), (rows, tasks)):
        raise WorkloadError(
            f"Parameter `weights` should have shape ({rows},), a weight for each row, or ({rows}, {tasks}), one for "
            f"each label. Found {tuple(np.shape(weights))}. Weights of classes belong into Recipe(class_weights=...)."
        )
    if not bool((found.isfinite() & (found >= 0)).all()) or not bool((found > 0).any()):
        raise WorkloadError(
            "Parameter `weights` should be finite, at least 0, and not all 0. Found NaN, infinite or negative ones, or "
            "only 0. Rows that should not count at all may have 0; missing labels are NaN in `y` and need no weight."
        )
    return found


def joined_weights(weights: Any, names: Sequence[str], sizes: Sequence[int]) -> np.ndarray:
    """(rows,) weights of data sets one below the other.

    Args:
        weights: for each data set (rows,) weights or one number; a mapping by name, or a list in their order.
        names: of the data sets.
        sizes: their rows.

    Raises:
        WorkloadError: for a name that is none, or a number of weights that fits no data set.

    Example:
        >>> joined_weights({"b": 2}, ["a", "b"], [1, 2])
        array([1., 2., 2.])
    """
    if isinstance(weights, Mapping):
        odd = [name for name in weights if name not in names]
        given: list[Any] = [weights.get(name, 1.0) for name in names]
    elif isinstance(weights, Sequence) and not isinstance(weights, str):
        odd, given = [] if len(weights) == len(names) else [f"{len(weights)} entries"], list(weights)
    else:
        odd, given = [type(weights).__name__], []
    if odd:
        raise WorkloadError(
            f"Parameter `weights` should map data sets to weights, or list them in the order of {len(names)} data sets "
            f"({', '.join(map(repr, names[:5]))}). Found {odd[0]!r}."
        )
    found: list[np.ndarray] = []
    for name, rows, one in zip(names, sizes, given, strict=True):
        try:
            found.append(np.broadcast_to(np.asarray(one, dtype=np.float64), (rows,)))
        except (TypeError, ValueError) as error:
            raise WorkloadError(
                f"Parameter `weights`: data set {name!r} has {rows} rows, so it should have one weight or {rows}. "
                f"Found {np.shape(one)}."
            ) from error
    return np.concatenate(found)


def label_weights(
    tasks: Sequence[Task], targets: Tensor, observed: Tensor, train: Tensor, recipe: Recipe, weights: Tensor | None
) -> Tensor | None:
    """(rows, tasks) weights of all labels; None where none are given.

    Args:
        tasks: their kinds.
        targets: (rows, tasks) labels without NaN.
        observed: (rows, tasks) where they are known.
        train: row numbers of the training part, on which classes are counted.
        recipe: its `class_weights`.
        weights: (rows, 1) or (rows, tasks), or None.

    Raises:
        SettingError: when weights of classes do not fit the tasks.
    """
    if isinstance(targets, SparseView):
        if weights is None and recipe.class_weights is None:
            return None
        raise SettingError(
            "Weights of rows or classes do not go with sparse labels: they would be a table of all rows and tasks. "
            "Leave `weights` and `class_weights` out, or give the labels as a table."
        )
    by_class = _by_class(tasks, targets[train], observed[train], recipe.class_weights)
    if not by_class and weights is None:
        return None
    found = torch.ones_like(targets) if weights is None else weights.to(targets).expand_as(targets).clone()
    for task, values in by_class.items():
        found[:, task] *= torch.tensor(values, device=targets.device)[targets[:, task].long()].to(found)
    return found


def _by_class(
    tasks: Sequence[Task], targets: Tensor, observed: Tensor, wanted: str | Mapping[str, Sequence[float]] | None
) -> dict[int, list[float]]:
    """Task number -> a weight for each of its classes."""
    if wanted is None:
        return {}
    classes = {number: max(2, task.width) for number, task in enumerate(tasks) if task.loss.discrete}
    if not isinstance(wanted, Mapping):
        return {number: _balanced(targets[:, number][observed[:, number]], count) for number, count in classes.items()}
    names = {task.name: number for number, task in enumerate(tasks)}
    found: dict[int, list[float]] = {}
    for name, values in wanted.items():
        count = classes.get(names.get(name, -1))
        if count is None or len(values) != count:
            cause = (
                f"It has {count} classes" if count else "It is no task" if name not in names else "It has no classes"
            )
            raise SettingError(
                f"Parameter `class_weights` of the recipe has {len(values)} weights for {name!r}. {cause}. Tasks with "
                f"classes are {[task.name for task in tasks if task.loss.discrete][:5]}."
            )
        found[names[name]] = [float(value) for value in values]
    return found


def _balanced(labels: Tensor, classes: int) -> list[float]:
    """n / (k n_c), as scikit-learn has it, with k the number of classes that occur; 1 for those that do not."""
    counts = torch.bincount(labels.long(), minlength=classes).double()
    there = int((counts > 0).sum())
    weights = torch.where(counts > 0, counts.sum() / (max(1, there) * counts.clamp_min(1)), 1.0)
    return weights.tolist()
