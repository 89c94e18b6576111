"""Agglomerative clustering with average linkage, on affinities."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie.grouping.matrix import IntArray, as_square, on_grid, symmetrise
from coterie.grouping.objective import as_labels


def agglomerative_labels(matrix: ArrayLike, k: int) -> IntArray:
    """Join the two groups with the largest mean affinity between them, until k groups are left.

    The mean affinity between two groups is the average linkage of the distances max(A) - A, so nothing depends on the
    scale or on a constant added to all entries. The diagonal is not read.

    Args:
        matrix: (T, T) affinity, larger is better; only its symmetric part counts.
        k: number of groups, 1..T.

    Returns:
        (T,) labels 0..k-1, each used, groups numbered by their first task.

    Cost:
        T^2: one pass of the nearest-neighbour chain (scipy).

    Source:
        Sokal and Michener, University of Kansas Science Bulletin 38 (1958).

    Example:
        >>> agglomerative_labels(np.kron(np.eye(2), np.ones((3, 3))), 2).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    return cut(merge_tree(matrix), k)


def merge_tree(matrix: ArrayLike) -> IntArray:
    """(T-1, 2) the groups that are joined, step by step: 0..T-1 are tasks, T + i is the group made in step i.

    Cutting it at another number of groups costs nothing more.
    """
    hierarchy: Any = importlib.import_module("scipy.cluster.hierarchy")
    a = on_grid(symmetrise(as_square(matrix))).whole
    pairs = a[np.triu_indices(len(a), 1)]
    return np.asarray(hierarchy.linkage(pairs.max() - pairs, method="average"))[:, :2].astype(np.int64)


def cut(tree: IntArray, k: int) -> IntArray:
    """(T,) labels after the first T - k steps. Exactly k groups, also when several steps are equally good."""
    n = len(tree) + 1
    label = np.arange(2 * n - 1, dtype=np.int64)
    # From the last step that is made to the first: a group passes the name of the group that it ends in to its parts.
    for step in range(n - k - 1, -1, -1):
        label[tree[step]] = label[n + step]
    return as_labels(label[:n], n)
