"""Bootstrap intervals, computed for all resamples at once.

A measure that takes weights is evaluated for a matrix of them: its first row is all ones and gives the measure itself,
every further row says how often each unit (a subset, a pair, a training) was drawn. One matrix product then does the
work of a loop over resamples, and measures that were evaluated with the same weights can be divided by each other
resample by resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie._check import whole_number
from coterie.evaluation.intervals import Interval

Floats = NDArray[np.float64]
LEVEL = 0.95
#: smallest divisor of which a share is told
LEAST = 0.05


@dataclass(frozen=True, eq=False)
class Figure:
    """A measure, and what it is in every resample.

    Attributes:
        draws: (1 + resamples,); the first is the measure itself. NaN where it has no value.
    """

    draws: Floats

    @property
    def value(self) -> float:
        """The measure itself."""
        return float(self.draws[0])

    def interval(self, level: float = LEVEL) -> Interval:
        """The measure with its percentile interval; no ends where fewer than half of the resamples have a value."""
        others = self.draws[1:][np.isfinite(self.draws[1:])]
        if len(others) < max(2, (len(self.draws) - 1) / 2) or not np.isfinite(self.value):
            return Interval(self.value, float("nan"), float("nan"))
        low, high = np.quantile(others, [(1 - level) / 2, (1 + level) / 2])
        return Interval(self.value, float(low), float(high))

    def __truediv__(self, other: Figure) -> Figure:
        """Ratio, resample by resample; no value where the divisor is below 0.05: a share of nothing says nothing."""
        known = other.draws > LEAST
        return Figure(np.where(known, self.draws / np.where(known, other.draws, 1.0), np.nan))

    def __sub__(self, other: Figure) -> Figure:
        """Difference, resample by resample."""
        return Figure(self.draws - other.draws)


def resample(count: int, resamples: int, seed: int) -> Floats:
    """Weights (1 + resamples, count): a row of ones, then how often each unit was drawn.

    Args:
        count: number of units.
        resamples: number of resamples; 0 for the measure alone.
        seed: of the drawing.

    Example:
        >>> resample(3, 2, seed=0).sum(1).tolist()
        [3.0, 3.0, 3.0]
    """
    whole_number(resamples, "resamples", low=0)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples) if count else np.zeros((resamples, 0))
    return np.concatenate([np.ones((1, count)), drawn.astype(np.float64)])


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """(draws,) means of the known entries of `values` (units,) or (draws, units); NaN where none is known."""
    known = np.isfinite(values)
    total = np.where(known, weights, 0.0).sum(-1)
    summed = (np.where(known, values, 0.0) * weights).sum(-1)
    return np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan)
