"""A Gaussian process over proportions: lengths of sources that targets first share and then make their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve  # pyright: ignore[reportUnknownVariableType]
from scipy.optimize import minimize

from coterie.study.mixtures.kernels import Amounts, covariance, features, gradient, variances
from coterie.study.mixtures.results import Numbers
from coterie.study.results import Floats, Mask

#: logarithms of the amounts that are expected: parts, luck, length; what each source counts; the slope on a column
START, SOURCE_START, COLUMN_START = (0.0, 0.0, -3.0, -0.5), 0.0, 0.0
#: standard deviations of these
WIDTHS, SOURCE_WIDTH, COLUMN_WIDTH = (1.0, 1.5, 1.5, 1.5), 1.0, 2.0
#: standard deviations of how a target's own amounts differ from those that targets share: a loss may depend on few of
#: the sources, and which they are is its own
OWN_WIDTHS, OWN_SOURCE_WIDTH, OWN_COLUMN_WIDTH = (0.7, 1.0, 1.5, 0.7), 2.0, 1.0
#: the scale of a target is as uncertain as if so many runs more had told it
SCALE_RUNS = 2.0
#: steps of a search for amounts: shared, and of a target of its own
SHARED_STEPS, OWN_STEPS = 80, 15
#: logarithms of amounts are searched between these
LOWEST, HIGHEST = -9.0, 6.0
#: amounts are learnt from at most so many runs, a random choice of them; values from all
LEARNT_FROM = 256


@dataclass(frozen=True, eq=False)
class Seen:
    """Features of runs, and how those of other mixtures are made alike.

    Attributes:
        view: what of the shares is looked at.
        middle, unit: features are centred and scaled by these.
        x: (runs, sources).
    """

    view: str
    middle: Floats
    unit: float
    x: Floats

    @staticmethod
    def of(view: str, shares: Floats) -> Seen:
        """Of the runs."""
        raw = features(view, shares)
        middle, unit = raw.mean(0), max(float(raw.std(0).mean()), 1e-9)
        return Seen(view, middle, unit, (raw - middle) / unit)

    def at(self, shares: Floats) -> Floats:
        """Features of other mixtures."""
        return (features(self.view, shares) - self.middle) / self.unit


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of one target, in units of its runs' standard deviation.

    Attributes:
        amounts: of the covariance.
        rows: numbers of the runs that measured it.
        weights: (rows,) of the covariances with the runs, in the mean.
        inverse: (rows, rows) of the covariance of what was observed.
        spread: variance of values for a covariance of 1.
        left_out: (rows,) what would be said of each run without it.
    """

    amounts: Amounts
    rows: Mask
    weights: Floats
    inverse: Floats
    spread: float
    left_out: Floats

    def at(self, asked: Floats, x: Floats, *, variance: bool) -> tuple[Floats, Floats]:
        """Values at features and, where they are wanted, their variances without the luck of a run; else zeros."""
        cross = covariance(self.amounts, asked, x[self.rows])
        if not variance:
            return cross @ self.weights, np.zeros(len(asked))
        explained = np.einsum("ij,ij->i", cross @ self.inverse, cross)
        left = np.maximum(variances(self.amounts, asked) - explained, 1e-12)
        return cross @ self.weights, self.spread * left

    def jointly(self, asked: Floats, x: Floats) -> Floats:
        """Covariance of values at features, without the luck of runs."""
        cross = covariance(self.amounts, asked, x[self.rows])
        return self.spread * (covariance(self.amounts, asked, asked) - cross @ self.inverse @ cross.T)


def fit_targets(x: Floats, values: Floats, columns: Floats) -> tuple[Known, ...]:
    """What runs tell of every target.

    Args:
        x: (runs, sources) features.
        values: (runs, targets), standardised; NaN where a target was not measured.
        columns: (runs, targets, columns) what else speaks of each target.
    """
    learning = _learning_rows(values)
    expected = shared_amounts(x[learning], values[learning], columns[learning])
    found: list[Known] = []
    for target, one in enumerate(values.T):
        both = np.concatenate([x, columns[:, target]], 1)
        rows = learning & np.isfinite(one)
        rows = rows if rows.any() else np.isfinite(one)
        found.append(known(own_amounts(both[rows], one[rows], expected), both, one))
    return tuple(found)


def shared_amounts(x: Floats, values: Floats, columns: Floats) -> Amounts:
    """The amounts that all targets share.

    Targets that react alike tell the same: all together count as so many as are different, by the eigenvalues of
    their correlations.

    Args:
        x: (runs, sources) features.
        values: (runs, targets), standardised; NaN where a target was not measured.
        columns: (runs, targets, columns) what else speaks of each target.
    """
    sources, more = x.shape[1], columns.shape[2]
    start = np.array([*START, *[SOURCE_START] * sources, *[COLUMN_START] * more])
    widths = np.array([*WIDTHS, *[SOURCE_WIDTH] * sources, *[COLUMN_WIDTH] * more])
    parts: list[tuple[Floats, Floats]] = []
    for rows, targets in _patterns(values):
        alike = [targets] if not more else targets[:, None]  # with columns, each target has features of its own
        parts += [(np.concatenate([x[rows], columns[rows, some[0]]], 1), values[np.ix_(rows, some)]) for some in alike]
    share = _different(values) / values.shape[1]

    def cost(logs: Floats) -> tuple[float, Floats]:
        amounts, total, slope = Amounts(logs, sources), 0.0, np.zeros_like(logs)
        for at, told in parts:
            density, by = _density(amounts, at, told)
            total, slope = total + density, slope + by
        off = (logs - start) / widths
        return -share * total + 0.5 * float(off @ off), -share * slope + off / widths

    return Amounts(_searched(cost, start, SHARED_STEPS), sources)


def own_amounts(x: Floats, values: Floats, expected: Amounts) -> Amounts:
    """The amounts of one target.

    Args:
        x: (runs, features) of the runs that measured it.
        values: (runs,) standardised.
        expected: amounts that they are near to.
    """
    sources = expected.sources
    columns = [OWN_COLUMN_WIDTH] * (x.shape[1] - sources)
    widths = np.array([*OWN_WIDTHS, *[OWN_SOURCE_WIDTH] * sources, *columns])

    def cost(logs: Floats) -> tuple[float, Floats]:
        density, slope = _density(Amounts(logs, sources), x, values[:, None])
        off = (logs - expected.logs) / widths
        return -density + 0.5 * float(off @ off), -slope + off / widths

    return Amounts(_searched(cost, expected.logs, OWN_STEPS), sources)


def known(amounts: Amounts, x: Floats, values: Floats) -> Known:
    """What runs tell of a target at given amounts.

    Args:
        amounts: of the covariance.
        x: (runs, features).
        values: (runs,) standardised; NaN where the target was not measured.
    """
    rows = np.isfinite(values)
    inverse, _ = _inverse(amounts, x[rows])
    weights = inverse @ values[rows]
    spread = (float(values[rows] @ weights) + SCALE_RUNS) / (rows.sum() + SCALE_RUNS)
    return Known(amounts, rows, weights, inverse, spread, values[rows] - weights / np.diag(inverse))


def _learning_rows(values: Floats) -> Mask:
    """Which runs amounts are learnt from."""
    rows = np.zeros(len(values), dtype=bool)
    rows[np.random.default_rng(0).permutation(len(values))[:LEARNT_FROM]] = True
    return rows


def _searched(cost: object, start: Floats, steps: int) -> Floats:
    limits = [(LOWEST, HIGHEST)] * len(start)
    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": steps})
    return np.asarray(found.x, dtype=np.float64)


def _patterns(values: Floats) -> Sequence[tuple[Numbers, Numbers]]:
    """Runs and the targets that exactly these measured, as numbers."""
    measured = np.isfinite(values)
    kinds, which = np.unique(measured, axis=1, return_inverse=True)
    found = [(np.flatnonzero(kinds[:, kind]), np.flatnonzero(which.ravel() == kind)) for kind in range(kinds.shape[1])]
    return [part for part in found if len(part[0])]


def _different(values: Floats) -> float:
    """How many targets there are that do not react alike: (sum of eigenvalues)^2 / sum of their squares."""
    filled = np.where(np.isfinite(values), values, 0.0)
    norms = np.sqrt((filled**2).sum(0))
    filled = filled / np.where(norms > 0, norms, 1.0)
    alike = filled.T @ filled
    return float(np.trace(alike) ** 2 / max(float((alike**2).sum()), 1e-300))


def _inverse(amounts: Amounts, x: Floats) -> tuple[Floats, float]:
    """Inverse of the covariance of what was observed, and half the logarithm of its determinant."""
    matrix = covariance(amounts, x, x)
    matrix[np.diag_indices(len(x))] += amounts.noise
    factor = cho_factor(matrix, lower=True, check_finite=False)
    inverse = cho_solve(factor, np.eye(len(x)), check_finite=False)
    return np.asarray(inverse, dtype=np.float64), float(np.log(np.diag(factor[0])).sum())


def _density(amounts: Amounts, x: Floats, values: Floats) -> tuple[float, Floats]:
    """Logarithm of the density of values (runs, targets) of unknown scales, and its derivative by the amounts."""
    n, targets = values.shape
    inverse, half = _inverse(amounts, x)
    weights = inverse @ values
    squares = np.einsum("ij,ij->j", values, weights) + SCALE_RUNS
    density = -(n + SCALE_RUNS) / 2 * float(np.log(squares).sum()) - targets * half
    weight = (weights * ((n + SCALE_RUNS) / squares)) @ weights.T - targets * inverse
    return density, gradient(amounts, x, 0.5 * weight)
