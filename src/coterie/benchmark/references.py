"""What every method is held against: the noise ceiling, one real training of every subset, a constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.benchmark.bank import Bank
from coterie.evaluation.intervals import Figure, resample
from coterie.evaluation.skill import ceiling, constant_distance, gains, one_common_run, one_run, over_subsets

Floats = NDArray[np.float64]
#: cost is quoted as a share of training so many subsets once
SUBSETS = 500


@dataclass(frozen=True, eq=False)
class References:
    """Reference measures of a bank.

    Attributes:
        weights: (1 + resamples, m) of the subsets; methods are measured with the same ones.
        figures: by name.
    """

    weights: Floats
    figures: Mapping[str, Figure]

    def to_dict(self) -> dict[str, Any]:
        """Every measure with its interval."""
        return {name: figure.interval().to_dict() for name, figure in self.figures.items()}


def references(bank: Bank, *, resamples: int = 300, seed: int = 0) -> References:
    """Reference measures of a bank.

    ``ceiling``, ``one_run`` (R1) and ``one_common_run`` are within-task correlations, pooled; those with ``_per_task``
    are means over tasks. ``constant`` is the relative distance of each task's true mean. ``gain`` is the mean relative
    loss reduction against training alone, ``size`` its mean absolute value, ``positive`` the share of gains above 0.

    Args:
        bank: the truth.
        resamples: of the subsets, and of the trainings where there are replicates.
        seed: of the drawing.
    """
    values, truth = bank.test.values, bank.test.truth
    weights = resample(len(truth), resamples, seed)
    figures: dict[str, Figure] = {}
    for ending, per_task in (("", False), ("_per_task", True)):
        figures[f"ceiling{ending}"] = ceiling(values, weights, per_task=per_task, seed=seed)
        figures[f"one_run{ending}"] = one_run(values, weights, per_task=per_task, seed=seed)
        figures[f"one_common_run{ending}"] = one_common_run(
            bank.common.values, truth, weights, per_task=per_task, seed=seed
        )
    found = gains(truth, bank.singles.mean(0))
    figures["constant"] = Figure(constant_distance(truth, weights))
    figures["gain"] = Figure(over_subsets(found, weights))
    figures["size"] = Figure(over_subsets(np.abs(found), weights))
    figures["positive"] = Figure(over_subsets(np.where(np.isfinite(found), found > 0, np.nan), weights))
    return References(weights, figures)
