"""Entries that tie, whatever unit and whatever constant they come with: the matrix in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coterie.grouping.matrix import FloatArray, largest

#: steps of the grid in a typical difference between two entries, and least size of a step in units of rounding
STEPS, ROUNDING = 2**18, 8


@dataclass(frozen=True, eq=False)
class Gridded:
    """A = unit * whole + origin, up to half a unit.

    Attributes:
        whole: (T, T) whole numbers, as float64.
        unit: step of the grid, in the units of A.
        origin: an entry of A, or 0.
    """

    whole: FloatArray
    unit: float
    origin: float


def on_grid(matrix: FloatArray, *, signed: bool = False) -> Gridded:
    """Round to whole multiples of a small part of a typical difference between entries.

    Multiplying a matrix by 3 or adding 0.1 changes last digits, and with them whether entries, or sums of them, are
    equal; a method without tolerances may then answer differently. The whole numbers stay the same.

    Args:
        matrix: (T, T) finite.
        signed: keep 0 at 0, for methods that read signs. Otherwise the median entry is the origin.

    Cost:
        Two partial sorts and two copies of the matrix.

    Example:
        >>> one, other = np.array([[0.0, 0.1], [0.3, 0.0]]), np.array([[1.0, 1.7], [3.1, 1.0]])
        >>> np.array_equal(one, (other - 1) / 7), np.array_equal(on_grid(one).whole, on_grid(other).whole)
        (False, True)
    """
    pairs = matrix.ravel()[1:].reshape(len(matrix) - 1, len(matrix) + 1)[:, :-1]
    origin = _median(pairs.ravel())
    noise = ROUNDING * float(np.finfo(np.float64).eps) * largest(matrix)
    spread = 0.0
    for entries in (pairs, np.diag(matrix)):  # where all pairs are alike, the diagonal has the differences
        apart = np.abs(entries - origin)
        apart = apart[apart > noise]
        if len(apart):
            spread = _median(apart)  # an outlier has no say
            break
    # A coarser grid holds every second, fourth, ... line of the finer one, so that simple numbers stay on it.
    coarser = 2.0 ** np.ceil(np.log2(max(STEPS * noise / spread, 1.0))) if spread else 1.0
    unit = coarser * spread / STEPS or 1.0
    return Gridded(np.rint((matrix - (0.0 if signed else origin)) / unit), unit, 0.0 if signed else origin)


def _median(values: FloatArray) -> float:
    """The lower median: always one of the values, so that differences from it are exact where values are equal."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])
