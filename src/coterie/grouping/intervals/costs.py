"""What intervals of ordered tasks cost: (T, T) tables for :func:`coterie.grouping.best_intervals`.

Entry [first, last] is the cost of the interval first..last, both ends included; lower is better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coterie._read import read_array
from coterie.errors import SettingError
from coterie.grouping.matrix import FloatArray, IntArray, as_square, check_finite, symmetrise

#: entries of a table that a pass works on at once, so that it stays in the processor's cache
_BLOCK = 1 << 16


def read_table(values: ArrayLike, *, finite: bool = False) -> FloatArray:
    """A float64 copy of a (T, T) table of costs."""
    table = read_array(values, "cost", SettingError).astype(np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table):
        raise SettingError(
            f"Parameter `cost` should be square, with at least one item. Found shape {table.shape}. Costs of intervals "
            "are made by affinity_costs, centre_costs and function_costs."
        )
    if finite and not np.isfinite(table).all():
        item, centre = (int(index) for index in np.argwhere(~np.isfinite(table))[0])
        raise SettingError(
            f"Parameter `cost` should have finite entries only, because they are added up. Found {table[item, centre]} "
            f"for item {item} and centre {centre}. The logarithm of 0 is a frequent cause."
        )
    return table


def affinity_costs(matrix: ArrayLike, kind: str = "density") -> FloatArray:
    """Costs of intervals from an affinity: the negative worth of the interval as a group.

    Args:
        matrix: (T, T) affinity of ordered tasks, larger is better, diagonal included.
        kind: ``"density"``: sum of all entries within the interval over its length, so that the total cost is the
            negative sum of densities. ``"sum"``: without the division; with affinities that are mostly positive it
            prefers few large intervals.

    Returns:
        (T, T); entries below the diagonal have no meaning.

    Cost:
        T^2, by prefix sums in two directions.
    """
    a = as_square(matrix)
    a = symmetrise(check_finite(a, [f"task {i}" for i in range(len(a))]))
    if kind not in ("density", "sum"):
        raise SettingError(f"Parameter `kind` should be 'density' or 'sum'. Found {kind!r}.")
    n, mean = len(a), float(a.mean())
    prefix = np.zeros((n + 1, n + 1))
    # Less its mean: a large constant would take the digits of the sums. It comes back with the square of the length.
    prefix[1:, 1:] = (a - mean).cumsum(axis=0).cumsum(axis=1)
    corner = np.diag(prefix)
    length = np.maximum(np.arange(n)[None, :] - np.arange(n)[:, None] + 1.0, 1.0)
    within = corner[None, 1:] + corner[:-1, None] - 2 * prefix[:-1, 1:] + mean * length**2
    return -within / length if kind == "density" else -within


def centre_costs(cost: ArrayLike, centre: str = "best") -> FloatArray:
    """Costs of intervals in which every item pays for its distance to one item, the centre of the interval.

    Args:
        cost: (T, T); entry [i, c] is what item i costs when c is the centre. For affinities give their negative.
        centre: ``"best"``: the item of the interval for which the sum is least. ``"middle"``: the one in the middle,
            (first + last + 1) // 2, as published.

    Returns:
        (T, T); entries below the diagonal have no meaning.

    Cost:
        Prefix sums along the items, then T^2 for the middle and T^3 / 6 for the best centre: 0.02 s and 0.2 s
        at T = 1,000.

    Source:
        Go et al., "Addressing Negative Transfer in Diffusion Models", arXiv 2306.00354, interval clustering:
        distances |t - c|, |log SNR(t) - log SNR(c)|, and the negative affinity of t and c. The best centre is our own
        addition.

    Example:
        >>> time = np.array([0.0, 1.0, 2.0, 9.0])
        >>> distance = np.abs(time[:, None] - time[None, :])
        >>> centre_costs(distance)[0].tolist(), centre_costs(distance, "middle")[0].tolist()
        ([0.0, 1.0, 2.0, 10.0], [0.0, 1.0, 2.0, 10.0])
    """
    paid = read_table(cost, finite=True)
    if centre not in ("best", "middle"):
        raise SettingError(f"Parameter `centre` should be 'best' or 'middle'. Found {centre!r}.")
    n = len(paid)
    prefix = np.zeros((n + 1, n))
    paid.cumsum(axis=0, out=prefix[1:])
    return _middle(prefix) if centre == "middle" else _best(prefix)


def _middle(prefix: FloatArray) -> FloatArray:
    """Each interval pays for its middle item."""
    n = prefix.shape[1]
    first, last = np.triu_indices(n)
    middle = (first + last + 1) // 2
    result = np.full((n, n), np.inf)
    result[first, last] = prefix[last + 1, middle] - prefix[first, middle]
    return result


def _best(prefix: FloatArray) -> FloatArray:
    """Each interval pays for the cheapest of its items: one pass for each centre over the intervals that contain it."""
    n = prefix.shape[1]
    result = np.full((n, n), np.inf)
    until, since = np.ascontiguousarray(prefix[1:].T), np.ascontiguousarray(prefix[:-1].T)
    height = max(_BLOCK // n, 1)
    room = np.empty((height, n))
    for top in range(0, n, height):
        for c in range(top, n):
            bottom = min(top + height, c + 1)
            block = room[: bottom - top, : n - c]
            np.subtract(until[c, None, c:], since[c, top:bottom, None], out=block)
            np.minimum(result[top:bottom, c:], block, out=result[top:bottom, c:])
    return result


def function_costs(function: Callable[[IntArray, IntArray], Any], n: int) -> FloatArray:
    """Costs of all intervals from a function of (m,) first and (m,) last items that returns (m,) costs.

    It is called once, with arrays: write it with prefix sums.

    Example:
        >>> sums = np.concatenate([[0.0], np.cumsum([3.0, 1.0, 2.0])])
        >>> function_costs(lambda first, last: (sums[last + 1] - sums[first]) ** 2, 3)[0].tolist()
        [9.0, 16.0, 36.0]
    """
    first, last = (ends.astype(np.int64) for ends in np.triu_indices(n))
    values = np.asarray(function(first, last), dtype=np.float64)
    if values.shape != first.shape:
        raise SettingError(
            f"Parameter `function` should return one cost for each of the {len(first)} intervals that it is asked for. "
            f"Found shape {values.shape}. It gets two arrays, first and last items, and answers for all at once."
        )
    result = np.full((n, n), np.inf)
    result[first, last] = values
    return result
