"""ETAP's first score: the first-order part of TAG, from inner products of gradients alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._surface import known_arguments
from coterie.affinity.scores.probe_score import ProbeScore
from coterie.workload import Workload


@known_arguments
@dataclass(frozen=True)
class Etap(ProbeScore):
    """First-order affinity ``<g_t, g_s> / L_t`` from a probe run.

    g are gradients of the shared parameters and L_t is the loss of target t, on the same batch. Times the learning rate
    it is the first term of what TAG finds by looking ahead with a plain step. Larger is better; only values of the same
    target compare. The learning rate is divided out, as in the authors' code. Their variant with momentum adds the same
    number to all sources of a target, which changes no ranking; it is left out. So is their second stage, a fit to
    groups that were really trained.

    Args:
        every: steps from one measurement to the next; the authors measure every step.
        runs: probe runs, averaged.
        average: ``"ratios"``, as published, or ``"pooled"``: summed inner products over summed losses. Where a
            batch has few labels of a task its loss can be close to 0, and one ratio outweighs all others.

    Raises:
        SettingError: when a value is out of range.

    Cost: one training on all tasks; every measurement adds one forward and n backward passes over a batch.

    Source: A. Ayman, A. Mukhopadhyay, A. Laszka, Ensemble Prediction of Task Affinity for Efficient Multi-Task
    Learning, ICLR 2026, arXiv 2602.18591, and the authors' code.

    Example:
        >>> from coterie.workload import Recipe, from_arrays
        >>> x = np.random.default_rng(0).normal(size=(90, 4))
        >>> workload = from_arrays(x, x[:, [0, 0, 1]] > 0, recipe=Recipe(epochs=2, batch_size=16), hidden=(8,))
        >>> Etap(every=2).estimate(workload).model.affinity.counts.tolist()
        [[4, 4, 4], [4, 4, 4], [4, 4, 4]]
    """

    measured: ClassVar[str] = "etap"

    def _finish(self, values: NDArray[np.float64], workload: Workload) -> NDArray[np.float64]:
        del workload
        return values
