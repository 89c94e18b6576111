"""All ground truth of a workload: everything that estimates are held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.evaluation.bank import Runs, train_subsets
from coterie.evaluation.bank_plan import BankPlan
from coterie.evaluation.skill import gains, pair_matrix
from coterie.workload import Workload

Floats = NDArray[np.float64]


@short_repr
@dataclass(frozen=True, eq=False)
class Bank:
    """Really trained subsets of a workload.

    Attributes:
        workload: tasks, data, model and recipe.
        plan: what was asked for.
        test: random subsets, several independent trainings each: the truth.
        common: the same subsets with common random numbers.
        pool: other random subsets, trained once.
        alone: every task alone.
        everything: all tasks in one model.
        pairs: pairs of tasks.
    """

    workload: Workload
    plan: BankPlan
    test: Runs
    common: Runs
    pool: Runs
    alone: Runs
    everything: Runs
    pairs: Runs

    @property
    def singles(self) -> Floats:
        """(replicates, T) losses of the tasks trained alone."""
        return np.diagonal(self.alone.values, axis1=1, axis2=2).copy()

    @property
    def joint(self) -> Floats:
        """(replicates, T) losses of the model of all tasks."""
        return self.everything.values[:, 0]

    @property
    def pair_gains(self) -> Floats:
        """(T, T) true gains of pairs, [target, source]; NaN where the pair was not trained."""
        return pair_matrix(self.pairs.subsets, gains(self.pairs.truth, self.singles.mean(0)))

    @property
    def parts(self) -> tuple[Runs, ...]:
        """All runs."""
        return (self.test, self.common, self.pool, self.alone, self.everything, self.pairs)

    @property
    def trainings(self) -> int:
        """Number of trainings."""
        return sum(part.flops.size for part in self.parts)

    @property
    def seconds(self) -> float:
        """Seconds that all trainings took, in this or an earlier process."""
        return sum(part.seconds for part in self.parts)


@keywords_into(context=Context)
@known_arguments
def make_bank(workload: Workload, plan: BankPlan, context: Context = DEFAULT_CONTEXT) -> Bank:
    """Train a bank, or what of it is not in the store yet.

    Args:
        workload: tasks, data, model and recipe.
        plan: which subsets, and how often.
        context: memory, progress, executor, and the store, where finished trainings go, 30 subsets a unit; a killed
            bank goes on there, a larger plan adds to it.

    Cost: ``plan.trainings(n_tasks)`` trainings.
    """
    drawn = plan.draw(workload.n_tasks)

    def train(part: str, name: str, replicates: int, common: bool = False) -> Runs:
        subsets = drawn[part]
        if not replicates or not len(subsets):
            shape = (replicates, *subsets.shape)
            return Runs(subsets, np.full(shape, np.nan), np.zeros(shape[:2]), 0.0, common)
        return train_subsets(workload, subsets, replicates, context, name=name, common=common)

    return Bank(
        workload,
        plan,
        test=train("test", "subsets", plan.replicates),
        common=train("test", "subsets-common", plan.common, common=True),
        pool=train("pool", "pool", 1, common=True),
        alone=train("alone", "alone", plan.singles),
        everything=train("everything", "everything", plan.singles),
        pairs=train("pairs", "pairs", plan.pair_replicates),
    )
