"""TAG: by how much a step for one task lowers the loss of another, measured while all are trained together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._check import choice
from coterie._surface import known_arguments
from coterie.affinity.scores.probe_score import ProbeScore
from coterie.errors import SettingError
from coterie.workload import Workload

STEPS = ("optimizer", "sgd")


@known_arguments
@dataclass(frozen=True)
class Tag(ProbeScore):
    """Look-ahead affinity from a probe run.

    ``Z[t, s] = 1 - L_t(theta after a step for s, psi_t) / L_t(theta, psi_t)`` on the same batch: the relative fall of
    target t's loss when the shared parameters theta take a step for source s alone. Heads psi stay as they are, and
    training goes on with the ordinary step. Larger is better; only values of the same target compare, as the scale and
    even the sign of a row depend on the optimiser's momentum and weight decay.

    Args:
        every: steps from one measurement to the next.
        runs: probe runs, averaged.
        average: ``"ratios"``, as published, or ``"pooled"``: summed falls of the loss over summed losses. Where a
            batch has few labels of a task its loss can be close to 0, and one ratio outweighs all others.
        step: ``"optimizer"`` for the step that the recipe's optimiser would take with its current momentum, moments and
            weight decay; ``"sgd"`` for ``theta - rate * gradient``, as published.
        rate: step size of ``step="sgd"``; None for the recipe's learning rate.
        per_rate: True divides by the learning rate, as the released codes do; with a constant rate no ranking changes.

    The model is in evaluation mode while it is measured: dropout is off, and batch normalisation uses its running
    statistics. A loss of 0 leaves its target out of that measurement. The codes drop what was measured after the best
    checkpoint; here all measurements count.

    Raises:
        SettingError: when a value is unknown or out of range.

    Cost: one training on all tasks; every measurement adds n + 1 forward and n backward passes over a batch.

    Source: C. Fifty et al., Efficiently Identifying Task Groupings for Multi-Task Learning, NeurIPS 2021,
    arXiv 2109.04617, section 3; the choices left open there are those of the authors' code.

    Example:
        >>> from coterie.workload import Recipe, from_arrays
        >>> x = np.random.default_rng(0).normal(size=(90, 4))
        >>> workload = from_arrays(x, x[:, [0, 0, 1]] > 0, recipe=Recipe(epochs=2, batch_size=16), hidden=(8,))
        >>> found = Tag(every=2, step="sgd").estimate(workload).model.affinity
        >>> found.values.shape, found.method
        ((3, 3), 'tag')
    """

    step: str = "optimizer"
    rate: float | None = None
    per_rate: bool = False

    measured: ClassVar[str] = "tag"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self.step, "step", STEPS)
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise SettingError(f"Parameter `rate` should be positive. Found {self.rate!r}. For example rate=0.001.")
        if self.rate is not None and self.step == "optimizer":
            raise SettingError(
                f"Parameter `rate`={self.rate!r} needs step='sgd': with step='optimizer' the recipe says how large a "
                "step is. Leave `rate` out, or give step='sgd'."
            )

    def _rate(self, workload: Workload) -> float | None:
        return None if self.step == "optimizer" else self.rate or workload.recipe.learning_rate

    def _finish(self, values: NDArray[np.float64], workload: Workload) -> NDArray[np.float64]:
        return values / (self._rate(workload) or workload.recipe.learning_rate) if self.per_rate else values
