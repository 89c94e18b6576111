"""Losses of different tasks on one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, polygamma  # pyright: ignore[reportUnknownVariableType]

from coterie.errors import WorkloadError
from coterie.study.results import Floats, Mask, Results

#: log standard deviations are never shrunk by less than as if tasks truly differed by this s.d.
LEAST_SPREAD = 0.1
#: a scale that nothing is known of is as uncertain as if its log had this variance
MOST_UNSURE = 0.25


@dataclass(frozen=True, eq=False)
class LossScales:
    """Centre and scale of each target's losses.

    Attributes:
        centre: (targets,) mean of the losses, in their units.
        scale: (targets,) standard deviation, shrunk to the usual one, in their units.
        unsure: (targets,) variance of the log of the scale: how little is known of it.
    """

    centre: Floats
    scale: Floats
    unsure: Floats

    @staticmethod
    def of(losses: Floats, targets: tuple[str, ...]) -> LossScales:
        """Scales of losses (runs, targets), NaN where not measured.

        The log of a standard deviation that few runs tell is too small in the mean, and uncertain: by how much is known
        for normal losses. It is corrected, and shrunk to the mean over targets as far as its error explains how they
        differ: losses in one unit share their scale, losses in different units keep their own.

        Raises:
            WorkloadError: a target that no run measured.
        """
        known = np.isfinite(losses)
        count = known.sum(0)
        if not count.all():
            missing = [name for name, n in zip(targets, count, strict=True) if not n]
            raise WorkloadError(
                f"No run has measured {missing}, so nothing can be said of them. Found {len(losses)} runs. "
                "Tell the result of a run that measures them, or leave them out of the targets."
            )
        centre = np.where(known, losses, 0.0).sum(0) / count
        square = np.where(known, losses - centre, 0.0) ** 2
        size = np.abs(np.where(known, losses, 0.0)).max(0)
        free = np.maximum(count - 1, 0)
        deviation = np.sqrt(square.sum(0) / np.maximum(free, 1))
        varied = (free > 0) & (deviation > 1e-12 * size)
        if not varied.any():
            usual = np.where(size > 0, size, 1.0)
            return LossScales(centre, 0.01 * usual, np.full(len(centre), LEAST_SPREAD**2))
        half = free[varied] / 2
        logs = np.log(deviation[varied]) - (digamma(half) - np.log(half)) / 2
        own = polygamma(1, half) / 4
        weight = 1.0 / own
        mean = float(weight @ logs / weight.sum())
        excess = float(np.mean((logs - mean) ** 2 - own)) if len(logs) > 1 else 0.0
        spread = max(excess, LEAST_SPREAD**2)
        mean = float(((1 / (spread + own)) @ logs) / (1 / (spread + own)).sum())
        shrunk = np.full(len(centre), mean)
        shrunk[varied] = (spread * logs + own * mean) / (spread + own)
        unsure = np.full(len(centre), spread)
        unsure[varied] = 1 / (1 / spread + 1 / own)
        return LossScales(centre, np.exp(shrunk), unsure)

    @property
    def widened(self) -> Floats:
        """(targets,) scale of errors: the root of the mean of the squared scale, given what is known of it."""
        return self.scale * np.exp(np.minimum(self.unsure, MOST_UNSURE))

    def standardise(self, losses: Floats) -> Floats:
        """(runs, targets) losses in units of the scale around the centre."""
        return (losses - self.centre) / self.scale


def served(trained: Mask, results: Results) -> Mask:
    """(subsets, targets) pairs of which something can be said.

    A target that is trained on as well, and was never measured without that, is known only where it is in the subset.

    Args:
        trained: (subsets, sources).
        results: the runs.
    """
    known = np.ones((len(trained), len(results.targets)), dtype=bool)
    place = {name: number for number, name in enumerate(results.sources)}
    for target, name in enumerate(results.targets):
        source = place.get(name)
        if source is None:
            continue
        if not (np.isfinite(results.losses[:, target]) & ~results.trained[:, source]).any():
            known[:, target] = trained[:, source]
    return known
