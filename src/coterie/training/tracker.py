"""Early stopping: which checkpoint is kept and when training ends; one rule for both backends."""

from __future__ import annotations

import math

from coterie.training.job import Schedule


class Tracker:
    """Follows the validation loss of one job.

    Args:
        schedule: the job with its number of steps.
        patience: checks without improvement before stopping; None trains to the end.
    """

    def __init__(self, schedule: Schedule, patience: int | None) -> None:
        self._job = schedule.job
        self._max_steps = schedule.max_steps
        self._patience = patience
        self._best = math.inf
        self._waited = 0
        self.best_step = 0
        self.finished = False
        self.history: list[tuple[int, float]] = []

    def observe(self, step: int, loss: float) -> bool:
        """Take the validation loss of a check into account; True when this checkpoint is to be kept."""
        self.history.append((step, loss))
        ended = step >= self._max_steps
        if self._job.stop_below is not None and loss <= self._job.stop_below:
            keep = self.finished = True
        elif not self._job.early_stopping:
            keep = self.finished = ended
        else:
            keep = loss < self._best
            self._waited = 0 if keep else self._waited + 1
            self.finished = ended or (self._patience is not None and self._waited >= self._patience)
        if keep:
            self._best, self.best_step = loss, step
        return keep

    def reach(self, step: int) -> bool:
        """Take note of a step at which nothing was checked; True when this is the last one, which is kept."""
        self.finished = step >= self._max_steps
        if self.finished:
            self.best_step = step
        return self.finished
