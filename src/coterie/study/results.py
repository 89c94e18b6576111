"""Results of runs as arrays, and what a predictor makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coterie._surface import known_arguments

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@known_arguments
@dataclass(frozen=True, eq=False)
class Results:
    """What the runs of a study reported.

    Args:
        sources: names of the tasks that can be trained on.
        targets: names of the tasks that are measured; the same names in most problems.
        trained: (runs, sources), whether a run trained on a source.
        losses: (runs, targets), lower is better; NaN where a target was not measured. Metrics of which more is better
            have changed their sign.
        errors: (runs, targets), standard error of each loss that is known beforehand, 0 where none is; None is 0
            everywhere.
        seeds: (runs,), runs of one seed may share luck; -1 where it is not known.
        variants: name of the way in which each run was trained; "" is the usual one.
        costs: (runs,), in one unit for all.

    Example:
        >>> trained = np.array([[True, True], [True, False]])
        >>> losses = np.array([[0.3, 0.5], [0.4, np.nan]])
        >>> Results.of(("a", "b"), trained, losses).costs
        array([1., 1.])
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    trained: Mask
    losses: Floats
    errors: Floats | None
    seeds: NDArray[np.int64]
    variants: tuple[str, ...]
    costs: Floats

    @staticmethod
    def of(tasks: tuple[str, ...], trained: Mask, losses: Floats) -> Results:
        """Results of runs of one variant whose seeds are not known and whose costs are 1; sources are the targets."""
        runs = len(losses)
        seeds, costs = np.full(runs, -1, dtype=np.int64), np.ones(runs)
        return Results(tasks, tasks, trained, losses, None, seeds, ("",) * runs, costs)


class Posterior(Protocol):
    """What is known of the values of all subsets after some runs. A value is the expected loss over seeds."""

    def predict(self, trained: Mask, variant: str = "") -> tuple[Floats, Floats]:
        """Values of subsets and their standard errors, each (subsets, targets), lower is better.

        Args:
            trained: (subsets, sources).
            variant: the way in which they would be trained.
        """
        ...

    def sample(self, trained: Mask, draws: int, rng: np.random.Generator, variant: str = "") -> Floats:
        """Joint draws of the values of subsets, (draws, subsets, targets)."""
        ...


class ValuePredictor(Protocol):
    """Learns the values of all subsets from the results of some runs."""

    def fit(self, results: Results) -> Posterior:
        """What is known after these runs.

        Raises:
            WorkloadError: when they tell nothing of a target.
        """
        ...
