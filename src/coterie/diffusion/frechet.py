"""The distance between two Gaussians that are fitted to features of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coterie.errors import SettingError

Floats = NDArray[np.float64]


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Squared Frechet distance of the Gaussians with the mean and covariance of two samples; lower is closer.

    ``|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``, in float64. With features of an Inception network this is
    FID; with other features its numbers compare with each other only. Finite samples make it too large, the more so the
    more features there are: compare samples of one size, and look at the distance of two halves of the real data.

    Args:
        a: (n, d) features.
        b: (m, d) features.

    Raises:
        SettingError: other shapes, fewer than two rows, or numbers that are not finite.

    Cost: (n + m) d^2 + d^3.

    Source: Dowson and Landau, J. Multivariate Analysis 12 (1982); Heusel et al., NeurIPS 2017. Square roots of
        symmetric matrices by eigenvalues, where negative ones from rounding become 0.

    Example:
        >>> frechet_distance([[0.0], [2.0]], [[3.0], [5.0]])
        9.0
    """
    one, other = _read(a, "a"), _read(b, "b")
    if one.shape[1] != other.shape[1]:
        raise SettingError(
            f"Parameters `a` and `b` should have the same features. Found {one.shape[1]} and {other.shape[1]} columns."
        )
    shift = one.mean(0) - other.mean(0)
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (one, other))
    root = _root(first)
    middle = root @ second @ root
    shared = np.sqrt(np.clip(np.linalg.eigvalsh((middle + middle.T) / 2), 0.0, None)).sum()
    return max(0.0, float(shift @ shift + np.trace(first) + np.trace(second) - 2 * shared))


def _root(matrix: Floats) -> Floats:
    """Symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def _read(value: ArrayLike, name: str) -> Floats:
    try:
        rows = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"Parameter `{name}` should be an array (samples, features) of numbers. Found {type(value).__name__}: "
            f"{error}. Rows of different lengths are a likely cause."
        ) from error
    if rows.ndim != 2 or len(rows) < 2 or not rows.shape[1]:
        raise SettingError(
            f"Parameter `{name}` should be an array (samples, features) with at least two samples. Found shape "
            f"{rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise SettingError(
            f"Parameter `{name}` should have finite numbers only. Found {int((~np.isfinite(rows)).sum())} that are "
            "not. Samples of a model whose training diverged are a likely cause."
        )
    return rows
