"""Marginal likelihood of runs, its gradient, and the variances where it is largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular  # pyright: ignore[reportUnknownVariableType]
from scipy.optimize import minimize  # pyright: ignore[reportUnknownVariableType]

from coterie.study.predictors.blocks import BlockSystem, solve_blocks
from coterie.study.predictors.kernels import OWN, SHARED, Coding, Subsets, differing, unit_kernels
from coterie.study.results import Floats

#: added to the diagonals, in units of a target's variance
JITTER = 1e-8
#: log-variances stay within
BOUNDS = (-14.0, 6.0)

#: prior mean and standard deviation of the log of each variance, in units of a target's variance; measured, see
#: docs/benchmarks.md
PRIORS: dict[str, tuple[float, float]] = {
    # losses are centred at their own mean, so the runs would say that levels hardly differ
    "own level": (0.0, 0.1),
    "own partners": (-1.0, 0.75),
    "own near": (-2.0, 0.75),
    "own size": (-2.0, 0.75),
    "own alone": (0.0, 1.5),
    "own seed": (-1.5, 1.0),
    "own variant level": (0.0, 1.5),
    "own variant partners": (-4.0, 1.5),
    "own variant near": (-3.0, 1.5),
    "shared near": (-3.0, 0.75),
    "shared size": (-2.0, 0.75),
    "shared quality": (-2.0, 1.5),
    "shared luck": (-3.0, 0.75),
    "shared variant level": (0.0, 1.5),
    "shared variant size": (-3.0, 1.5),
    "mutual": (-1.2, 0.75),
    "prior": (-2.0, 2.0),
    "alike": (-3.0, 0.75),
    "length": (1.4, 0.5),
    "noise": (-1.0, 0.5),
}


@dataclass(frozen=True, eq=False)
class Observations:
    """What the runs say, in units of the targets' scales.

    Attributes:
        runs: the runs.
        coding: how subsets become numbers.
        values: (runs, targets), NaN where not measured.
        errors: (runs, targets) variances of measurement that are known.
        trained: (runs, targets) whether the target itself was trained on, minus 1; 0 everywhere unless some were
            measured without.
        columns: each (runs, targets): values of a prior.
        alike: (targets, features) loadings of targets by what is known of them beforehand.
        pairs: (targets, sources) number of the pair of tasks, the same both ways; -1 for a target with itself.
    """

    runs: Subsets
    coding: Coding
    values: Floats
    errors: Floats
    trained: Floats
    columns: tuple[Floats, ...] = ()
    alike: Floats | None = None
    pairs: NDArray[np.int64] | None = None

    @cached_property
    def rows(self) -> list[NDArray[np.int64]]:
        """Runs that measured each target."""
        return [np.flatnonzero(known) for known in np.isfinite(self.values).T]

    @property
    def features(self) -> int:
        """Number of features of targets."""
        return 0 if self.alike is None else self.alike.shape[1]

    @cached_property
    def observed(self) -> list[Floats]:
        """The values, by target."""
        return [self.values[rows, target] for target, rows in enumerate(self.rows)]

    @cached_property
    def apart(self) -> Floats:
        """(runs, runs) number of sources in which two runs differ."""
        return differing(self.runs, self.runs)

    def take(self, rows: NDArray[np.int64]) -> Observations:
        """Some of the runs."""
        columns = tuple(column[rows] for column in self.columns)
        return Observations(
            self.runs.take(rows), self.coding, self.values[rows], self.errors[rows], self.trained[rows], columns,
            self.alike, self.pairs,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Variances:
    """All that is learnt: variances by name, a length, the noise, and how targets share the effects of sources.

    Attributes:
        logs: log of each, by name.
        loadings: (rank, targets) B = loadings' loadings; rank 0 is none.
        noises: (targets,) log of a factor on each target's noise.
    """

    logs: dict[str, float]
    loadings: Floats
    noises: Floats

    def of(self, name: str) -> float:
        """A variance or length by name; 0 where it is not part of the model."""
        return float(np.exp(self.logs[name])) if name in self.logs else 0.0

    def vector(self) -> Floats:
        """All in one vector."""
        return np.concatenate([np.array(list(self.logs.values())), self.noises, self.loadings.ravel()])

    def replaced(self, vector: Floats) -> Variances:
        """Of another vector."""
        n, end = len(self.logs), len(self.logs) + len(self.noises)
        logs = dict(zip(self.logs, vector[:n].tolist(), strict=True))
        return Variances(logs, vector[end:].reshape(self.loadings.shape), vector[n:end])

    @property
    def noise(self) -> Floats:
        """(targets,) variance of the noise of one run."""
        return self.of("noise") * np.exp(self.noises)


@dataclass(frozen=True, eq=False)
class RunModel:
    """The covariance of all (run, target) at some variances, factored.

    Attributes:
        data: the observations.
        variances: at these.
    """

    data: Observations
    variances: Variances

    @cached_property
    def kernels(self) -> dict[str, Floats]:
        """(runs, runs) covariances of unit variance."""
        runs = self.data.runs
        found = unit_kernels(runs, runs, self.data.coding.usual, self.data.apart, self.variances.of("length"))
        found["luck"] = np.eye(len(runs.member))
        return found

    def combined(self, where: str, kernels: dict[str, Floats]) -> Floats:
        """Sum of the covariances of a target with itself ("own"), or of all ("shared")."""
        total = np.zeros_like(kernels["level"])
        for name in OWN if where == "own" else SHARED:
            if f"{where} {name}" in self.variances.logs and name in kernels:
                total += self.variances.of(f"{where} {name}") * kernels[name]
        return total

    @cached_property
    def root(self) -> Floats:
        """(runs, runs) lower Cholesky factor of what all targets share."""
        shared = self.combined("shared", self.kernels)
        shared[np.diag_indices_from(shared)] += JITTER
        return cholesky(shared, lower=True, check_finite=False)

    def loaded(self, runs: Floats, columns: Sequence[Floats], target: int) -> Floats:
        """(m, columns) what a target's values at some subsets share with other targets beside the root.

        Args:
            runs: (m, sources) members.
            columns: each (m, targets), values of priors.
            target: number of the target.
        """
        scaled = runs / np.sqrt(self.data.coding.usual)
        parts = [scaled * loading for loading in self.variances.loadings[:, target]]
        if self.data.alike is not None:
            width = np.sqrt(self.variances.of("alike"))
            parts += [scaled * (width * loading) for loading in self.data.alike[target]]
        if self.data.pairs is not None and "mutual" in self.variances.logs:
            parts.append(np.sqrt(self.variances.of("mutual")) * paired(scaled, self.data.pairs, target))
        parts += [
            np.sqrt(self.variances.of(f"prior {number}")) * column[:, target, None]
            for number, column in enumerate(columns)
        ]
        return np.concatenate(parts, 1) if parts else np.zeros((len(runs), 0))

    @cached_property
    def system(self) -> BlockSystem:
        """Factors and solution."""
        data = self.data
        own, noise = self.combined("own", self.kernels), self.variances.noise + JITTER
        alone = self.variances.of("own alone")
        blocks: list[Floats] = []
        shared: list[Floats] = []
        for target, rows in enumerate(data.rows):
            block = own[np.ix_(rows, rows)]
            if alone:
                block = block + alone * np.outer(data.trained[rows, target], data.trained[rows, target])
            block[np.diag_indices_from(block)] += noise[target] + data.errors[rows, target]
            blocks.append(block)
            columns = [column[rows] for column in data.columns]
            shared.append(np.concatenate([self.root[rows], self.loaded(data.runs.member[rows], columns, target)], 1))
        return solve_blocks(blocks, shared, data.observed)

    def gradient(self) -> Floats:
        """Of the negative log likelihood by the vector of the variances."""
        data, variances, system = self.data, self.variances, self.system
        runs, targets = data.values.shape
        blocks, products = system.slack()
        own, through = np.zeros((runs, runs)), np.zeros((runs, runs))
        alone = alike = mutual = 0.0
        diagonal = np.zeros(targets)
        loadings, priors = np.zeros_like(variances.loadings), np.zeros(len(data.columns))
        rank, sources = len(loadings), data.runs.member.shape[1]
        member = data.runs.member / np.sqrt(data.coding.usual)
        end = runs + rank * sources
        for target in range(targets):
            rows, block, product = data.rows[target], blocks[target], products[target]
            own[np.ix_(rows, rows)] += block
            through[rows] += product[:, :runs]
            diagonal[target] = 0.5 * variances.noise[target] * float(np.trace(block))
            with_self = data.trained[rows, target]
            alone += float(with_self @ block @ with_self)
            parts = product[:, runs:end].reshape(len(rows), rank, sources)
            loadings[:, target] = np.einsum("nqs,ns->q", parts, member[rows])
            rest = product[:, end:] * system.shared[target][:, end:]
            split, first = rest.shape[1] - len(priors), sources * data.features
            alike += float(rest[:, :first].sum())
            mutual += float(rest[:, first:split].sum())
            priors += rest[:, split:].sum(0)
        across = solve_triangular(self.root, through.T, lower=True, trans=1, check_finite=False)
        found: dict[str, float] = {}
        for where, slack in (("own", own), ("shared", across)):
            for name in OWN if where == "own" else SHARED:
                found[f"{where} {name}"] = 0.5 * float(np.vdot(slack, self.kernels[name]))
        mixed = variances.of("own near") * own + variances.of("shared near") * across
        mixed += variances.of("own variant near") * own * self.kernels["variant level"]
        length = variances.of("length")
        by_length = 0.5 * float(np.vdot(mixed, self.kernels["near"] * data.apart)) / length
        found |= {"own alone": 0.5 * alone}
        logs = [variances.of(name) * found[name] for name in variances.logs if name in found]
        extra = {"alike": 0.5 * alike, "mutual": 0.5 * mutual, "length": by_length, "noise": float(diagonal.sum())}
        extra |= {f"prior {number}": 0.5 * value for number, value in enumerate(priors)}
        by_name = dict(zip((name for name in variances.logs if name in found), logs, strict=True)) | extra
        return np.concatenate([np.array([by_name[name] for name in variances.logs]), diagonal, loadings.ravel()])


def paired(runs: Floats, pairs: NDArray[np.int64], target: int) -> Floats:
    """(m, pairs) members (m, sources) at the numbers of their pairs with a target."""
    found = np.zeros((len(runs), int(pairs.max(initial=-1)) + 1))
    others = np.flatnonzero(pairs[target] >= 0)
    found[:, pairs[target, others]] = runs[:, others]
    return found


@dataclass(frozen=True)
class Learning:
    """How variances are learnt.

    Args:
        luck: whether targets of one run share luck.
        quality: whether a source is alike good for all targets.
        rank: number of patterns of likeness between targets.
        loading: prior standard deviation of a loading.
        noises: prior standard deviation of the log of each target's factor on the noise.
        steps: at most so many steps of the search.
        most: variances are learnt from so many observations; of more runs, from the first so many of a random order.
        mutual: shares of the effects of partners that may be alike both ways: what A does to B, B does to A.
    """

    luck: bool = True
    quality: bool = True
    rank: int = 0
    loading: float = 0.2
    noises: float = 0.2
    steps: int = 40
    most: int = 3000
    mutual: tuple[float, ...] = (0.0, 0.3, 0.6)

    def start(self, data: Observations) -> Variances:
        """Prior means of the variances that these observations can tell something about."""
        names = ["own level", "own partners", "own near", "own size", "shared near", "shared size"]
        names += ["own alone"] * bool(data.trained.any()) + ["own seed"] * bool((data.runs.seed >= 0).any())
        names += ["shared quality"] * self.quality + ["shared luck"] * self.luck
        if (data.runs.variant > 0).any():
            names += [name for name in PRIORS if "variant" in name]
        names += [f"prior {number}" for number in range(len(data.columns))]
        names += ["alike"] * (data.alike is not None) + ["length", "noise"]
        logs = {name: self.prior(name)[0] for name in names}
        targets = data.values.shape[1]
        return Variances(logs, np.zeros((0, targets)), np.zeros(targets))

    def prior(self, name: str) -> tuple[float, float]:
        """Prior mean and standard deviation of a log-variance."""
        return PRIORS["prior" if name.startswith("prior ") else name]


def penalised(model: RunModel, learning: Learning) -> tuple[float, Floats]:
    """Negative log posterior density of the variances, and its gradient."""
    variances = model.variances
    means, widths = (np.array(part) for part in zip(*(learning.prior(name) for name in variances.logs), strict=True))
    vector, n, targets = variances.vector(), len(variances.logs), len(variances.noises)
    centre = np.concatenate([means, np.zeros(len(vector) - n)])
    others = np.full(variances.loadings.size, learning.loading)
    width = np.concatenate([widths, np.full(targets, learning.noises), others])
    away = (vector - centre) / width
    return -model.system.log_likelihood + 0.5 * float(away @ away), model.gradient() + away / width


def learn_variances(data: Observations, start: Variances, learning: Learning) -> Variances:
    """The variances of largest posterior density, found from a start by L-BFGS."""

    def objective(x: Floats) -> tuple[float, Floats]:
        return penalised(RunModel(data, start.replaced(x)), learning)

    n = len(start.logs)
    bounds = [BOUNDS] * n + [(-3.0, 3.0)] * (len(start.noises) + start.loadings.size)
    options = {"maxiter": learning.steps, "ftol": 1e-6}
    found = minimize(objective, start.vector(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return start.replaced(np.asarray(found.x, dtype=np.float64))
