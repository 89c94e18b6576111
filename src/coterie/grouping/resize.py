"""From any number of groups to exactly k: the merges and the departures that the sum of densities likes best."""

from __future__ import annotations

import numpy as np

from coterie.grouping.density import as_labels, membership
from coterie.grouping.matrix import FloatArray, IntArray


def to_k_groups(matrix: FloatArray, labels: IntArray, k: int) -> IntArray:
    """Join two groups, or make a group of one task, each time the best one for the sum of densities, until k are left.

    Args:
        matrix: (T, T) symmetric affinity, larger is better.
        labels: (T,) a partition into any number of groups.
        k: number of groups, 1..T.

    Returns:
        (T,) labels 0..k-1, each used, groups numbered by their first task. A partition into k groups is left as it is.

    Cost:
        T^2 times the number of groups for each group too many or too few.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((2, 2)))
        >>> to_k_groups(blocks, np.array([0, 0, 1, 2]), 2).tolist(), to_k_groups(blocks, np.zeros(4, int), 2).tolist()
        ([0, 0, 1, 1], [0, 1, 1, 1])
    """
    current = as_labels(labels, len(matrix))
    while current.max() + 1 > k:
        current = merge_once(matrix, current)
    while current.max() + 1 < k:
        current = split_once(matrix, current)
    return current


def merge_once(matrix: FloatArray, labels: IntArray) -> IntArray:
    """Join the two groups for which the sum of densities falls least."""
    between, sizes = _sums(matrix, labels)
    inner = np.diag(between)
    joint = (inner[:, None] + inner[None, :] + 2 * between) / (sizes[:, None] + sizes[None, :])
    change = joint - inner[:, None] / sizes[:, None] - inner[None, :] / sizes[None, :]
    np.fill_diagonal(change, -np.inf)
    first, second = divmod(int(np.argmax(change)), len(sizes))
    return as_labels(np.where(labels == second, first, labels), len(labels))


def split_once(matrix: FloatArray, labels: IntArray) -> IntArray:
    """Make a group of the task whose leaving raises the sum of densities most."""
    between, sizes = _sums(matrix, labels)
    inner, size = np.diag(between)[labels], sizes[labels]
    own = (matrix * (labels[:, None] == labels[None, :])).sum(axis=1)
    diagonal = np.diag(matrix)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = (inner - 2 * own + diagonal) / (size - 1) - inner / size + diagonal
    result = labels.copy()
    result[int(np.argmax(np.where(size > 1, change, -np.inf)))] = labels.max() + 1
    return as_labels(result, len(labels))


def _sums(matrix: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """(groups, groups) sums between groups and (groups,) sizes."""
    member = membership(labels)
    return member.T @ matrix @ member, member.sum(axis=0)
