"""Outcomes of the runs of a trainer, and what groupings lose that serve their tasks from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._context import Context
from coterie._surface import warn
from coterie.balancing import Balancing
from coterie.errors import DataWarning, ModelError, SettingError
from coterie.evaluation.labels import LabelLosses, Losses
from coterie.grouping import Grouping
from coterie.training.trainer import Outcome, Trainer, as_trainer, describe_run, make_run, train_runs

Subset = tuple[int, ...]


@dataclass(eq=False)
class RunOutcomes:
    """What came of the runs of a trainer so far.

    Attributes:
        trainer: who does the runs.
        context: store of the outcomes, progress and executor.
        runs: outcome of each (subset, seed).
        seconds: how long the runs took, in this or an earlier process.
    """

    trainer: Trainer
    context: Context
    runs: dict[tuple[Subset, int], Outcome] = field(default_factory=dict[tuple[Subset, int], Outcome])
    seconds: float = 0.0

    @staticmethod
    def of(trainer: Any, context: Context, balancing: Balancing | None) -> RunOutcomes:
        """No run done yet.

        Raises:
            SettingError: when it is no trainer, or tasks are to be balanced, which a trainer does itself.
        """
        trainer = as_trainer(trainer)
        if balancing is not None:
            raise SettingError(
                f"Parameter `balancing`={str(balancing)!r} needs a torch workload: {trainer!r} balances tasks itself. "
                "Leave it out."
            )
        return RunOutcomes(trainer, context)

    def trained(self, subset: Subset, seed: int) -> bool:
        """Whether there is a run on a subset with a seed."""
        return (subset, seed) in self.runs

    def train(self, subsets: Sequence[Subset], seeds: Sequence[int], *, stage: str, keep: bool | None) -> None:
        """Do every subset with every seed; what the store has is not done again. No parameters are kept."""
        del keep
        places = [(subset, seed) for seed in seeds for subset in subsets]
        runs = [make_run(self.trainer, subset, seed) for subset, seed in places]
        done = train_runs(self.trainer, runs, self.context, stage=stage)
        for place, run, (outcome, seconds) in zip(places, runs, done, strict=True):
            self.runs[place] = outcome
            self.seconds += seconds
            first = next(iter(self.runs.values()))
            if (first.test is None) != (outcome.test is None):
                raise ModelError(
                    f"Some runs of {self.trainer!r} report test losses and others do not, such as that on "
                    f"{describe_run(run)}. Report them always, or never."
                )

    def measure(self, groupings: Sequence[Grouping], seeds: Sequence[int], part: str) -> Losses:
        """Losses of groupings whose groups were trained, in order; of the validation part where there is no test.

        Label by label where every task's losses are reported one number an example.

        Raises:
            ModelError: when runs report different examples of a task.
        """
        tasks = self.trainer.tasks
        if part == "test" and next(iter(self.runs.values())).test is None:
            warn(
                f"{self.trainer!r} reports no test losses, so gains are reported on the losses that chose, which "
                "flatters what was chosen. Return Outcome(validation=..., test=...).",
                DataWarning,
            )
        served = [[self._serving(grouping, seed, part) for seed in seeds] for grouping in groupings]
        if any(len(losses) == 1 for rows in served for row in rows for losses in row):
            means = np.array([[[losses.mean() for losses in row] for row in rows] for rows in served])
            return Losses.of(means)
        observed = [~np.isnan(losses) for losses in served[0][0]]
        for row in (row for rows in served for row in rows):
            for task, losses, there in zip(tasks, row, observed, strict=True):
                if losses.shape != there.shape or (np.isnan(losses) == there).any():
                    raise ModelError(
                        f"Runs report {part} losses of different examples of task {task!r}. Report the same examples "
                        "in the same order in every run, NaN where the task has no label, or report means."
                    )
        values = [
            [np.concatenate([losses[there] for losses, there in zip(row, observed, strict=True)]) for row in rows]
            for rows in served
        ]
        labels = _label_losses(np.array(values, dtype=np.float32), observed)
        return Losses.of(labels.means(len(tasks)), labels)

    def _serving(self, grouping: Grouping, seed: int, part: str) -> list[NDArray[np.float64]]:
        """Losses of each task from the group that serves it."""
        groups = [tuple(sorted(group)) for group in grouping.groups]
        return [
            self.runs[groups[server], seed].losses(part)[task]
            for task, server in zip(self.trainer.tasks, grouping.serves, strict=True)
        ]


def _label_losses(values: NDArray[np.float32], observed: Sequence[NDArray[np.bool_]]) -> LabelLosses:
    """Examples of one number for all tasks are the same examples; of other numbers, every task has its own."""
    shared = len({len(there) for there in observed}) == 1
    starts = np.zeros(len(observed), dtype=np.int64) if shared else np.cumsum([0, *map(len, observed[:-1])])
    row = np.concatenate([start + np.flatnonzero(there) for start, there in zip(starts, observed, strict=True)])
    task = np.repeat(np.arange(len(observed)), [int(there.sum()) for there in observed])
    return LabelLosses(values, task.astype(np.int64), row.astype(np.int64))
