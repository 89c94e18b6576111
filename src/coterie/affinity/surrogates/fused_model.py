"""Predictions of a cheap estimate that was corrected by real runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.surrogates.covariance import Floats
from coterie.affinity.surrogates.process import SubsetProcess
from coterie.affinity.surrogates.value_model import ValueModel


@final
class FusedModel(ValueModel):
    """Predicted values and gains, with standard errors, of any subset.

    Args:
        tasks: names.
        method: name for tables.
        process: corrects the estimate.
        cheap: the estimate: bool subsets (m, T) -> values (m, T), NaN outside the subset.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        method: str,
        process: SubsetProcess,
        cheap: Callable[[NDArray[np.bool_]], Floats],
    ) -> None:
        super().__init__(tasks, method)
        self.process = process
        self.cheap = cheap
        self._alone: Floats | None = None

    def _values(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        return self.process.predict(subsets, self.cheap(subsets))

    def _means(self, subsets: NDArray[np.bool_]) -> Floats:
        return self.process.predict(subsets, self.cheap(subsets), errors=False)[0]

    def _with_alone(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        if self._alone is None:
            self._alone = np.diag(self.cheap(np.eye(len(self.tasks), dtype=bool))).copy()
        return self.process.covariance_with_single(subsets, self.cheap(subsets), self._alone)
