"""What an estimate will train and compute, as :func:`coterie.plan` asks for it before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coterie.training.job import Fit

if TYPE_CHECKING:
    from coterie.affinity.estimator import Estimator


@dataclass(frozen=True)
class TrainingCall:
    """Models that are trained by one call.

    Attributes:
        sizes: tasks of each.
        steps: of each; None for an ordinary training, to its early stop.
        calls: how many calls of this kind there are; a fraction of one for fewer models.
        kept: whether the parameters are kept in the store.
    """

    sizes: tuple[int, ...]
    steps: int | None = None
    calls: float = 1.0
    kept: bool = True


@dataclass(frozen=True)
class TrainingStage:
    """TrainingCall that stand in one row of a plan.

    Attributes:
        stage: as in the ledger of costs.
        what: in words.
        trainings: what is trained.
        states: how many models' parameters are held beside the population.
    """

    stage: str
    what: str
    trainings: tuple[TrainingCall, ...]
    states: int = 0


@dataclass(frozen=True)
class FeatureStage:
    """Features of one base model.

    Attributes:
        stage: as in the ledger of costs.
        what: in words.
        why: this way.
        flops: of one base.
        bytes: of working memory.
        numbers: of a label, at most.
    """

    stage: str
    what: str
    why: str
    flops: float
    bytes: float
    numbers: int


@dataclass(frozen=True)
class EstimatePlan:
    """What an estimate does.

    Attributes:
        bases: number of base models.
        stages: what is trained.
        remembers: whether the model does not compute a subset twice.
        rehearsed: settings with which an estimate with few base models is made on a few examples.
        features: of one base; None without base models.
        runs: subsets that are trained for real.
        asked: numbers of subsets that the base models are asked about by the estimate itself, call by call.
        solve: stands for the algebra that follows on the trainings, for so many of them; None where there is none.
        solve_bytes: its working memory.
    """

    bases: int
    stages: tuple[TrainingStage, ...] = ()
    features: FeatureStage | None = None
    remembers: bool = False
    rehearsed: Estimator | None = None
    runs: int = 0
    asked: tuple[int, ...] = ()
    solve: Callable[[int], object] | None = None
    solve_bytes: float = 0.0


@dataclass(frozen=True)
class KnownTrainings:
    """TrainingCall that were made to plan with.

    Attributes:
        full: on all tasks; None when none was made yet, and only what needs no training is said.
        usual: on usual subsets.
    """

    full: Fit | None = None
    usual: Sequence[Fit] = ()
