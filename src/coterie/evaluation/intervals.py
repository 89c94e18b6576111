"""Intervals that cover the luck of the training seed and of the examples that happened to be in the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import whole_number

#: ends below this gain are not told apart in words: with two seeds they are a matter of luck
WORST = -10.0


@dataclass(frozen=True)
class Interval:
    """A mean with a two-sided interval; `low` and `high` are NaN with fewer than two seeds or labels."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """A JSON-ready form; None where there is no number."""
        return {k: (float(v) if np.isfinite(v) else None) for k, v in vars(self).items()}

    def __str__(self) -> str:
        if not np.isfinite(self.low):
            return f"{100 * self.mean:+.1f} %"
        low, high = (
            f"{100 * end:+.1f}" if end >= WORST else f"below {100 * WORST:.0f}" for end in (self.low, self.high)
        )
        return f"{100 * self.mean:+.1f} % ({low} to {high})"


@dataclass(frozen=True)
class Noise:
    """Variance of a mean over another draw of examples, and its degrees of freedom; NaN with too few labels."""

    variance: float
    freedom: float


@dataclass(frozen=True, eq=False)
class Spread:
    """A mean over training seeds, and what it may be off by.

    Attributes:
        mean: the mean.
        seeds: number of seeds.
        by_seed: variance from one seed to another; NaN with one seed.
        examples: noise of the examples, which more seeds do not lower.
    """

    mean: float
    seeds: int
    by_seed: float
    examples: Noise

    @staticmethod
    def of(samples: NDArray[Any], examples: Noise | None = None) -> Spread:
        """Of (n,) numbers, one a training seed."""
        values = np.asarray(samples, dtype=float)
        by_seed = float(values.var(ddof=1)) if len(values) > 1 else float("nan")
        return Spread(float(values.mean()), len(values), by_seed, examples or Noise(0.0, 1.0))

    def error(self, seeds: int | None = None) -> float:
        """Standard error of the mean, with so many seeds."""
        return (self.by_seed / (seeds or self.seeds) + self.examples.variance) ** 0.5

    def reach(self, level: float = 0.95, seeds: int | None = None) -> float:
        """Half-width of the interval with so many seeds; NaN where it cannot be known.

        Seeds and examples have a Student's t half-width each, and these add up in squares. With few seeds, whose
        variance is itself a matter of luck, one t quantile for the sum of the variances (Welch and Satterthwaite) gives
        intervals that are too narrow, see ``benchmarks/verdicts.py``.
        """
        from scipy.special import stdtrit  # quantiles of Student's t; scipy.stats takes 30 times as long for one

        n = seeds or self.seeds
        if n < 2 or not np.isfinite(self.by_seed + self.examples.variance):
            return float("nan")
        quantiles: NDArray[np.float64] = stdtrit([n - 1, self.examples.freedom], 0.5 + level / 2)
        return float(np.sqrt(quantiles**2 @ [self.by_seed / n, self.examples.variance]))


def t_interval(samples: NDArray[Any], examples: Noise | None = None, level: float = 0.95) -> Interval:
    """Student's t interval of a mean over training seeds, with the noise of the examples when it is given.

    See :meth:`Spread.reach`. Seeds and examples are added as if they were independent, which counts their interaction
    twice, so the interval is rather too wide.

    Args:
        samples: (n,) numbers, one a training seed.
        examples: noise of the examples.
        level: coverage.

    Example:
        >>> t_interval(np.array([1.0, 2.0, 3.0])).mean
        2.0
    """
    spread = Spread.of(samples, examples)
    half = spread.reach(level)
    return Interval(spread.mean, spread.mean - half, spread.mean + half)


# A measure that takes weights is evaluated for a matrix of them: its first row is all ones and gives the measure
# itself, every further row says how often each unit (a subset, a pair, a training) was drawn. One matrix product then
# does the work of a loop over resamples, and measures that were evaluated with the same weights can be divided by each
# other resample by resample.

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
