"""k-means on rows with exactly k non-empty clusters, shared by the rounding and by spectral clustering."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from coterie.grouping.matrix import FloatArray, IntArray


def cluster_rows(points: FloatArray, k: int, seed: int) -> IntArray:
    """(n,) labels 0..k-1 of the rows; every cluster has at least one row, also when rows coincide.

    Args:
        points: (n, dimensions) float64.
        k: number of clusters, at most n.
        seed: of k-means++ with ten restarts.
    """
    if k == 1 or k == len(points):
        return np.arange(len(points), dtype=np.int64) if k > 1 else np.zeros(len(points), dtype=np.int64)
    cluster: Any = importlib.import_module("sklearn.cluster")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct rows than clusters is repaired below
        fitted = cluster.KMeans(k, n_init=10, random_state=seed).fit(points)
    labels = np.asarray(fitted.labels_, dtype=np.int64).copy()
    centres = np.asarray(fitted.cluster_centers_, dtype=np.float64)
    for empty in np.setdiff1d(np.arange(k), labels):
        distance = ((points - centres[labels]) ** 2).sum(axis=1)
        crowded = np.bincount(labels, minlength=k)[labels] > 1
        farthest = int(np.argmax(np.where(crowded, distance, -1.0)))
        labels[farthest], centres[empty] = empty, points[farthest]
    return labels
