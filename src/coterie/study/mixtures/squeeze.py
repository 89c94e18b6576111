"""A logarithmic scale for losses: mixtures that lack what a target needs are far worse than all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coterie.study.mixtures.results import unit_scales
from coterie.study.results import Floats

#: the unit is at least this part of the standard deviation: where half of the runs are as good as the best one, the
#: scale would have no room for the others
LEAST_UNIT = 0.1


@dataclass(frozen=True, eq=False)
class Squeeze:
    """The scale log(1 + (loss - low) / unit) of each target.

    It is nearly linear among the better half of the runs, and grows with the logarithm beyond. A mixture without a
    source is far worse for some target than any usual one; on a linear scale such runs decide what a process believes
    of the mixtures that may be chosen. Better than the best run and worse than the worst one, the scale is linear.

    Attributes:
        low: (targets,) the smallest loss.
        unit: (targets,) the median less the smallest loss.
        top: (targets,) the largest loss on the scale.
    """

    low: Floats
    unit: Floats
    top: Floats

    @staticmethod
    def of(losses: Floats) -> Squeeze:
        """The scale of some runs.

        Args:
            losses: (runs, targets), NaN where a target was not measured; each was measured in a run.
        """
        low = np.nanmin(losses, 0)
        unit = np.maximum(np.nanmedian(losses, 0) - low, LEAST_UNIT * unit_scales(losses)[1])
        return Squeeze(low, unit, np.log1p((np.nanmax(losses, 0) - low) / unit))

    def apply(self, losses: Floats) -> Floats:
        """Losses on the scale, those of the runs that made it."""
        return np.log1p((losses - self.low) / self.unit)

    def undo(self, values: Floats) -> Floats:
        """Losses from values on the scale, whatever they are."""
        inside = np.clip(values, 0.0, self.top)
        beyond = np.minimum(values, 0.0) + np.exp(self.top) * np.maximum(values - self.top, 0.0)
        return self.low + self.unit * (np.expm1(inside) + beyond)

    def slope(self, values: Floats) -> Floats:
        """How much the loss grows with the value on the scale, for standard errors."""
        return self.unit * np.exp(np.clip(values, 0.0, self.top))
