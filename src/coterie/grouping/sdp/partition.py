"""The partition that the rows of a solution fall into: where the relaxation is tight, it is the solution."""

from __future__ import annotations

import numpy as np

from coterie.grouping.matrix import FloatArray, IntArray
from coterie.grouping.sdp.scaling import Scaled, row_blocks


def nearest_partition(root: FloatArray, k: int) -> IntArray | None:
    """(T,) labels 0..k-1 by k-means from far-apart columns of `root`, or None where there are no k clusters.

    Args:
        root: (r, T) with X = ee'/T + root' root; far more rows than groups mean that X is no partition.
        k: number of groups.
    """
    points = np.ascontiguousarray(root.T)
    n, rank = points.shape
    if not 2 <= k < n or rank > 3 * k + 3 or k > 100:
        return None
    squares = np.einsum("ij,ij->i", points, points)
    chosen = [int(np.argmax(squares))]
    nearest = np.full(n, np.inf)
    while len(chosen) < k:
        last = chosen[-1]
        nearest = np.minimum(nearest, squares + squares[last] - 2 * points @ points[last])
        chosen.append(int(np.argmax(nearest)))
    centres, labels = points[chosen], np.full(n, -1, dtype=np.int64)
    for _ in range(20):
        found = np.argmin((centres**2).sum(axis=1) - 2 * points @ centres.T, axis=1)
        if (found == labels).all():
            break
        labels = found
        sizes = np.bincount(labels, minlength=k)
        if (sizes == 0).any():
            return None
        centres = member_sums(points, labels, k) / sizes[:, None]
    return labels


def member_sums(points: FloatArray, labels: IntArray, k: int) -> FloatArray:
    """(k, d) sums of the points of each group."""
    return np.stack([np.bincount(labels, column, minlength=k) for column in points.T], axis=1).astype(np.float64)


def value_of_partition(problem: Scaled, labels: IntArray) -> float:
    """Sum of densities of U less the price of the groups."""
    k = int(labels.max()) + 1
    inside = np.zeros(k)
    for which in row_blocks(problem.n):
        own = (problem.rows(which) * (labels[which, None] == labels)).sum(axis=1)
        inside += np.bincount(labels[which], own, minlength=k)
    return float((inside / np.bincount(labels)).sum()) - problem.price * k
