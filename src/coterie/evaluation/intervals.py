"""Intervals that cover the luck of the training seed and of the examples that happened to be in the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
