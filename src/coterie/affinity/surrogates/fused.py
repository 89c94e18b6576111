"""A cheap estimate and a few real runs, fused: the estimate says which subsets differ, the runs by how much."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import choice, flag, whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._process_lock import process_lock
from coterie._surface import known_arguments
from coterie.affinity.costs import Costs, Prepared, prepare, training_flops
from coterie.affinity.estimator import Estimate, EstimatePlan, Estimator, KnownTrainings, TrainingCall, TrainingStage
from coterie.affinity.gain_model import PairwiseGainModel, random_subsets
from coterie.affinity.grad_tae import SECANTS, GradTAE
from coterie.affinity.surrogates.covariance import Floats
from coterie.affinity.surrogates.foresight import warn_of_little
from coterie.affinity.surrogates.prior import FusedModel, Prior, guess, make_prior, partial_correlation
from coterie.affinity.surrogates.process import choose_subsets, fit_process
from coterie.affinity.surrogates.real_runs import (
    BLOCK,
    BudgetSplit,
    KnownFull,
    RealRuns,
    Remembered,
    balanced_subsets,
    different_subsets,
    probes_of,
    real_runs,
    split_budget,
)
from coterie.affinity.surrogates.views import fit_views
from coterie.errors import DataWarning, ResourceError, SettingError
from coterie.training.job import Fit, derive
from coterie.workload import Workload

#: sizes of the reference subsets, around that of a usual subset
SPREAD = (-1, 0, 1)
#: (observations x observations) matrices that are held at a time
MATRICES = 16
CHOICES = ("active", "random")
#: random subsets that say what is usual, and among which the active choice chooses, unless the runs are many
REFERENCE = 200
#: of these every task is in so many at least
FEW = 4


@known_arguments
@dataclass(frozen=True)
class Fused(Estimator):
    """A Gaussian process whose prior mean is a cheap estimate and which a few real runs correct.

    All values, also of tasks and subsets that were not trained, are predicted with calibrated standard errors. See
    :func:`coterie.affinity.surrogates.process.fit_process` for the model.

    Args:
        base: the cheap estimator; its model must predict values (losses).
        trainings: what the estimate may cost, in ordinary trainings of a subset: decides how many base models and
            how many real runs there are, see :func:`coterie.affinity.surrogates.real_runs.split_budget`.
        bases: number of base models; giving this or `runs` takes the place of the budget.
        runs: subsets that are trained once each, with common random numbers; 0 leaves the estimate's ranking as it is
            and adds standard errors from the prior. None is what the budget leaves, or 0 where `bases` is given.
        choice: ``"random"`` trains balanced random subsets, ``"active"`` those random ones that lower the posterior
            variance most; see docs/benchmark.md for when that helps.
        alone: also train every task alone, for exact levels of the gains; T more runs.
        features: names of pairwise methods that cost little; differences between their scores may explain values.

    Raises:
        SettingError: when a value is unknown or out of range, the base predicts no values, or a feature is no matrix.
        ResourceError: when the covariances of the runs need more memory than is allowed.

    Cost: that of the base, `runs` trainings, and seconds of linear algebra.

    Limits: gains need the value of each task alone. Without ``alone=True`` that lies outside of what was trained, and
    gains have wide standard errors; differences between subsets of a task have not.

    Source: Coterie's own; measured in docs/decisions.md.

    Example:
        >>> Fused(runs=50).name
        'fused'
    """

    base: Estimator = field(default=SECANTS)
    trainings: float = 15.0
    bases: int | None = None
    runs: int | None = None
    choice: str = "random"
    alone: bool = False
    features: tuple[str, ...] = ("label-correlation",)

    def __post_init__(self) -> None:
        if self.runs is not None:
            whole_number(self.runs, "runs", low=0)
        if self.bases is not None:
            whole_number(self.bases, "bases", low=1)
        if not (isinstance(self.trainings, int | float) and 1 <= self.trainings < float("inf")):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(
                f"Parameter `trainings` should be a number of ordinary trainings, at least 1. Found {self.trainings!r}."
            )
        if not isinstance(self.base, Estimator):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(f"Parameter `base` should be the settings of an estimator. Found {self.base!r}.")
        choice(self.choice, "choice", CHOICES)
        flag(self.alone, "alone")
        if isinstance(self.features, str):
            raise SettingError(f"Parameter `features` should be names. Found {self.features!r}: write a tuple.")
        object.__setattr__(self, "features", tuple(self.features))

    @property
    def name(self) -> str:
        """Name of the method."""
        return "fused"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        base = {"method": self.base.name, **self.base.to_dict()}
        return {**vars(self), "base": base, "features": list(self.features)}

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Make the cheap estimate, choose and train subsets of `subset_size` tasks, and fuse both."""
        context = replace(context, store=Remembered(context.store, {}))
        prepared, seed = prepare(workload, context), context.seed
        n = workload.n_tasks
        count = 3 * int(self.trainings if self.runs is None else self.runs)
        reference = _reference(n, subset_size, max(REFERENCE, count), seed)
        first = reference[:0]
        base, runs = self._chosen_base, self.runs or 0
        if isinstance(base, GradTAE) and self.bases is None and self.runs is None:
            warn_of_little(n, self.trainings, _usual(reference), base)
            # a few trainings say what an ordinary one costs; they are the first real runs
            first = different_subsets(n, probes_of(self.trainings), _usual(reference), seed)
            ordinary = real_runs(replace(prepared, costs=Costs(prepared.costs.unit)), first)
            split = split_budget(prepared, base, self.trainings, ordinary)
            base = replace(base, bases=split.bases, fork=split.fork) if split.bases else None
            runs = max(len(first), split.runs)
        self._check_memory(min(runs, comb(n, _usual(reference))), reference, context.memory)
        found = None if base is None else base.estimate(workload, context, subset_size)
        if found is None:
            scratch = replace(prepared, costs=Costs(prepared.costs.unit))  # the runs are booked when they are fused
            others = different_subsets(n, runs if self.choice == "random" else 0, _usual(reference), seed)[len(first) :]
            cheap = guess(workload, _train(scratch, first, others).values)  # the same units as when they are fused
        else:
            cheap = _values_of(found, self.base.name)
        prior = make_prior(cheap, partial_correlation(workload), reference)
        costs = prepared.costs if found is None else found.costs
        notes = [] if found is None else list(found.notes)
        if prior.matrix is not None:
            notes.append("tasks share some of their examples: label correlation is part of the estimate")
        features = [_matrix(name, workload, context, subset_size, costs) for name in self.features]
        model, trained = self._fuse(replace(prepared, costs=costs), prior, features, reference, first, runs, notes)
        if found is None:
            notes.append(_without_base(trained.subsets, self.trainings))
        facts = {"base models": float(getattr(base, "bases", 0)), "real runs": float(len(trained.flops))}
        facts |= {} if found is None else found.facts
        flops = float(trained.flops.mean()) if len(trained.flops) else None
        return Estimate(model, costs, flops, tuple(notes), facts)

    @property
    def probes(self) -> int:
        """TrainingCall that say what an ordinary one costs."""
        return probes_of(self.trainings)

    def plan_trainings(self, prepared: Prepared, subset_size: int, known: KnownTrainings) -> EstimatePlan:
        """The plan of the base, as many models as the budget leaves room for, and the real runs."""
        n, base, runs = prepared.workload.n_tasks, self._chosen_base, self.runs or 0
        if isinstance(base, GradTAE) and self.bases is None and self.runs is None:
            split = BudgetSplit(0, 0, base.fork)
            if known.full is not None:
                split, runs = self._planned_split(prepared, base, known.full, known.usual)
            base = replace(base, bases=split.bases, fork=split.fork) if split.bases else None
        size = min(max(subset_size, 2), n)
        count = max(REFERENCE, 3 * int(self.trainings if self.runs is None else self.runs))
        reference = balanced_subsets(n, count, size, 0)
        self._check_memory(runs, reference, prepared.context.memory)
        made = EstimatePlan(0) if base is None else base.plan_trainings(prepared, subset_size, known)
        runs += n * self.alone
        sizes = (size,) * min(runs, BLOCK)
        trainings = TrainingCall(sizes, calls=runs / max(1, len(sizes)), kept=False)
        stage = TrainingStage("real trainings of subsets", f"{runs} ordinary trainings", (trainings,))
        return replace(
            made, remembers=True, stages=(*made.stages, stage)[: len(made.stages) + (runs > 0)], runs=runs,
            asked=(*made.asked, count),
            solve=partial(_rehearse_process, reference), solve_bytes=8 * MATRICES * (runs * max(2, subset_size)) ** 2,
        )  # fmt: skip

    def _planned_split(
        self, prepared: Prepared, base: GradTAE, full: Fit, usual: Sequence[Fit]
    ) -> tuple[BudgetSplit, int]:
        """The budget as it will be divided, with known trainings in the place of its own; and the real runs."""
        workload, unit = prepared.workload, prepared.costs.unit
        usual = usual or [full]
        flops = np.array([training_flops(workload, done, unit) for done in usual])
        members = np.zeros((len(usual), workload.n_tasks), dtype=bool)
        for row, done in zip(members, usual, strict=True):
            row[list(done.job.subset)] = True
        values = np.full(members.shape, np.nan)
        ordinary = RealRuns(members, values, flops, np.array([float(done.steps) for done in usual]))
        known = replace(prepared, context=replace(prepared.context, store=KnownFull(full)), costs=Costs(unit))
        split = split_budget(known, base, self.trainings, ordinary)
        return split, max(len(usual), split.runs)

    def _check_memory(self, runs: int, reference: NDArray[np.bool_], memory: int) -> None:
        """Refuse covariances that do not fit: of what is observed, and of what the active choice chooses from."""
        observed = runs * _usual(reference) + (reference.shape[1] if self.alone else 0)
        if self.choice == "active" and runs:
            observed = max(observed, int(reference.sum()))
        need = 8 * MATRICES * observed**2
        if need > memory:
            raise ResourceError(
                f"The covariances of {observed} observed values need about {need / 2**20:.0f} MiB, more than `memory` "
                f"allows ({memory / 2**20:.0f} MiB). Give more `memory`, or fewer `runs` (or `trainings`)."
            )

    @property
    def _chosen_base(self) -> Estimator | None:
        """The base with the wanted number of base models."""
        if self.bases is not None and isinstance(self.base, GradTAE):
            return replace(self.base, bases=self.bases)
        return self.base

    def _fuse(
        self,
        prepared: Prepared,
        prior: Prior,
        features: list[Floats],
        reference: NDArray[np.bool_],
        first: NDArray[np.bool_],
        runs: int,
        notes: list[str],
    ) -> tuple[FusedModel, RealRuns]:
        """Choose subsets, train them, and condition on them."""
        workload, n = prepared.workload, prepared.workload.n_tasks
        estimates = prior(reference)
        if self.choice == "active":
            process = fit_process(reference[:0], estimates[:0], estimates[:0], reference, estimates, features=features)
            more = min(runs, len(reference)) - len(first)
            others = reference[~(reference[:, None] == first[None]).all(2).any(1)] if len(first) else reference
            chosen = others[choose_subsets(process, others, prior(others), max(0, min(more, len(others))))]
        else:
            chosen = different_subsets(n, max(runs, 0), _usual(reference), prepared.context.seed)[len(first) :]
        chosen = np.concatenate([first, chosen])
        if len(chosen) < runs:
            notes.append(f"{len(chosen)} real runs instead of {runs}: there are no more different subsets")
        if self.alone:
            chosen = np.concatenate([chosen, np.eye(n, dtype=bool)[~chosen[chosen.sum(1) == 1].any(0)]])
        trained = _train(prepared, first, chosen[len(first) :])
        known = prior(chosen) if len(chosen) else trained.values
        fitted = fit_views if len(chosen) else fit_process
        process = fitted(chosen, trained.values, known, reference, estimates, features=features)
        return FusedModel(workload.task_names, self.name, process, prior), trained


def _rehearse_process(reference: NDArray[np.bool_], runs: int) -> object:
    """Fit the process to made-up values of so many runs."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=reference.shape)
    estimates = np.where(reference, values, np.nan)
    seen = np.where(reference, estimates + 0.5 * rng.normal(size=estimates.shape), np.nan)[:runs]
    return fit_views(reference[:runs], seen, estimates[:runs], reference, estimates)


def _without_base(subsets: NDArray[np.bool_], trainings: float) -> str:
    """What an estimate from real runs alone does not know."""
    n = subsets.shape[1]
    met = subsets.T.astype(np.float32) @ subsets.astype(np.float32) > 0
    pairs = (int(met.sum()) - int(met.diagonal().sum())) / max(1, n * (n - 1))
    return (
        f"no base model: one with short trainings of each of the {n} tasks takes more than the budget of "
        f"{trainings:g} trainings. The estimate rests on {len(subsets)} real runs, in which {pairs:.0%} of the pairs "
        "of tasks are together; of the others it knows next to nothing. Allow more `trainings`, or take "
        "method='grad-tag', which needs no training of single tasks"
    )


def _train(prepared: Prepared, first: NDArray[np.bool_], others: NDArray[np.bool_]) -> RealRuns:
    """Real runs of the first subset, which the budget knows already, and of the others."""
    parts = [real_runs(prepared, some) for some in (first, others) if len(some)]
    if not parts:
        return RealRuns(first, np.zeros(first.shape), np.zeros(0), np.zeros(0))
    names = ("subsets", "values", "flops", "steps")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return RealRuns(**joined)


def _usual(reference: NDArray[np.bool_]) -> int:
    """Size of a usual subset."""
    return max(min(2, reference.shape[1]), int(reference.sum(1).mean().round()))


def _reference(n_tasks: int, size: int, count: int, seed: int) -> NDArray[np.bool_]:
    """Different random subsets around a size; every task is in a few, since each has a level and a scale of its own."""
    sizes = sorted({int(np.clip(size + step, min(2, n_tasks), n_tasks)) for step in SPREAD})
    if sizes == [n_tasks] and n_tasks > 1:  # there is but one subset of all tasks, and nothing differs
        sizes = [n_tasks - 1, n_tasks]
    drawn = random_subsets(n_tasks, count, sizes, seed=derive(seed, 73), cover=False)
    rare = drawn.sum(0) < FEW
    if rare.any():
        usual = sizes[len(sizes) // 2]
        more = balanced_subsets(n_tasks, -(-(FEW + 1) * n_tasks // usual), usual, derive(seed, 74))
        drawn = np.concatenate([drawn, more[more[:, rare].any(1)]])
    return np.unique(drawn, axis=0)


def _values_of(found: Estimate, name: str) -> Callable[[NDArray[np.bool_]], Floats]:
    predict = getattr(found.model, "predict_values", None)
    if predict is None:
        raise SettingError(
            f"Parameter `base` should be an estimator that predicts values. Found {name!r}, which predicts gains or "
            "scores only. Use grad-tae settings, for example SECANTS, and give scores as `features`."
        )
    return predict


def _matrix(name: str, workload: Workload, context: Context, size: int, costs: Costs) -> Floats:
    from coterie.affinity.estimator import get_estimator  # the list of methods names this module

    with process_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # a feature that says nothing does no harm
        found = get_estimator(name).estimate(workload, replace(context, costs=None), size)
    model = found.model
    for stage, (flops, seconds) in found.costs.entries.items():
        if flops:
            costs.add(f"{name}: {stage}", flops, seconds)
    if not isinstance(model, PairwiseGainModel):
        raise SettingError(f"Parameter `features` should name pairwise methods. Found {name!r}, which is none.")
    return model.affinity.values
