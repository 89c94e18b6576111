"""Labels of tasks from points or from a graph, every label used."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import whole_number
from coterie._process_lock import process_lock

#: added to the variances, in units of the variance of all points
_FLOOR = 1e-3
_RESTARTS = 20


def mixture_labels(points: NDArray[np.float64], k: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Clusters of points (T, d) by a mixture of k Gaussians.

    Full covariances, but diagonal ones for ``k > T / 2``, where there are too few points for more; twenty restarts.

    Returns:
        (T,) labels 0..k-1 in the order of their first task, each used.

    Raises:
        SettingError: when k is not 1..T.

    Source: arXiv 2412.04413 (the mixture); covariances and restarts are reconstructed.

    Example:
        >>> mixture_labels(np.array([[0.0], [0.1], [5.0], [5.1]]), 2).tolist()
        [0, 0, 1, 1]
    """
    trivial = _trivial(len(points), k)
    if trivial is not None:
        return trivial
    spread = float(points.std(axis=0).max())
    standard = (points - points.mean(axis=0)) / (spread if spread > 0 else 1.0)
    mixture: Any = importlib.import_module("sklearn.mixture").GaussianMixture(
        k,
        covariance_type="diag" if k > len(points) / 2 else "full",
        n_init=_RESTARTS,
        reg_covar=_FLOOR,
        random_state=seed % 2**32,
    )
    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # restarts that do not converge, and equal points: what is empty is filled
        fitted = mixture.fit(standard)
    return fill(np.asarray(fitted.predict(standard), dtype=np.int64), k, standard)


def graph_labels(similarity: NDArray[np.float64], k: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Clusters of the nodes of a graph with weights (T, T) in [0, 1], by normalised spectral clustering.

    Returns:
        (T,) labels 0..k-1 in the order of their first task, each used.

    Raises:
        SettingError: when k is not 1..T.

    Example:
        >>> graph_labels(np.kron(np.eye(2), np.ones((3, 3))) + 0.01, 2).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    trivial = _trivial(len(similarity), k)
    if trivial is not None:
        return trivial
    spectral: Any = importlib.import_module("sklearn.cluster").SpectralClustering(
        k, affinity="precomputed", random_state=seed % 2**32, n_init=_RESTARTS
    )
    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a graph in several parts, and equal nodes: what is empty is filled
        labels = np.asarray(spectral.fit_predict(similarity), dtype=np.int64)
    return fill(labels, k, similarity)


def fill(labels: NDArray[np.int64], k: int, points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Labels with every one of 0..k-1 used: an empty one takes the point farthest from the mean of a crowded one.

    Labels are numbered in the order of their first point.

    Example:
        >>> fill(np.array([1, 1, 1]), 2, np.array([[0.0], [0.1], [9.0]])).tolist()
        [0, 0, 1]
    """
    labels = labels.copy()
    for empty in np.setdiff1d(np.arange(k), labels):
        counts = np.bincount(labels, minlength=k)
        means = np.stack([points[labels == label].mean(axis=0) if counts[label] else points[0] for label in range(k)])
        distance = ((points - means[labels]) ** 2).sum(axis=1)
        labels[int(np.argmax(np.where(counts[labels] > 1, distance, -1.0)))] = empty
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _trivial(size: int, k: int) -> NDArray[np.int64] | None:
    whole_number(k, "k", low=1, high=size)
    if k == size:
        return np.arange(size, dtype=np.int64)
    return np.zeros(size, dtype=np.int64) if k == 1 else None
