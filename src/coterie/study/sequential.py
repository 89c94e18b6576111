"""Evidence that stays valid for somebody who looks after every run.

An e-process starts at 1, and without a true difference it reaches 1 / alpha at any time, in a sequence without an end,
with a probability of alpha at most (Ville's inequality). No number of looks has to be planned.

Here it is the likelihood ratio of Student's t for independent normal differences of unknown variance, averaged over
the size of the effect in standard deviations, which has a half-normal distribution of a few widths.

Source: Lai (1976), "On confidence sequences" (scale-invariant likelihood ratios); Pérez-Ortiz, Lardy, de Heide &
Grünwald (2022), "E-statistics, group invariance and anytime-valid testing" (one-sided nulls). The mixture of widths and
its closed form by Student's distribution are worked out here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coterie.study.results import Floats

#: widths of the effect's distribution, in standard deviations of a difference; large ones decide with few seeds where
#: the gain is far beyond the noise, small ones with many seeds where it is not
WIDTHS = (0.3, 1.0, 3.0, 10.0)
#: fewer differences decide nothing, however alike they are
FEWEST = 3


@dataclass(frozen=True)
class GainInterval:
    """A mean gain as a share, with an interval; the ends are infinite where too little is known."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """A JSON-ready form; None where an end is not known."""
        return {key: (float(value) if np.isfinite(value) else None) for key, value in vars(self).items()}

    def __str__(self) -> str:
        if not np.isfinite(self.low):
            return f"{100 * self.mean:+.1f} %"
        return f"{100 * self.mean:+.1f} % ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def evidence(differences: Floats, above: float = 0.0) -> float:
    """The e-process after some differences: how much they speak for a mean above a number; 1 before the first.

    Args:
        differences: (n,) one a seed, independent of each other.
        above: the number; the mean is not above it under the null hypothesis.

    Example:
        >>> round(evidence(np.array([0.05, 0.04, 0.06])), 1), evidence(np.array([]))
        (14.3, 1.0)
    """
    from scipy.special import stdtr  # Student's distribution

    n = len(differences)
    squares = float(((differences - above) ** 2).sum())
    if not n or squares <= 0:
        return 1.0
    slope = float((differences - above).sum()) / np.sqrt(squares)
    shares = _shares(n, slope**2)
    t = np.sign(slope) * np.sqrt(n * shares / (1 - shares))
    return float((_two_sided(n, slope**2) * 2 * stdtr(n, t)).mean())


def mean_interval(differences: Floats, alpha: float) -> GainInterval:
    """The mean with the interval of a confidence sequence: at all times at once it holds with 1 - alpha.

    Means that two-sided evidence of 1 / alpha speaks against are outside.

    Example:
        >>> found = mean_interval(np.array([0.05, 0.04, 0.06, 0.05]), 0.05)
        >>> round(found.low, 3), round(found.high, 3)
        (0.015, 0.085)
    """
    n = len(differences)
    if not n:
        return GainInterval(float("nan"), -np.inf, np.inf)
    mean = float(differences.mean())
    spread = float(((differences - mean) ** 2).sum())
    if n < FEWEST or float(_two_sided(n, float(n)).mean()) < 1 / alpha:
        return GainInterval(mean, -np.inf, np.inf)
    low, high = 0.0, float(n)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(_two_sided(n, middle).mean()) < 1 / alpha else (low, middle)
    # high is (sum of deviations)^2 / (sum of their squares), for deviations from an end of the interval
    reach = float(np.sqrt(high * spread / (n * max(n - high, 1e-12 * n))))
    return GainInterval(mean, mean - reach, mean + reach)


def _shares(n: int, squared: float) -> Floats:
    """For each width, a number below 1 that is larger the less the differences vary around their mean."""
    widths = np.array(WIDTHS) ** 2
    return min(squared, float(n)) * widths / (1 + n * widths)


def _two_sided(n: int, squared: float) -> Floats:
    """(widths,) evidence for a mean on either side."""
    widths = np.array(WIDTHS) ** 2
    return (1 + n * widths) ** -0.5 * (1 - _shares(n, squared)) ** (-n / 2)


def spent(attempt: int, alpha: float) -> float:
    """The share of alpha for the attempt (1, 2, ...) at confirming a choice; all attempts together spend alpha.

    Example:
        >>> round(spent(1, 0.05), 4), round(spent(2, 0.05), 4)
        (0.0304, 0.0076)
    """
    return alpha * 6 / (np.pi * attempt) ** 2
