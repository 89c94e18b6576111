"""The gain of one candidate over another, from their losses seed by seed and label by label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coterie.evaluation.intervals import Interval, t_interval
from coterie.evaluation.labels import TINY, LabelLosses


def gain_interval(
    losses: NDArray[np.float64],
    labels: LabelLosses | None,
    candidate: int,
    against: int,
    tasks: Sequence[int],
    level: float = 0.95,
) -> Interval:
    """1 - geometric mean over tasks of the loss ratios, with its interval over seeds and, with labels, over examples.

    Differences are paired: seed by seed, and label by label.

    Args:
        losses: (candidates, seeds, tasks) mean losses; lower is better.
        labels: the losses behind them, label by label; None leaves the noise of the examples out.
        candidate: whose gain; positive is good.
        against: over whom.
        tasks: which tasks count.
        level: coverage.

    Example:
        >>> gain_interval(np.array([[[0.5, 2.0]], [[1.0, 1.0]]]), None, 0, 1, [0]).mean
        0.5
    """
    # on the scale of log ratios a loss that halves weighs as much as one that doubles, and no gain exceeds 100 %
    logs = np.log(np.maximum(losses[[candidate, against]][..., list(tasks)], TINY))
    noise = None if labels is None else labels.noise(candidate, against, tasks)
    found = t_interval((logs[0] - logs[1]).mean(-1), noise, level)
    return Interval(*(float(1 - np.exp(x)) for x in (found.mean, found.high, found.low)))
