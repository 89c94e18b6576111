"""The two groupings that need no affinity: one model for everything, one model a task."""

from __future__ import annotations

import numpy as np

from coterie.grouping.matrix import IntArray


def all_in_one_labels(n: int) -> IntArray:
    """(n,) zeros: one group of all tasks."""
    return np.zeros(n, dtype=np.int64)


def single_task_labels(n: int) -> IntArray:
    """(n,) 0, 1, ...: one group a task."""
    return np.arange(n, dtype=np.int64)
