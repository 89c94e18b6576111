"""Cosine of the gradients of two tasks, measured while all are trained together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._check import flag
from coterie._surface import known_arguments
from coterie.affinity.scores.probe_score import ProbeScore
from coterie.workload import Workload


@known_arguments
@dataclass(frozen=True)
class Cosine(ProbeScore):
    """Mean cosine of two tasks' gradients of the shared parameters, from a probe run.

    From -1 (opposed) to 1 (the same direction); symmetric; larger is better. Both gradients are of the same batch. A
    gradient of 0 leaves its task out of that measurement.

    Args:
        every: steps from one measurement to the next; the published baseline measures every step.
        runs: probe runs, averaged.
        average: ``"ratios"``, as published, or ``"pooled"``: summed inner products over summed products of lengths.
        vectors: True also counts tensors of one dimension (biases, scales of normalisation), which the authors' code
            leaves out. They always count where the shared parameters have no others.

    Raises:
        SettingError: when a value is out of range.

    Cost: one training on all tasks; every measurement adds one forward and n backward passes over a batch.

    Source: the baseline "CS" of C. Fifty et al., NeurIPS 2021, arXiv 2109.04617, as in the authors' code.

    Example:
        >>> from coterie.workload import Recipe, from_arrays
        >>> x = np.random.default_rng(0).normal(size=(90, 4))
        >>> workload = from_arrays(x, x[:, [0, 0, 1]] > 0, recipe=Recipe(epochs=2, batch_size=16), hidden=(8,))
        >>> found = Cosine(every=2).estimate(workload).model.affinity.values
        >>> bool(np.allclose(found, found.T))
        True
    """

    vectors: bool = False

    measured: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(self.vectors, "vectors")

    @property
    def _sum(self) -> str:
        return "cosine_all" if self.vectors else "cosine"

    def _finish(self, values: NDArray[np.float64], workload: Workload) -> NDArray[np.float64]:
        del workload
        return values
