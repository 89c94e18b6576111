"""Labels as users have them (texts, booleans, class numbers, numbers) as one column, and the task they make."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coterie._read import read_array
from coterie.errors import WorkloadError
from coterie.workload.task import Task

#: whole-numbered labels with more values than this are read as regression
MAX_CLASSES = 20


def read_labels(values: Any, name: str, kind: str | Task | None = None) -> tuple[NDArray[np.float64], Task]:
    """Labels (rows,) float64 and the task.

    Texts, booleans and whole numbers are classes, numbered in their sorted order: two make a binary task, up to 20 a
    multi-class one. Floating-point numbers are binary when only 0 and 1 occur, else regression.

    Args:
        values: (rows,) labels.
        name: of the task.
        kind: ``"binary"``, ``"multiclass"``, ``"regression"``, or a task, in place of the guess; numbers are then taken
            as they are. Texts are classes only.

    Raises:
        WorkloadError: when labels are missing, of mixed types, all the same, or texts in a regression.

    Example:
        >>> y, task = read_labels(["no", "yes", "no"], "answer")
        >>> y.tolist(), task.kind
        ([0.0, 1.0, 0.0], 'binary')
    """
    given: Any = values.cpu() if hasattr(values, "cpu") else values
    listed = isinstance(given, list | tuple) and any(isinstance(value, str) for value in cast("list[Any]", given))
    # by itself, numpy makes the text "nan" of a missing label among texts
    array = np.asarray(given, dtype=object if listed else None)
    if array.ndim != 1 or len(array) == 0:
        raise WorkloadError(
            f"Parameter `tasks`: the labels of {name!r} should be one-dimensional, one a text. Found shape "
            f"{array.shape}. Tasks that share their texts are given as (texts, y) with `task_names`."
        )
    if array.dtype.kind == "O":
        array = _unboxed(array, name)
    distinct = np.unique(array)
    if len(distinct) < 2:
        raise WorkloadError(
            f"Parameter `tasks`: all {len(array)} labels of {name!r} are {distinct[0]!r}: there is nothing to learn. "
            "The likely cause is a filter, or a file sorted by label of which the beginning was taken."
        )
    classes = array.dtype.kind in "USb" or (array.dtype.kind in "iu" and len(distinct) <= MAX_CLASSES)
    if kind is not None:
        task = _given(kind, name, len(distinct))
        if array.dtype.kind in "US" and task.kind not in ("binary", "multiclass"):
            raise WorkloadError(
                f"Parameter `tasks`: the labels of {name!r} are texts such as {str(distinct[0])!r}, but the task is of "
                f"the kind {task.kind!r}. The likely cause is numbers that were read as text: convert them with "
                "float(...)."
            )
        column = np.searchsorted(distinct, array) if array.dtype.kind in "US" else read_array(array, f"tasks[{name!r}]")
        return column.astype(np.float64), task
    if not classes:
        column = read_array(array, f"tasks[{name!r}]").astype(np.float64)
        if not np.isfinite(column).all():
            raise WorkloadError(
                f"Parameter `tasks`: {int((~np.isfinite(column)).sum())} labels of {name!r} are missing or infinite. "
                "Drop these texts; a task has the rows that it has labels for."
            )
        return column, Task(name, "binary" if set(distinct.tolist()) == {0.0, 1.0} else "regression")
    if len(distinct) > MAX_CLASSES:
        raise WorkloadError(
            f"Parameter `tasks`: the labels of {name!r} are {len(distinct)} different texts, such as "
            f"{str(distinct[0])!r}. Classification takes up to {MAX_CLASSES} classes. The likely cause is numbers that "
            "were read as text: convert them with float(...), or merge rare classes."
        )
    column = np.searchsorted(distinct, array).astype(np.float64)
    return column, Task(name) if len(distinct) == 2 else Task(name, "multiclass", classes=len(distinct))


def _unboxed(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Columns of data frames arrive as objects."""
    if all(isinstance(value, str) for value in array):
        return array.astype(str)
    if any(value is None or isinstance(value, str) for value in array):
        odd = next((row for row, value in enumerate(array) if not isinstance(value, str)), 0)
        raise WorkloadError(
            f"Parameter `tasks`: the labels of {name!r} are mixed: {array[odd]!r} ({type(array[odd]).__name__}) at "
            f"position {odd}. The likely cause is missing labels: drop these texts."
        )
    return read_array(array, f"tasks[{name!r}]")


def _given(kind: str | Task, name: str, classes: int) -> Task:
    if isinstance(kind, Task):
        return kind
    return Task(name, kind, classes=classes) if kind == "multiclass" else Task(name, kind)
