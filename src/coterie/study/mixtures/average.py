"""The usual predictor of mixtures: the mean of two processes and of trees, weighed by runs that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from coterie.study.mixtures.forest import MixtureForest, grow
from coterie.study.mixtures.kernels import LOGS, ROOTS
from coterie.study.mixtures.process import Known, Seen, fit_targets
from coterie.study.mixtures.results import (
    MixtureResults,
    check_told,
    error_correlations,
    total_of,
    unit_scales,
)
from coterie.study.mixtures.squeeze import Squeeze
from coterie.study.results import Floats

#: weights are drawn to the even mean by so many times the mean square error of the best part, for each unit of squared
#: distance: trees see few runs when one is left out, and look worse than they are (benchmarks/mixtures.py)
EVEN = 15.0
#: steps from 0 to 1 of the weights that are tried
STEPS = 30
#: predictive variances are as sure as if so many runs that were left out had confirmed them
CONFIRMED = 10.0
#: fewer runs of another size are no evidence
FEWEST_OTHERS = 5


@dataclass(frozen=True, eq=False)
class ViewProcess:
    """Processes in one view of the shares.

    Attributes:
        seen: features of the runs.
        columns: (runs, targets, columns) of other evidence at the runs.
        targets: what is known of each target.
    """

    seen: Seen
    columns: Floats
    targets: tuple[Known, ...]

    @staticmethod
    def of(view: str, shares: Floats, values: Floats, columns: Floats) -> ViewProcess:
        """Of runs with standardised values."""
        seen = Seen.of(view, shares)
        return ViewProcess(seen, columns, fit_targets(seen.x, values, columns))

    def at(self, target: int, asked: Floats, columns: Floats, *, variance: bool) -> tuple[Floats, Floats]:
        """Values of a target at features and, where they are wanted, their variances, standardised."""
        return self.targets[target].at(np.concatenate([asked, columns], 1), self._runs(target), variance=variance)

    def jointly(self, target: int, asked: Floats, columns: Floats) -> Floats:
        """Covariance of the values of a target at features."""
        return self.targets[target].jointly(np.concatenate([asked, columns], 1), self._runs(target))

    def left_out(self) -> tuple[Floats, Floats]:
        """What would be said of each run without it, and its variance with the luck of the run; (runs, targets)."""
        mean = np.full((len(self.seen.x), len(self.targets)), np.nan)
        variance = mean.copy()
        for target, one in enumerate(self.targets):
            mean[one.rows, target] = one.left_out
            variance[one.rows, target] = one.spread / np.diag(one.inverse)
        return mean, variance

    def _runs(self, target: int) -> Floats:
        return np.concatenate([self.seen.x, self.columns[:, target]], 1)


@dataclass(frozen=True, eq=False)
class EarlierRuns:
    """Runs of before, when the sources were others.

    Attributes:
        results: of these runs; targets that are not measured any more are not looked at.
        made_of: for each source of now, what it is made of: shares of sources of then. A source that is not named is
            the one of then with its name; one that there was not then is like the mean mixture of then.
        name: what to call them.
    """

    results: MixtureResults
    made_of: Mapping[str, Mapping[str, float]]
    name: str = "before"

    def matching(self, targets: Sequence[str]) -> MixtureResults:
        """The runs with the targets of now, NaN where there was none."""
        there = {name: number for number, name in enumerate(self.results.targets)}
        missing = np.full(len(self.results.losses), np.nan)
        columns = [self.results.losses[:, there[name]] if name in there else missing for name in targets]
        return replace(self.results, targets=tuple(targets), losses=np.stack(columns, 1))

    def parts(self, sources: Sequence[str]) -> Floats:
        """(sources, sources of then) shares that add up to 1 in each row."""
        then = self.results.sources
        found = np.tile(self.results.shares.mean(0), (len(sources), 1))
        for row, source in enumerate(sources):
            given = self.made_of.get(source, {source: 1.0} if source in then else None)
            if given is not None:
                found[row] = [given.get(one, 0.0) for one in then]
        return found / found.sum(1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Others:
    """What runs of other sizes say of the same targets.

    Attributes:
        names: of the sizes.
        posteriors: after the runs of each.
        parts: for each, (sources, its sources) what the sources are made of in terms of those that its runs had.
    """

    names: tuple[str, ...] = ()
    posteriors: tuple[AveragedMixtures, ...] = ()
    parts: tuple[Floats, ...] = ()

    def columns(self, shares: Floats, targets: int) -> Floats:
        """(mixtures, targets, sizes) what each size says, in units of its own runs' standard deviation."""
        both = zip(self.posteriors, self.parts, strict=True)
        found = [one.standardised(shares @ parts) for one, parts in both]
        return np.stack(found, 2) if found else np.zeros((len(shares), targets, 0))


@dataclass(frozen=True, eq=False)
class AveragedMixtures:
    """What processes and trees know together.

    Attributes:
        views: the processes.
        forest: the trees; None where they count nothing.
        weights: (parts,) of the views, then of the trees; they add up to 1.
        squeeze: the scale on which losses are predicted.
        middle, scale: (targets,) of the losses on that scale.
        wider: (targets,) factor on variances that makes them fit the errors of runs that were left out.
        left_out: (runs, targets) what would be said of each run without it.
        alike: (targets, targets) correlations of errors on the scale.
        others: what runs of other sizes say.
    """

    views: tuple[ViewProcess, ...]
    forest: MixtureForest | None
    weights: Floats
    squeeze: Squeeze
    middle: Floats
    scale: Floats
    wider: Floats
    left_out: Floats
    alike: Floats
    others: Others

    def mean(self, shares: Floats) -> Floats:
        """Values of mixtures, (mixtures, targets)."""
        return self.squeeze.undo(self._moments(shares, variances=False)[0])

    def standardised(self, shares: Floats) -> Floats:
        """(mixtures, targets) values on the scale, in units of the runs' standard deviation."""
        return (self._moments(shares, variances=False)[0] - self.middle) / self.scale

    def predict(self, shares: Floats) -> tuple[Floats, Floats]:
        """Values of mixtures and their standard errors, each (mixtures, targets)."""
        mean, variance = self._moments(shares, variances=True)
        return self.squeeze.undo(mean), self.squeeze.slope(mean) * self.scale * np.sqrt(self.wider * variance)

    def total(self, shares: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted sums of targets and their standard errors; weights are (totals, targets)."""
        return total_of(*self.predict(shares), self.alike, weights)

    def _moments(self, shares: Floats, *, variances: bool) -> tuple[Floats, Floats]:
        """Values on the scale, and the mean of the processes' variances, standardised and not made wider."""
        targets = len(self.middle)
        columns = self.others.columns(shares, targets)
        mean, variance = np.zeros((2, len(shares), targets))
        for view, weight in zip(self.views, self.weights, strict=False):
            asked = view.seen.at(shares)
            for target in range(targets):
                found = view.at(target, asked, columns[:, target], variance=variances)
                mean[:, target] += weight * found[0]
                variance[:, target] += found[1] / len(self.views)
        mean = self.middle + self.scale * mean
        if self.forest is not None:
            mean += self.weights[-1] * (self.forest.mean(shares) - self.middle)
        return mean, variance

    def sample(self, shares: Floats, draws: int, rng: np.random.Generator) -> Floats:
        """Joint draws of the values of mixtures, (draws, mixtures, targets)."""
        mean = self._moments(shares, variances=False)[0]
        columns = self.others.columns(shares, len(self.middle))
        white = rng.standard_normal((draws, len(shares), len(self.middle))) @ root_of(self.alike)
        found = np.empty_like(white)
        for target in range(len(self.middle)):
            parts = [view.jointly(target, view.seen.at(shares), columns[:, target]) for view in self.views]
            root = root_of(self.wider[target] * np.mean(parts, 0))
            found[:, :, target] = mean[:, target] + self.scale[target] * (white[:, :, target] @ root)
        return self.squeeze.undo(found)


def root_of(matrix: Floats) -> Floats:
    """The symmetric square root of a covariance."""
    size, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(size, 0.0))) @ vectors.T


@dataclass(frozen=True)
class MixtureProcess:
    """The usual predictor: two processes, on square roots of shares and on their logarithms, and extra trees.

    Losses are predicted on a logarithmic scale, see :class:`coterie.study.mixtures.squeeze.Squeeze`.

    Args:
        trees: whether trees are grown.
        earlier: runs of before with other sources, see :class:`EarlierRuns`.

    Source: the parts are those that are known for mixtures (Gaussian processes; trees as in RegMix, ICLR 2025); the
    lengths, weights and the use of runs of other sizes are worked out here.
    """

    trees: bool = True
    earlier: tuple[EarlierRuns, ...] = ()

    def fit(self, results: MixtureResults) -> AveragedMixtures:
        """What is known after some runs.

        Runs of another size count by what they say of the same mixtures, with a slope of its own for each target that
        the other runs decide about. Where there is no run of the size that is asked about, the size with most runs
        stands for it.

        Raises:
            WorkloadError: no run; a target that no run measured.
        """
        counts = {size: results.sizes.count(size) for size in dict.fromkeys(results.sizes)}
        if "" not in counts and counts:
            own = max(counts, key=lambda size: counts[size])
            return self._fit(results.of_size(own), Others())
        names = tuple(size for size, count in counts.items() if size and count >= FEWEST_OTHERS)
        told = [results.of_size(size) for size in names] + [one.matching(results.targets) for one in self.earlier]
        parts = [np.eye(len(results.sources))] * len(names) + [one.parts(results.sources) for one in self.earlier]
        names += tuple(one.name for one in self.earlier)
        alone = MixtureProcess(trees=False)
        known = tuple(alone._fit(_filled(one), Others()) for one in told)
        return self._fit(results.of_size(""), Others(names, known, tuple(parts)))

    def _fit(self, results: MixtureResults, others: Others) -> AveragedMixtures:
        check_told(results)
        squeeze = Squeeze.of(results.losses)
        results = replace(results, losses=squeeze.apply(results.losses))
        middle, scale = unit_scales(results.losses)
        values = (results.losses - middle) / scale
        columns = others.columns(results.shares, len(middle))
        views = tuple(ViewProcess.of(view, results.shares, values, columns) for view in (ROOTS, LOGS))
        forest = grow(results) if self.trees else None
        left, variances = zip(*(view.left_out() for view in views), strict=True)
        parts = [*left, *([] if forest is None else [(forest.left_out - middle) / scale])]
        weights = _weights(np.stack([part - values for part in parts]))
        said = np.tensordot(weights, np.stack(parts), 1)
        square = (said - values) ** 2 / np.mean(variances, 0)
        count = np.isfinite(values).sum(0)
        wider = (np.nansum(square, 0) + CONFIRMED) / (count + CONFIRMED)
        wider = np.maximum(wider, 1.0)
        found = middle + scale * said
        alike = error_correlations(found, results.losses)
        parts = (weights, squeeze, middle, scale, wider, squeeze.undo(found), alike, others)
        return AveragedMixtures(views, forest, *parts)


def _filled(results: MixtureResults) -> MixtureResults:
    """Runs of another size, whose targets that nobody measured there say nothing."""
    never = ~np.isfinite(results.losses).any(0)
    losses = results.losses.copy()
    losses[:, never] = 0.0
    return replace(results, losses=losses)


def _weights(errors: Floats) -> Floats:
    """Weights of parts by their errors at runs that were left out, drawn to the even mean.

    Args:
        errors: (parts, runs, targets); NaN where a target was not measured.
    """
    parts = len(errors)
    flat = np.where(np.isfinite(errors), errors, 0.0).reshape(parts, -1)
    products = flat @ flat.T / max(flat.shape[1], 1)
    grid = np.array([row for row in product(range(STEPS + 1), repeat=parts) if sum(row) == STEPS]) / STEPS
    even = EVEN * float(np.diag(products).min()) * ((grid - 1 / parts) ** 2).sum(1)
    return grid[int(np.argmin(np.einsum("ij,jk,ik->i", grid, products, grid) + even))]
