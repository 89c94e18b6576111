"""What every way of estimating affinity has in common: settings that turn a workload into a model of gains."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._progress import Progress
from coterie._show import short_repr
from coterie._units import UnitStore
from coterie.affinity.costs import Costs
from coterie.affinity.gain_model import GainModel
from coterie.workload import Workload

_log = logging.getLogger("coterie")


@short_repr
@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimate and how it came about.

    Attributes:
        model: predicts the gain of any subset.
        costs: FLOPs and seconds of every stage.
        run_flops: mean FLOPs of one ordinary training; None where the method has no need to know.
        notes: what was chosen, and why.
        facts: numbers for the report.
        cluster: the method's own clustering, where it has one: number of groups k -> label 0..k-1 of each task.
    """

    model: GainModel
    costs: Costs
    run_flops: float | None = None
    notes: tuple[str, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)
    cluster: Callable[[int], NDArray[np.int64]] | None = None


def given(estimator: Estimator, executor: Executor | None) -> dict[str, Executor]:
    """The argument `executor` where there is one: estimators of users need not know it, and train in this process."""
    if executor is None:
        return {}
    known = signature(estimator.estimate).parameters.values()
    if any(one.name == "executor" or one.kind is one.VAR_KEYWORD for one in known):
        return {"executor": executor}
    _log.warning("the method %r takes no `executor`: its estimate is made in this process", estimator.name)
    return {}


class Estimator(ABC):
    """Settings of a method; each method is a frozen dataclass that checks them when it is made."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the method with these settings."""

    @abstractmethod
    def estimate(
        self,
        workload: Workload,
        *,
        seed: int = 0,
        subset_size: int = 2,
        memory: int = 2**30,
        store: UnitStore | None = None,
        progress: Progress | None = None,
        executor: Executor | None = None,
    ) -> Estimate:
        """Estimate affinities.

        Args:
            workload: tasks, data, model and recipe.
            seed: of everything random.
            subset_size: size of the subsets that will mostly be asked about.
            memory: working memory in bytes.
            store: where finished units go; methods that share work find it there.
            progress: called as ``progress(stage, done, total)``.
            executor: where trainings run; None is this process.
        """

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return dict(vars(self))
