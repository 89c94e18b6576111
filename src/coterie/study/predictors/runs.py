"""The predictor from results alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coterie._surface import known_arguments
from coterie.study.predictors.averaged import AveragedPosterior
from coterie.study.predictors.likelihood import Learning
from coterie.study.predictors.process import RunsPosterior, fit_process, observe
from coterie.study.results import Posterior, Results

#: two views of the same runs: targets share no more than luck, or also how they react to partners
PLAIN = Learning(luck=True, quality=False, rank=0)
ALIKE = Learning(luck=True, quality=True, rank=2)


@known_arguments
@dataclass(frozen=True)
class ProcessPredictor:
    """A Gaussian process over (subset, target).

    Args:
        views: models of what targets have in common; what they say is averaged.
    """

    views: tuple[Learning, ...] = (PLAIN, ALIKE)

    def fit(self, results: Results) -> Posterior:
        """What is known after these runs.

        Raises:
            WorkloadError: a target that no run measured.
        """
        scales, data = observe(results)
        parts = [RunsPosterior(results, scales, fit_process(data, view)) for view in self.views]
        return AveragedPosterior(parts, np.full(len(parts), 1.0 / len(parts)))
