"""A Gaussian process over (subset, target) that learns from the results of runs alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular  # pyright: ignore[reportUnknownVariableType]

from coterie.study.predictors.blocks import remaining
from coterie.study.predictors.kernels import Coding, Subsets, differing, unit_kernels, unit_variances
from coterie.study.predictors.likelihood import JITTER, Learning, Observations, RunModel, Variances, learn_variances
from coterie.study.predictors.scales import LossScales, served
from coterie.study.results import Floats, Mask, Results

#: subsets that are predicted at a time
CHUNK = 2000
#: predictive variances are larger by this number over that of observations: variances that few observations taught are
#: themselves uncertain; measured, see docs/benchmarks.md
UNSURE = 30.0
#: effects are alike both ways in at most so many pairs of tasks; more take long to predict with
MOST_PAIRS = 700
#: values (subsets, targets) that something else than the runs gives; only differences within a target count
PriorValues = Callable[[Mask], Floats]


@dataclass(frozen=True, eq=False)
class RunsPosterior:
    """What a process knows after some runs.

    Attributes:
        results: the runs.
        scales: of the losses.
        model: the process at its variances.
        priors: values of a prior at subsets, standardised.
    """

    results: Results
    scales: LossScales
    model: RunModel
    priors: tuple[PriorValues, ...] = ()

    @property
    def inflation(self) -> float:
        """Factor on predictive variances for what is not known of the variances themselves."""
        return 1.0 + UNSURE / max(sum(len(rows) for rows in self.model.data.rows), 1)

    def predict(self, trained: Mask, variant: str = "") -> tuple[Floats, Floats]:
        """Values and standard errors, (subsets, targets); NaN for a target that is not in the subset.

        Targets that were measured without having been trained on have values in all subsets.
        """
        known = served(trained, self.results)
        mean, error = np.full(known.shape, np.nan), np.full(known.shape, np.nan)
        for start in range(0, len(trained), CHUNK):
            part = slice(start, start + CHUNK)
            mean[part], error[part] = self._standard(trained[part], known[part], variant)
        mean = self.scales.centre + self.scales.scale * mean
        return mean, error * self.scales.widened * np.sqrt(self.inflation)

    def _kernels(self, a: Subsets, b: Subsets) -> tuple[Floats, Floats]:
        """Own and shared covariance (len(a), len(b)), without luck."""
        found = unit_kernels(a, b, self.model.data.coding.usual, differing(a, b), self.model.variances.of("length"))
        return self.model.combined("own", found), self.model.combined("shared", found)

    def _standard(self, trained: Mask, known: Mask, variant: str) -> tuple[Floats, Floats]:
        """Where `known`, in units of the scales; NaN elsewhere."""
        model = self.model
        data, system, alone = model.data, model.system, model.variances.of("own alone")
        asked = data.coding.asked(trained, variant)
        own, shared = self._kernels(asked, data.runs)
        with_self, columns = self_trained(trained, self.results), [prior(trained) for prior in self.priors]
        root = solved(model.root, shared)
        prior_own, prior_shared = (
            model.combined(where, unit_variances(asked, data.coding.usual)) for where in ("own", "shared")
        )
        left = np.maximum(prior_shared - np.einsum("ij,ij->i", root, root), 0.0)
        total = system.carried(system.weights)
        mean, error = np.full(known.shape, np.nan), np.full(known.shape, np.nan)
        for target, rows in enumerate(data.rows):
            at = np.flatnonzero(known[:, target])
            self_at = with_self[at, target]
            cross = own[np.ix_(at, rows)] + alone * self_at[:, None] * data.trained[rows, target]
            loaded = model.loaded(asked.member[at], [column[at] for column in columns], target)
            z = np.concatenate([root[at], loaded], 1)
            mean[at, target] = cross @ system.weights[target] + z @ total
            explained = np.einsum("ij,ij->i", cross @ system.inverses[target], cross)
            variance = np.maximum(prior_own[at] + alone * self_at**2 - explained, 0.0)
            variance += left[at] + remaining(system.lower_inverse, z - cross @ system.solved[target])
            error[at, target] = np.sqrt(variance)
        return mean, error

    def sample(self, trained: Mask, draws: int, rng: np.random.Generator, variant: str = "") -> Floats:
        """Joint draws of the values, (draws, subsets, targets); NaN where :meth:`predict` has it.

        A function is drawn before any run, and moved by what the runs differ from it.

        Cost: a Cholesky factor of as many rows as there are subsets and runs.
        """
        model, system, data = self.model, self.model.system, self.model.data
        asked, m = data.coding.asked(trained, variant), len(trained)
        both = joined(asked, data.runs)
        own, shared = self._kernels(both, both)
        columns = [np.concatenate([prior(trained), at]) for prior, at in zip(self.priors, data.columns, strict=True)]
        with_self = np.concatenate([self_trained(trained, self.results), data.trained])
        common = factor_of(shared) @ rng.standard_normal((len(own), draws))
        luck = np.sqrt(model.variances.of("shared luck") + JITTER) * rng.standard_normal((len(own) - m, draws))
        root_own, noise = factor_of(own), model.variances.noise + JITTER
        weights = rng.standard_normal((model.loaded(both.member, columns, 0).shape[1], draws))
        drawn = np.empty((len(data.rows), m, draws))
        apart: list[Floats] = []
        for target, rows in enumerate(data.rows):
            alone = np.sqrt(model.variances.of("own alone")) * rng.standard_normal(draws)
            values = root_own @ rng.standard_normal((len(own), draws)) + common
            values += model.loaded(both.member, columns, target) @ weights + np.outer(with_self[:, target], alone)
            drawn[target] = values[:m]
            deviation = np.sqrt(noise[target] + data.errors[rows, target])[:, None]
            seen = values[m:][rows] + luck[rows] + deviation * rng.standard_normal((len(rows), draws))
            apart.append(data.observed[target][:, None] - seen)
        moved = system.solve(apart)
        total, alone = system.carried(moved), model.variances.of("own alone")
        root = solved(model.root, shared[:m, m:])
        for target, rows in enumerate(data.rows):
            cross = own[:m, m:][:, rows] + alone * with_self[:m, target, None] * data.trained[rows, target]
            z = np.concatenate([root, model.loaded(asked.member, [c[:m] for c in columns], target)], 1)
            mean = (cross @ system.weights[target] + z @ system.carried(system.weights))[:, None]
            drawn[target] += cross @ moved[target] + z @ total - mean
            wider = np.sqrt(self.inflation) * self.scales.widened[target] / self.scales.scale[target]
            drawn[target] = mean + wider * drawn[target]
        found = self.scales.centre + self.scales.scale * drawn.transpose(2, 1, 0)
        return np.where(served(trained, self.results), found, np.nan)


def joined(a: Subsets, b: Subsets) -> Subsets:
    """Subsets of both."""
    pairs = ((getattr(a, name), getattr(b, name)) for name in Subsets.__dataclass_fields__)
    return Subsets(*(np.concatenate(pair) for pair in pairs))


def solved(lower: Floats, rows: Floats) -> Floats:
    """Each row solved by a lower Cholesky factor."""
    return np.asarray(solve_triangular(lower, rows.T, lower=True, check_finite=False).T, dtype=np.float64)


def factor_of(covariance: Floats) -> Floats:
    """Lower Cholesky factor of a covariance that may be singular."""
    size = max(float(np.diag(covariance).mean()), 1.0)
    return cholesky(covariance + JITTER * size * np.eye(len(covariance)), lower=True, check_finite=False)


def self_trained(trained: Mask, results: Results) -> Floats:
    """(m, targets) 0 where a target itself is trained on or is no source, else -1."""
    place = {name: number for number, name in enumerate(results.sources)}
    one = np.ones(len(trained), dtype=bool)
    columns = [trained[:, place[name]] if name in place else one for name in results.targets]
    return np.stack(columns, 1).astype(np.float64) - 1.0


def pairs_of(results: Results) -> NDArray[np.int64] | None:
    """(targets, sources) number of each pair of tasks, the same both ways; None where there are too many."""
    numbers: dict[frozenset[str], int] = {}
    found = np.full((len(results.targets), len(results.sources)), -1, dtype=np.int64)
    for row, target in enumerate(results.targets):
        for column, source in enumerate(results.sources):
            if source != target:
                found[row, column] = numbers.setdefault(frozenset((target, source)), len(numbers))
    return found if 0 < len(numbers) <= MOST_PAIRS else None


def observe(
    results: Results, priors: Sequence[PriorValues] = (), alike: Floats | None = None
) -> tuple[LossScales, Observations]:
    """The runs in units of the targets' scales.

    Raises:
        WorkloadError: a target that no run measured.
    """
    coding = Coding.of(results)
    runs = coding.runs(results)
    reference = np.where((runs.variant == 0)[:, None], results.losses, np.nan)
    lost = ~np.isfinite(reference).any(0)
    reference[:, lost] = results.losses[:, lost]
    scales = LossScales.of(reference, results.targets)
    errors = np.zeros_like(results.losses) if results.errors is None else results.errors
    return scales, Observations(
        runs, coding, scales.standardise(results.losses), (errors / scales.scale) ** 2,
        np.where(np.isfinite(results.losses), self_trained(results.trained, results), 0.0),
        tuple(prior(results.trained) for prior in priors), alike, pairs_of(results),
    )  # fmt: skip


def fit_process(data: Observations, learning: Learning, start: Variances | None = None) -> RunModel:
    """The process at the variances of largest posterior density."""
    fewer = thinned(data, learning.most)
    variances = learn_variances(fewer, start or learning.start(data), learning)
    if learning.rank:
        loadings = first_loadings(RunModel(fewer, variances), learning)
        variances = learn_variances(fewer, replace(variances, loadings=loadings), learning)
    if data.pairs is None:
        return RunModel(data, variances)
    # at the others' variances: a search with so many columns would take ten times as long
    models = [RunModel(data, both_ways(variances, share)) for share in learning.mutual]
    return max(models, key=lambda model: model.system.log_likelihood)


def both_ways(variances: Variances, share: float) -> Variances:
    """Variances with a share of the effects of partners that is alike both ways."""
    if not share:
        return variances
    total = variances.logs["own partners"]
    parts = {"own partners": total + np.log(1 - share), "mutual": total + np.log(share)}
    return replace(variances, logs=variances.logs | parts)


def thinned(data: Observations, most: int) -> Observations:
    """At most about so many observations, of runs in a random order."""
    order = np.random.default_rng(0).permutation(len(data.values))
    count = np.cumsum(np.isfinite(data.values).sum(1)[order])
    if count[-1] <= most:
        return data
    return data.take(np.sort(order[: max(int(np.searchsorted(count, most)), 1)]))


def first_loadings(model: RunModel, learning: Learning) -> Floats:
    """Loadings to start from: the strongest patterns in the targets' own effects of sources; (rank, targets)."""
    data, system = model.data, model.system
    effects = np.stack([data.runs.member[rows].T @ w for rows, w in zip(data.rows, system.weights, strict=True)])
    left, strength, _ = np.linalg.svd(effects, full_matrices=False)
    rank = min(learning.rank, int((strength > 0).sum()))
    patterns = left[:, :rank].T
    return learning.loading * patterns / np.maximum(np.sqrt((patterns**2).mean(1, keepdims=True)), 1e-12)
