"""Labels as users have them (texts, booleans, class numbers, numbers) as one column, and the task they make."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coterie._read import is_missing, read_array
from coterie._surface import warn
from coterie.errors import DataWarning, WorkloadError
from coterie.workload.losses import get_loss
from coterie.workload.task import Task

#: whole-numbered labels with more values than this are read as regression
MAX_CLASSES = 20


def read_labels(values: Any, name: str, kind: str | Task | None = None) -> tuple[NDArray[np.float64], Task]:
    """Labels (rows,) float64 and the task.

    Texts, booleans and whole numbers are classes, numbered in their sorted order: two make a binary task, up to 20 a
    multi-class one. All other numbers are a regression. The values decide, not the type that holds them: 1.0 in a
    floating-point column, an object or a nullable number is the whole number 1.

    Args:
        values: (rows,) labels. White space around texts does not count; texts that are whole numbers are sorted as
            numbers.
        name: of the task.
        kind: ``"binary"``, ``"multiclass"``, ``"regression"``, or a task, in place of the guess; numbers are then taken
            as they are. Texts are classes only.

    Raises:
        WorkloadError: when labels are missing, of mixed types, all the same, or texts in a regression.

    Warns:
        DataWarning: when whole numbers other than 0 and 1 were read as classes, or texts differ in white space or in
            capital letters only.

    Example:
        >>> y, task = read_labels(["no", "yes", "no"], "answer")
        >>> y.tolist(), task.kind
        ([0.0, 1.0, 0.0], 'binary')
    """
    array = _column(values, name)
    texts = array.dtype.kind == "U"
    distinct = _distinct_texts(array) if texts else np.unique(array)
    if len(distinct) < 2:
        raise WorkloadError(
            f"Parameter `tasks`: all {len(array)} labels of {name!r} are {distinct[0]!r}: there is nothing to learn. "
            "The likely cause is a filter, or a file sorted by label of which the beginning was taken."
        )
    if kind is not None:
        task = _given(kind, name, len(distinct))
        if texts and not task.loss.discrete:
            raise WorkloadError(
                f"Parameter `tasks`: the labels of {name!r} are texts such as {str(distinct[0])!r}, but the task is of "
                f"the kind {task.kind!r}. The likely cause is numbers that were read as text: convert them with "
                "float(...)."
            )
        return _numbered(array, distinct) if texts else array.astype(np.float64), task
    if texts and len(distinct) > MAX_CLASSES:
        raise WorkloadError(
            f"Parameter `tasks`: the labels of {name!r} are {len(distinct)} different texts, such as "
            f"{str(distinct[0])!r}. Classification takes up to {MAX_CLASSES} classes. The likely cause is numbers that "
            "were read as text: convert them with float(...), or merge rare classes."
        )
    if len(distinct) > MAX_CLASSES or not (texts or bool((distinct == np.round(distinct)).all())):
        return array.astype(np.float64), Task(name, "regression")
    if not texts and array.dtype.kind != "b" and set(distinct.tolist()) != {0, 1}:
        _say_guess(name, distinct)
    task = Task(name) if len(distinct) == 2 else Task(name, "multiclass", classes=len(distinct))
    return _numbered(array, distinct), task


def _column(values: Any, name: str) -> NDArray[Any]:
    """(rows,) texts without white space around them, or numbers; nothing is missing."""
    where = f"Parameter `tasks`: the labels of {name!r}"
    objects = _objects(values)
    if objects is not None and any(isinstance(value, str) for value in objects):
        odd = next((row for row, value in enumerate(objects) if not isinstance(value, str)), None)
        if odd is not None:
            found = "missing" if is_missing(objects[odd]) else f"{objects[odd]!r} ({type(objects[odd]).__name__})"
            raise WorkloadError(
                f"{where} are mixed: {found} at position {odd}. The likely cause is missing labels: drop these texts."
            )
        return _stripped([str(value) for value in objects], where)
    array = read_array(values, f"tasks[{name!r}]")
    if array.ndim != 1 or len(array) == 0:
        raise WorkloadError(
            f"{where} should be one-dimensional, one a text. Found shape {array.shape}. Tasks that share their texts "
            "are given as (texts, y) with `task_names`."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise WorkloadError(
            f"{where}: {int((~np.isfinite(array)).sum())} are missing or infinite. Drop these texts; a task has the "
            "rows that it has labels for."
        )
    return array


def _objects(values: Any) -> list[Any] | None:
    """The labels one by one where some may be texts; None for arrays of numbers."""
    if isinstance(values, list | tuple):
        return list(cast("list[Any]", values))
    if hasattr(values, "detach"):
        return None
    if np.ndim(values) == 0:  # nothing, a single text, a mapping, a generator
        return None
    kind = np.asarray(values).dtype.kind
    mask = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else np.False_
    return (
        list(np.where(mask, np.array(None, dtype=object), np.asarray(values, dtype=object))) if kind in "OUST" else None
    )


def _stripped(texts: list[str], where: str) -> NDArray[Any]:
    made = np.array([text.strip() for text in texts])
    odd = next((text for text in texts if text != text.strip()), None)
    if odd is not None:
        warn(f"{where} have white space around them, such as {odd!r}; it was taken off.", DataWarning)
    alike: dict[str, str] = {}
    for text in sorted(set(made.tolist())):
        if text.casefold() in alike:
            warn(
                f"{where} have the classes {alike[text.casefold()]!r} and {text!r}, which differ in capital letters "
                "only. If they are one class, write them alike.",
                DataWarning,
            )
            break
        alike[text.casefold()] = text
    return made


def _distinct_texts(array: NDArray[Any]) -> NDArray[Any]:
    """Sorted; as numbers where all are whole ones."""
    distinct = np.unique(array)
    if all(text.lstrip("+-").isdecimal() for text in distinct.tolist()):
        return np.array(sorted(distinct.tolist(), key=lambda text: (int(text), text)))
    return distinct


def _numbered(array: NDArray[Any], distinct: NDArray[Any]) -> NDArray[np.float64]:
    number = {value: float(index) for index, value in enumerate(distinct.tolist())}
    return np.array([number[value] for value in array.tolist()])


def _say_guess(name: str, distinct: NDArray[Any]) -> None:
    shown = ", ".join(f"{value:g}" for value in distinct[:5].tolist()) + (", ..." if len(distinct) > 5 else "")
    below = " If -1 marks a missing label, drop these texts." if float(distinct[0]) == -1 else ""
    warn(
        f"Parameter `tasks`: the labels of {name!r} are the whole numbers {shown} and were read as {len(distinct)} "
        f"classes, numbered from 0 in this order.{below} If they are amounts, say kinds={{{name!r}: 'regression'}}.",
        DataWarning,
    )


def _given(kind: str | Task, name: str, classes: int) -> Task:
    if isinstance(kind, Task):
        return kind
    return Task(name, kind, classes=classes) if get_loss(kind).per_class else Task(name, kind)
