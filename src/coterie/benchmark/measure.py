"""Skill and cost of one method on one bank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._context import Context
from coterie.affinity import Estimate, GainModel
from coterie.benchmark.bank import Bank
from coterie.benchmark.entries import Entry
from coterie.benchmark.references import SUBSETS, References
from coterie.errors import CoterieError
from coterie.evaluation.intervals import Figure
from coterie.evaluation.skill import (
    inside,
    match,
    mean_by_task,
    over_subsets,
    pair_matrix,
    relative_distance,
    within_task,
)

Floats = NDArray[np.float64]


class _NoPredictionError(CoterieError):
    """A method that predicts nothing has no skill to measure."""


def estimate_entry(bank: Bank, entry: Entry, context: Context) -> Estimate:
    """Run the method of an entry."""
    return entry.estimator().estimate(bank.workload, context, round(float(bank.test.subsets.sum(1).mean())))


def measure(bank: Bank, found: References, estimate: Estimate, *, seed: int = 0) -> dict[str, Any]:
    """All measures of an estimate.

    A model that predicts values is measured on these; of any other model the gain with its sign changed stands for the
    value, which has a correlation but no relative distance.

    Args:
        bank: the truth.
        found: its reference measures, with the resamples of the subsets.
        estimate: the estimate.
        seed: of the resamples of pairs.

    Returns:
        JSON-ready measures; each with its interval as ``{"mean", "low", "high"}``.

    Raises:
        CoterieError: the model predicts none of the subsets.
    """
    model, subsets, truth, weights = estimate.model, bank.test.subsets, bank.test.truth, found.weights
    ask: Callable[[NDArray[np.bool_]], Floats] | None = getattr(model, "predict_values", None)
    values = None if ask is None else ask(subsets)
    score = -model.predict(subsets) if values is None else values
    covered = float(np.isfinite(score[subsets]).mean())
    if not covered:
        raise _NoPredictionError("The model predicts none of the subsets: all its predictions are NaN.")
    figures: dict[str, Figure] = {
        "pooled": Figure(within_task(score, truth, weights)),
        "per_task": Figure(mean_by_task(score, truth, weights)),
    }
    for name, ending in (("pooled", ""), ("per_task", "_per_task")):
        figures[f"{name}_of_ceiling"] = figures[name] / found.figures[f"ceiling{ending}"]
        figures[f"{name}_of_one_run"] = figures[name] / found.figures[f"one_run{ending}"]
    if values is not None:
        figures["distance"] = Figure(relative_distance(values, truth, weights))
    errors = _errors(model, subsets)
    if values is not None and errors is not None:
        figures["calibration"] = Figure(over_subsets(inside(values, errors, truth, _noise(bank)), weights))
    return {
        "covered": covered,
        **{name: figure.interval().to_dict() for name, figure in figures.items()},
        "pairs": _pairs(bank, model, len(weights) - 1, seed),
        "cost": _cost(bank, estimate),
        "notes": list(estimate.notes),
        "facts": dict(estimate.facts),
    }


def _errors(model: GainModel, subsets: NDArray[np.bool_]) -> Floats | None:
    """Standard errors of predicted values, where a model has them."""
    ask: Callable[[NDArray[np.bool_]], Floats | None] | None = getattr(model, "value_error", None)
    return None if ask is None else ask(subsets)


def _noise(bank: Bank) -> Floats:
    """(m, T) standard errors of the truth, one a task: few replicates tell little about that of a single value."""
    replicates, truth = bank.test.replicates, bank.test.truth
    if replicates < 2:
        return np.zeros_like(truth)
    variance = bank.test.values.var(0, ddof=1)
    known = np.isfinite(variance)
    mean = np.where(known, variance, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.broadcast_to(np.sqrt(mean / replicates), truth.shape)


def _pairs(bank: Bank, model: GainModel, resamples: int, seed: int) -> dict[str, Any]:
    """Measures of pairs; empty without pairs."""
    if not len(bank.pairs.subsets):
        return {}
    predicted = pair_matrix(bank.pairs.subsets, model.predict(bank.pairs.subsets))
    figures = match(predicted, bank.pair_gains, resamples=resamples, seed=seed)
    return {name: figure.interval().to_dict() for name, figure in figures.items()}


def _cost(bank: Bank, estimate: Estimate) -> dict[str, Any]:
    """FLOPs, also in trainings and as a share of training 500 subsets once; seconds, also those of shared units."""
    run = bank.test.run_flops
    trainings = estimate.costs.flops / run
    return {
        "flops": estimate.costs.flops,
        "trainings": trainings,
        "share": trainings / SUBSETS,
        "seconds": sum(row[1] for row in estimate.costs.entries.values()),
        "stages": estimate.costs.rows(),
    }
