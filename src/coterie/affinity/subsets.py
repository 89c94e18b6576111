"""Subsets of tasks in every form a caller may bring them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coterie.errors import SettingError

#: a bool array (subsets, tasks), or a sequence of subsets, each a sequence of task indices or names
SubsetsLike = NDArray[np.bool_] | Sequence[Sequence[int | str]]


def as_subsets(subsets: SubsetsLike, task_names: Sequence[str]) -> NDArray[np.bool_]:
    """Subsets as a bool array (m, T) whose entry [l, t] says whether subset l contains task t.

    Args:
        subsets: a bool array (m, T), or a sequence of subsets; a subset is a sequence of task indices or task names.
        task_names: the T names, in the order of the columns.

    Raises:
        SettingError: for an empty subset, an unknown task, a task named twice, or an array of the wrong shape or type.

    Example:
        >>> as_subsets([["a", "c"], [1]], ["a", "b", "c"])
        array([[ True, False,  True],
               [False,  True, False]])
    """
    if isinstance(subsets, np.ndarray) and subsets.dtype != object and subsets.ndim == 2:
        return _checked_mask(subsets, len(task_names))
    index = {name: position for position, name in enumerate(task_names)}
    mask = np.zeros((len(subsets), len(task_names)), dtype=bool)
    for row, subset in enumerate(subsets):
        if isinstance(subset, str):
            raise SettingError(
                f"Parameter `subsets`: subset {row} is a text, not a sequence of tasks. Write [[{subset!r}]]."
            )
        for task in subset:
            column = _position(task, index, row)
            if mask[row, column]:
                raise SettingError(f"Parameter `subsets`: subset {row} names task {task!r} twice. Name it once.")
            mask[row, column] = True
    return _checked_mask(mask, len(task_names))


def _position(task: object, index: dict[str, int], row: int) -> int:
    if isinstance(task, str):
        if task not in index:
            raise SettingError(
                f"Parameter `subsets`: subset {row} names the task {task!r}, which is none of the {len(index)} tasks "
                f"{list(index)[:5]}{'...' if len(index) > 5 else ''}."
            )
        return index[task]
    if isinstance(task, bool | np.bool_) or not isinstance(task, int | np.integer):
        raise SettingError(
            f"Parameter `subsets`: subset {row} should hold task indices or names. Found {task!r} "
            f"({type(task).__name__}). A table of True and False should be a numpy array (subsets, tasks)."
        )
    if not 0 <= task < len(index):
        raise SettingError(
            f"Parameter `subsets`: subset {row} holds the task index {task}; "
            f"there are {len(index)} tasks, counted from 0."
        )
    return int(task)


def _checked_mask(mask: NDArray[np.generic], tasks: int) -> NDArray[np.bool_]:
    if mask.dtype != np.bool_:
        raise SettingError(
            f"Parameter `subsets` as an array should be of type bool, (subsets, tasks). Found {mask.dtype}. "
            "Give index lists as lists (array.tolist()), or use array.astype(bool)."
        )
    if mask.shape[1] != tasks:
        raise SettingError(f"Parameter `subsets` should have {tasks} columns, one a task. Found shape {mask.shape}.")
    empty = np.flatnonzero(~mask.any(1))
    if len(empty):
        raise SettingError(f"Parameter `subsets`: subset {int(empty[0])} is empty. Each needs at least one task.")
    return mask.astype(np.bool_, copy=False)
