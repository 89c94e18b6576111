"""Covariances of mixtures: near ones are alike, with a length a source, and a part that is linear in each source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coterie.study.results import Floats

#: share below which a source hardly counts, where shares are looked at on a logarithmic scale
FLOOR = 1e-3
#: what of the shares is looked at
ROOTS, LOGS = "roots", "logs"
#: least variance of the luck of a run, as a share of the variance of values
NOISE = 1e-5
#: variance of the level, as a share of the variance of values
LEVEL = 0.4
#: numbers of a covariance beside those of single sources
COMMON = 4
#: squared distances are larger by this: the slope of a distance of 0 is none
_NEAR = 1e-12


def features(view: str, shares: Floats) -> Floats:
    """What a view looks at, (mixtures, sources): square roots of the shares, or their logarithms.

    Example:
        >>> features("roots", np.array([[0.25, 0.75]])).round(2)
        array([[0.5 , 0.87]])
    """
    shares = np.maximum(shares, 0.0)
    shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)
    return np.sqrt(shares) if view == ROOTS else np.log(shares + FLOOR) / np.log(1 / FLOOR)


@dataclass(frozen=True, eq=False)
class Amounts:
    """Numbers that a covariance is made of.

    Attributes:
        logs: (4 + sources + columns,) logarithms of the variance of the part in which near mixtures are alike, of the
            linear part, and of the luck of a run; of the inverse square of the length; of how much each source counts;
            and of the variance of the slope on each column of other evidence.
        sources: their number.
    """

    logs: Floats
    sources: int

    @property
    def noise(self) -> float:
        """Variance of the luck of a run."""
        return float(np.exp(self.logs[2])) + NOISE

    @property
    def rates(self) -> Floats:
        """(features,) squared distance that a unit of each makes; columns make none."""
        counts = self.logs[COMMON : COMMON + self.sources]
        found = np.zeros(len(self.logs) - COMMON)
        found[: self.sources] = np.exp(counts + self.logs[3]) / self.sources
        return found

    @property
    def slopes(self) -> Floats:
        """(features,) variance of the slope of each."""
        found = np.exp(self.logs[COMMON:])
        found[: self.sources] *= np.exp(self.logs[1]) / self.sources
        return found


def covariance(amounts: Amounts, a: Floats, b: Floats) -> Floats:
    """Covariance (len(a), len(b)) of values at features, without the luck of runs.

    Near mixtures are alike as the exponential of minus their distance: values may bend at every mixture, as losses do
    where a source comes in.
    """
    scale = np.sqrt(amounts.rates)
    near = np.exp(amounts.logs[0] - _distances(a * scale, b * scale))
    return near + (a * amounts.slopes) @ b.T + LEVEL


def variances(amounts: Amounts, a: Floats) -> Floats:
    """(len(a),) variances of values at features, without the luck of runs."""
    return np.exp(amounts.logs[0]) + (a**2) @ amounts.slopes + LEVEL


def gradient(amounts: Amounts, x: Floats, weight: Floats) -> Floats:
    """Derivative of ``sum(weight * (covariance(x, x) + noise))`` by the logarithms of the amounts.

    Args:
        amounts: where.
        x: features of the runs.
        weight: (runs, runs), symmetric.
    """
    rates, slopes, sources = amounts.rates, amounts.slopes, amounts.sources
    scale = np.sqrt(rates)
    distance = _distances(x * scale, x * scale)
    near = weight * np.exp(amounts.logs[0] - distance)
    slope = near / (-2 * distance)  # by the squared distance
    lengths = (2 * (x**2).T @ slope.sum(1) - 2 * np.einsum("ij,ij->j", x, slope @ x)) * rates
    lines = np.einsum("ij,ij->j", x, weight @ x) * slopes
    common = [near.sum(), lines[:sources].sum(), np.trace(weight) * np.exp(amounts.logs[2]), lengths.sum()]
    return np.concatenate([common, lengths + lines])


def _distances(a: Floats, b: Floats) -> Floats:
    """(len(a), len(b)) distances, never quite 0."""
    found = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(found, 0.0) + _NEAR)
