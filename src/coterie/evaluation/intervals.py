"""Intervals over training seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A mean with a two-sided interval; `low` and `high` are NaN with fewer than two samples."""

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


def t_interval(samples: NDArray[Any], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent samples.

    Args:
        samples: (n,) numbers, one a training seed.
        level: coverage.

    Example:
        >>> t_interval(np.array([1.0, 2.0, 3.0])).mean
        2.0
    """
    from scipy.stats import t

    values = np.asarray(samples, dtype=float)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(t.ppf(0.5 + level / 2, n - 1)) * float(values.std(ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half)
