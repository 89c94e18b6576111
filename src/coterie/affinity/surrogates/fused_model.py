"""Predictions of a cheap estimate that was corrected by real runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.surrogates.covariance import Floats
from coterie.affinity.surrogates.process import SubsetProcess
from coterie.affinity.surrogates.sums import Sums, covariance_of_sums
from coterie.affinity.surrogates.value_model import TINY, ValueModel

#: rows of cheap estimates that are kept
_KEPT = 20_000


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
        self._kept: dict[bytes, Floats] = {}

    @property
    def uncertainty(self) -> str:
        """Standard errors are those of the posterior."""
        return "posterior"

    def _values(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        return self.process.predict(subsets, self._estimates(subsets))

    def _means(self, subsets: NDArray[np.bool_]) -> Floats:
        return self.process.predict(subsets, self._estimates(subsets), errors=False)[0]

    def _with_alone(self, subsets: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        return self.process.covariance_with_single(subsets, self._estimates(subsets), self._alone)

    def _total_covariance(self, subsets: NDArray[np.bool_]) -> Floats:
        # first order in the errors of both values: a gain is 1 - f(S, t) / f({t}, t)
        alone, estimates = np.maximum(self._alone_values, TINY), self._estimates(subsets)
        values = self.process.predict(subsets, estimates, errors=False)[0]
        weights = np.where(subsets, -1.0 / alone, 0.0)
        alone_weights = np.where(subsets, values / alone**2, 0.0)
        return covariance_of_sums(self.process, Sums(subsets, estimates, weights, self._alone, alone_weights))

    @cached_property
    def _alone(self) -> Floats:
        """(T,) cheap estimates of tasks alone."""
        return np.diag(self._estimates(np.eye(len(self.tasks), dtype=bool))).copy()

    def _estimates(self, subsets: NDArray[np.bool_]) -> Floats:
        """(m, T) cheap estimates. They take most of the time, and a search comes back to the same groups."""
        keys = [row.tobytes() for row in np.packbits(subsets, axis=1)]
        fresh = {key: row for row, key in enumerate(keys) if key not in self._kept}
        if len(self._kept) + len(fresh) > _KEPT:
            self._kept, fresh = {}, {key: row for row, key in enumerate(keys)}
        if fresh:
            rows = list(fresh.values())
            self._kept.update(zip(fresh, self.cheap(subsets[rows]), strict=True))
        return np.stack([self._kept[key] for key in keys]) if keys else np.zeros(subsets.shape)
