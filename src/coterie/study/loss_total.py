"""How losses of several targets become one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from coterie.study.results import Floats, Results

TotalKind = Literal["sum", "gain"]
#: what the objective of each kind is, in words
OBJECTIVES = {"sum": "sum of losses over targets, lower is better", "gain": "mean gain over one model for all tasks"}


@dataclass(frozen=True, eq=False)
class LossTotal:
    """Weights of the targets.

    Attributes:
        kind: ``"sum"``: losses are added as they are (Standley et al. 2020). ``"gain"``: each loss counts relative to
            what one model for all tasks has, as in the gains of a comparison.
        weights: (targets,) of the losses in the total that is minimised.
        shares: (targets,) of the reductions of losses in the mean gain over one model.
        one_model: (targets,) losses of one model for all tasks.
    """

    kind: TotalKind
    weights: Floats
    shares: Floats
    one_model: Floats

    @staticmethod
    def of(kind: TotalKind, results: Results, one_model: Floats) -> LossTotal:
        """The weights, given the losses (targets,) of one model for all tasks; NaN where they are not known.

        The size of a target's loss is that of one model's, or of the mean over runs where it is not known. Where
        values vary by more than that from run to run, as metrics around 0 do, it is their standard deviation.
        """
        measured = np.isfinite(results.losses)
        counts = np.maximum(measured.sum(axis=0), 1)
        means = np.where(measured, results.losses, 0.0).sum(axis=0) / counts
        spread = np.sqrt((np.where(measured, results.losses - means, 0.0) ** 2).sum(axis=0) / counts)
        sizes = np.maximum(np.abs(np.where(np.isfinite(one_model), one_model, means)), spread)
        sizes = np.maximum(sizes, 1e-12 * max(float(sizes.max(initial=0.0)), 1e-300))
        ones = np.ones(len(sizes))
        relative = 1 / (len(sizes) * sizes)
        if kind == "gain":
            return LossTotal(kind, relative, relative, one_model)
        return LossTotal(kind, ones, ones / float(sizes.sum()), one_model)

    def gain(self, losses: Floats) -> Floats:
        """Mean gain of losses (..., targets) over one model, as a share; NaN where one model's are not known."""
        return (self.one_model - losses) @ self.shares
