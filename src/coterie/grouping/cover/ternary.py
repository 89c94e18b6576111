"""Functions of sets of a few tasks, all sets at once.

A set of tasks is a bit mask. A pair of disjoint sets is a number in base 3: each task is in none (0), in the first (1)
or in the second (2). All 3^n pairs are one array, and a maximum over one of the sets is a maximum over digits.
"""

from __future__ import annotations

import numpy as np

from coterie.grouping.matrix import FloatArray, IntArray


def disjoint_pairs(n: int) -> tuple[IntArray, IntArray]:
    """(3^n,) the two masks of every pair of disjoint sets.

    Example:
        >>> [mask.tolist() for mask in disjoint_pairs(1)]
        [[0, 1, 0], [0, 0, 1]]
    """
    first, second = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for task in range(n):
        first = np.concatenate([first, first | 1 << task, first])
        second = np.concatenate([second, second, second | 1 << task])
    return first, second


def over_first(values: FloatArray, n: int) -> FloatArray:
    """(2^n,) for each second set the largest value over all first sets."""
    for task in range(n):
        digits = values.reshape(1 << task, 3, -1)
        values = np.stack([np.maximum(digits[:, 0], digits[:, 1]), digits[:, 2]], axis=1)
    return values.ravel()


def over_splits(values: FloatArray, n: int) -> FloatArray:
    """(2^n,) for each set the largest value over all ways to split it in two."""
    for task in range(n):
        digits = values.reshape(1 << task, 3, -1)
        values = np.stack([digits[:, 0], np.maximum(digits[:, 1], digits[:, 2])], axis=1)
    return values.ravel()
