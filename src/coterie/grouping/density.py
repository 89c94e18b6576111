"""The objective: the sum over groups of their average density (Li et al., arXiv 2409.06091, section on clustering)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from coterie.errors import SettingError
from coterie.grouping.matrix import FloatArray, IntArray, as_square, as_symmetric


def density(matrix: ArrayLike, members: Sequence[int]) -> float:
    """Average density of one group: the sum of all its entries, diagonal included, over its size.

    Args:
        matrix: (T, T) affinity, rows are targets, larger is better. It need not be symmetric.
        members: indices of the group's tasks, at least one.

    Example:
        >>> density([[1.0, 3.0], [1.0, 1.0]], [0, 1])
        3.0
    """
    index = np.asarray(members, dtype=np.int64)
    if not len(index):
        raise SettingError("Parameter `members` should have at least one task. Found none.")
    return float(as_square(matrix)[np.ix_(index, index)].sum() / len(index))


def group_densities(matrix: ArrayLike, groups: Sequence[Sequence[int]]) -> FloatArray:
    """(groups,) average density of each group; groups may overlap."""
    return np.array([density(matrix, members) for members in groups])


def sum_of_densities(matrix: ArrayLike, labels: ArrayLike) -> float:
    """Sum over the groups of a partition of 1'A1 / size.

    Args:
        matrix: (T, T) affinity, rows are targets, larger is better.
        labels: (T,) group number of each task; any whole numbers.

    Returns:
        The objective; higher is better. Adding c to every entry adds c * T, whatever the groups.

    Cost:
        T^2 additions at most, the square of its size for each group.

    Example:
        >>> sum_of_densities([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0, 0, 1])
        3.0
    """
    square = as_symmetric(matrix)
    numbers = as_labels(labels, len(square))
    order = np.argsort(numbers, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return float(sum(square[np.ix_(members, members)].sum() / len(members) for members in groups))


def as_labels(labels: ArrayLike, n: int) -> IntArray:
    """Labels renumbered 0, 1, ... in the order in which the groups appear."""
    if np.ma.is_masked(labels):
        raise SettingError("Parameter `labels` has masked entries. Give every task a group.")
    given = np.asarray(labels)
    if given.shape != (n,):
        raise SettingError(
            f"Parameter `labels` should have one entry for each of {n} tasks. Found shape {given.shape}."
        )
    _, first, inverse = np.unique(given, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def membership(labels: IntArray) -> FloatArray:
    """(T, groups) matrix of zeros and ones of labels 0..groups-1."""
    member = np.zeros((len(labels), int(labels.max()) + 1))
    member[np.arange(len(labels)), labels] = 1.0
    return member
