"""Intervals that cover the luck of the training seed and of the examples that happened to be in the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
        return f"{100 * self.mean:+.1f} % ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


@dataclass(frozen=True)
class Noise:
    """Variance of a mean over another draw of examples, and its degrees of freedom; NaN with too few labels."""

    variance: float
    freedom: float


def t_interval(samples: NDArray[Any], examples: Noise | None = None, level: float = 0.95) -> Interval:
    """Student's t interval of a mean over training seeds, with the noise of the examples when it is given.

    The variance of the mean is that over seeds, plus that over examples; the degrees of freedom follow Welch and
    Satterthwaite. Adding the two counts their interaction twice, so the interval is rather too wide.

    Args:
        samples: (n,) numbers, one a training seed.
        examples: noise of the examples.
        level: coverage.

    Example:
        >>> t_interval(np.array([1.0, 2.0, 3.0])).mean
        2.0
    """
    from scipy.stats import t

    values = np.asarray(samples, dtype=float)
    n, mean = len(values), float(values.mean())
    noise = examples or Noise(0.0, 1.0)
    if n < 2 or not np.isfinite(noise.variance):
        return Interval(mean, float("nan"), float("nan"))
    by_seed = float(values.var(ddof=1)) / n
    variance = by_seed + noise.variance
    if variance <= 0:
        return Interval(mean, mean, mean)
    freedom = variance**2 / (by_seed**2 / (n - 1) + noise.variance**2 / noise.freedom)
    half = float(t.ppf(0.5 + level / 2, freedom)) * variance**0.5
    return Interval(mean, mean - half, mean + half)
