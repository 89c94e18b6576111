"""Predictions of Grad-TAE for any subset of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.gain_model import NamedGainModel
from coterie.affinity.linear import LinearBase
from coterie.affinity.network import NetworkValues
from coterie.affinity.stopped import mixed, path_values, place_of
from coterie.affinity.subsets import SubsetsLike, as_subsets

#: losses below this count as zero when gains are formed
TINY = 1e-12


@final
class GradTAEModel(NamedGainModel):
    """Predicted values and gains from linearised base models.

    The predicted value of a task is the mean over the bases; the gain is its relative reduction against the predicted
    value of the task alone. Estimated differences are larger than real ones (docs/decisions.md): use them to
    rank.

    Args:
        tasks: names.
        bases: linearised bases.
        ridge: strength of the ridge.
        converged: fit to the optimum instead of one Newton step.
        network: evaluates with the real network when given.
        method: name for tables.
        kinds: kind of loss of each task, needed to save the model.
        path: strengths among which each subset chooses, see :mod:`coterie.affinity.stopped`; none for `ridge` alone.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        bases: Sequence[LinearBase],
        ridge: float,
        converged: bool = False,
        network: NetworkValues | None = None,
        method: str = "grad-tae",
        kinds: tuple[str, ...] = (),
        path: Sequence[float] = (),
    ) -> None:
        super().__init__(tasks, method)
        self.bases = tuple(bases)
        self.ridge = ridge
        self.converged = converged
        self.network = network
        self.kinds = kinds
        #: bytes that the solver may use at a time
        self.memory = 2**30
        self.path = tuple(path)
        self._alone: NDArray[np.float64] | None = None

    def save(self, path: str | Path) -> Path:
        """Write the model to one safetensors file, see :func:`coterie.affinity.model_file.save_model`."""
        from coterie.affinity.model_file import save_model

        return save_model(self, path)

    @staticmethod
    def load(path: str | Path) -> GradTAEModel:
        """The inverse of :meth:`save`."""
        from coterie.affinity.model_file import load_model

        return load_model(path)

    def values_by_base(self, subsets: SubsetsLike) -> NDArray[np.float64]:
        """(bases, m, T) predicted validation losses, NaN outside the subset; lower is better."""
        asked = as_subsets(subsets, self.tasks)
        unique, back = np.unique(asked, axis=0, return_inverse=True)
        rows = [self._values(number, unique) for number in range(len(self.bases))]
        return np.stack(rows)[:, back.reshape(-1)]

    def predict_values(self, subsets: SubsetsLike) -> NDArray[np.float64]:
        """(m, T) predicted validation losses: mean over the bases, NaN outside the subset; lower is better."""
        return self.values_by_base(subsets).mean(0)

    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        alone = self._single().mean(0)
        return (alone - self.predict_values(subsets)) / np.maximum(alone, TINY)

    def _standard_error(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        # the spread between bases covers the luck of the base's seed only, not the error that all bases share
        if len(self.bases) < 2:
            return None
        return self._gains_by_base(subsets).std(0, ddof=1) / len(self.bases) ** 0.5

    @property
    def uncertainty(self) -> str:
        """Standard errors are the spread of the bases, where there are several."""
        return "spread of bases" if len(self.bases) > 1 else ""

    def _total_covariance(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        if len(self.bases) < 2:
            return None
        totals = np.where(subsets, self._gains_by_base(subsets), 0.0).sum(2)
        away = totals - totals.mean(0)
        return away.T @ away / (len(self.bases) * (len(self.bases) - 1))

    def _gains_by_base(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(bases, m, T) gains by each base, over the mean value of each task alone."""
        alone = self._single()
        return (alone[:, None] - self.values_by_base(subsets)) / np.maximum(alone.mean(0), TINY)

    def _single(self) -> NDArray[np.float64]:
        """(bases, T) predicted values of each task alone."""
        if self._alone is None:
            n = len(self.tasks)
            self._alone = self.values_by_base(np.eye(n, dtype=bool))[:, np.arange(n), np.arange(n)]
        return self._alone

    def _values(self, number: int, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        base = self.bases[number]
        if self.path:
            place = place_of(self.ridge, self.path)
            along = path_values(base, subsets, self.path, around=place, converged=self.converged, memory=self.memory)
            return mixed(along, self.path, self.ridge)
        if self.network is None:
            return base.values(subsets, self.ridge, converged=self.converged, memory=self.memory)
        solution = base.solve(subsets, self.ridge, converged=self.converged, memory=self.memory)
        return self.network.values(number, solution, subsets)
