"""The gain of one candidate over another, from their losses seed by seed and label by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.evaluation.intervals import Interval, Spread
from coterie.evaluation.labels import TINY, LabelLosses


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of one part of the data.

    Attributes:
        means: (candidates, seeds, tasks) mean losses; lower is better.
        labels: the losses behind them, label by label; None leaves the noise of the examples out.
        floor: (tasks,) how finely each mean loss is known; see :meth:`coterie.evaluation.LabelLosses.floor`.
    """

    means: NDArray[np.float64]
    labels: LabelLosses | None
    floor: NDArray[np.float64]

    @staticmethod
    def of(means: NDArray[np.float64], labels: LabelLosses | None = None) -> Losses:
        """With the floor that follows from the labels, or none without them."""
        return Losses(means, labels, np.zeros(means.shape[-1]) if labels is None else labels.floor(means.shape[-1]))

    def spread(self, candidate: int, against: int, tasks: Sequence[int]) -> Spread:
        """Mean log ratio of the losses of two candidates over some tasks; positive says that the first is worse.

        Differences are paired: seed by seed, and label by label.
        """
        floor = self.floor[list(tasks)]
        logs = log_losses(self.means[[candidate, against]][..., list(tasks)], floor)
        noise = None if self.labels is None else self.labels.noise(candidate, against, tasks)
        return Spread.of((logs[0] - logs[1]).mean(-1), noise)

    def gain(self, candidate: int, against: int, tasks: Sequence[int], level: float = 0.95) -> Interval:
        """1 - geometric mean over tasks of the loss ratios, with its interval over seeds and, with labels, examples.

        Args:
            candidate: whose gain; positive is good.
            against: over whom.
            tasks: which tasks count.
            level: coverage.

        Example:
            >>> losses = Losses.of(np.array([[[0.5, 2.0]], [[1.0, 1.0]]]))
            >>> losses.gain(0, 1, [0]).mean
            0.5
        """
        found = self.spread(candidate, against, tasks)
        half = found.reach(level)
        return Interval(*(float(1 - np.exp(x)) for x in (found.mean, found.mean + half, found.mean - half)))


def log_losses(losses: NDArray[np.float64], floor: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Logarithm of (..., tasks) losses, of which each counts as ``sqrt(loss² + floor²)``.

    On this scale a loss that halves weighs as much as one that doubles, and no gain exceeds 100 %. A loss far above its
    floor counts as it is; one far below counts as the floor, since which of two such losses is smaller is noise,
    however large their ratio. A loss of 0 is no exception; a negative one, which has no logarithm, counts as 0.

    Args:
        losses: mean losses.
        floor: (tasks,), see :meth:`coterie.evaluation.LabelLosses.floor`; 0 for none.

    Example:
        >>> log_losses(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
        array([0., 0.])
    """
    kept = np.maximum(losses, 0.0)
    return 0.5 * np.log(np.maximum(np.square(kept) + np.square(floor), TINY**2))
