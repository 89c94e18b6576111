"""Results of runs on mixtures as arrays, and what a predictor makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coterie._surface import known_arguments
from coterie.errors import WorkloadError
from coterie.study.results import Floats, Mask

#: numbers of runs or of targets
Numbers = NDArray[np.intp]


@known_arguments
@dataclass(frozen=True, eq=False)
class MixtureResults:
    """What runs on mixtures of data sets reported.

    Args:
        sources: names of the data sets.
        targets: names of what is measured.
        shares: (runs, sources) proportions, each row adds up to 1.
        losses: (runs, targets), lower is better; NaN where a target was not measured. Scores of which more is better
            have changed their sign.
        seeds: (runs,), -1 where it is not known.
        sizes: what differs of a run from those that are asked about, such as "size 1M"; "" for none.
        costs: (runs,), in one unit for all.

    Example:
        >>> shares = np.array([[0.5, 0.5], [1.0, 0.0]])
        >>> MixtureResults.of(("web", "code"), ("loss",), shares, np.array([[2.0], [3.0]])).sizes
        ('', '')
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    shares: Floats
    losses: Floats
    seeds: NDArray[np.int64]
    sizes: tuple[str, ...]
    costs: Floats

    @staticmethod
    def of(sources: tuple[str, ...], targets: tuple[str, ...], shares: Floats, losses: Floats) -> MixtureResults:
        """Results of runs as they are asked about, whose seeds are not known and whose costs are 1."""
        n = len(losses)
        return MixtureResults(sources, targets, shares, losses, np.full(n, -1, dtype=np.int64), ("",) * n, np.ones(n))

    def take(self, rows: Mask | Numbers) -> MixtureResults:
        """Some of the runs, by truth values or numbers."""
        numbers = np.arange(len(self.losses))[rows]
        return replace(
            self,
            shares=self.shares[numbers],
            losses=self.losses[numbers],
            seeds=self.seeds[numbers],
            sizes=tuple(self.sizes[number] for number in numbers),
            costs=self.costs[numbers],
        )

    def of_size(self, size: str) -> MixtureResults:
        """The runs of one size."""
        return self.take(np.array([one == size for one in self.sizes], dtype=bool))


class MixturePosterior(Protocol):
    """What is known of the values of all mixtures after some runs. A value is the expected loss over seeds."""

    @property
    def left_out(self) -> Floats:
        """(runs, targets) what would be said of each run without it, in the order of the runs that were learnt from."""
        ...

    def mean(self, shares: Floats) -> Floats:
        """Values of mixtures (mixtures, sources), as (mixtures, targets)."""
        ...

    def total(self, shares: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Weighted sums of targets and their standard errors; weights are (totals, targets)."""
        ...

    def predict(self, shares: Floats) -> tuple[Floats, Floats]:
        """Values of mixtures (mixtures, sources) and their standard errors, each (mixtures, targets)."""
        ...

    def sample(self, shares: Floats, draws: int, rng: np.random.Generator) -> Floats:
        """Joint draws of the values of mixtures, (draws, mixtures, targets)."""
        ...


class MixturePredictor(Protocol):
    """Learns the values of all mixtures from the results of some runs."""

    def fit(self, results: MixtureResults) -> MixturePosterior:
        """What is known after these runs.

        Raises:
            WorkloadError: when they tell nothing of a target.
        """
        ...


def check_told(results: MixtureResults) -> None:
    """Refuse results of which nothing can be learnt.

    Raises:
        WorkloadError: no run, or a target that no run measured.
    """
    if not len(results.losses):
        raise WorkloadError("There is no finished run yet. Make some first, or import runs of before.")
    never = np.flatnonzero(~np.isfinite(results.losses).any(0))
    if len(never):
        names = ", ".join(results.targets[number] for number in never[:5])
        raise WorkloadError(
            f"No run has measured {names}. Each target needs a number in "
            "some run: measure it, or leave it out of the study."
        )


def unit_scales(losses: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each target, of what was measured; a deviation of 0 counts as 1."""
    middle, deviation = np.nanmean(losses, 0), np.nanstd(losses, 0)
    flat = deviation <= 1e-12 * np.maximum(np.abs(middle), 1e-300)
    return middle, np.where(flat, 1.0, deviation)


#: errors of different targets have as little to do with each other as if so many runs had said so
APART_RUNS = 10.0


def error_correlations(left_out: Floats, losses: Floats) -> Floats:
    """(targets, targets) how errors of targets go together, by the runs that were left out; drawn to 0.

    Args:
        left_out: (runs, targets) what is said of each run without it.
        losses: (runs, targets).
    """
    apart = left_out - losses
    apart = np.where(np.isfinite(apart), apart, 0.0)
    norms = np.sqrt((apart**2).sum(0))
    apart = apart / np.where(norms > 0, norms, 1.0)
    share = len(losses) / (len(losses) + APART_RUNS)
    found = share * apart.T @ apart
    np.fill_diagonal(found, 1.0)
    return found


def total_of(mean: Floats, errors: Floats, alike: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted sums of targets and their standard errors, each (mixtures, totals).

    Args:
        mean: (mixtures, targets) values.
        errors: (mixtures, targets) their standard errors.
        alike: (targets, targets) correlations of errors.
        weights: (totals, targets).
    """
    found = [np.einsum("mt,tu,mu->m", errors * one, alike, errors * one) for one in weights]
    return mean @ weights.T, np.sqrt(np.maximum(np.stack(found, 1), 0.0))
