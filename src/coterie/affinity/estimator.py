"""What every way of estimating affinity has in common: settings that turn a workload into a model of gains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._context import DEFAULT_CONTEXT, Context, called_with_keywords, keywords_into
from coterie._show import short_repr
from coterie.affinity.costs import Costs
from coterie.affinity.gain_model import GainModel
from coterie.errors import SettingError
from coterie.workload import Workload

if TYPE_CHECKING:
    from coterie.affinity.context import Prepared
    from coterie.affinity.planned import EstimatePlan, KnownTrainings


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


class Estimator(ABC):
    """Settings of a method; each method is a frozen dataclass that checks them when it is made.

    Attributes:
        needs_workload: False for a method to which the losses of runs are enough, so that any trainer will do.
    """

    needs_workload: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Let `estimate` be called, and be written, as before there was a context."""
        super().__init_subclass__(**options)
        own = cls.__dict__.get("estimate")
        if own is not None:
            new = "context" in signature(own).parameters
            cls.estimate = keywords_into(context=Context)(own) if new else called_with_keywords(own, cls.__name__)

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the method with these settings."""

    @abstractmethod
    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Estimate affinities.

        Args:
            workload: tasks, data, model and recipe.
            context: seed, memory, store, progress, executor and ledger.
            subset_size: size of the subsets that will mostly be asked about; methods to which it means nothing do not
                look at it.
        """

    @property
    def probes(self) -> int:
        """Usual subsets that a plan trains to learn what an ordinary training takes."""
        return 2

    def plan_trainings(self, prepared: Prepared, subset_size: int, known: KnownTrainings) -> EstimatePlan:
        """What :meth:`estimate` will do, for :func:`coterie.plan`.

        Args:
            prepared: the workload.
            subset_size: as for :meth:`estimate`.
            known: trainings in the place of the first ones of the estimate.

        Raises:
            SettingError: the method cannot tell.
            ResourceError: what the estimate will refuse.
        """
        del prepared, subset_size, known
        raise SettingError(
            f"Parameter `method`: no plan can be made for {self.name!r}, only for methods that are built on base "
            "models. Use 'fused', 'secants', 'task-vectors' or 'grad-tag'."
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return dict(vars(self))

    def check_source(self, source: object) -> None:
        """Refuse a trainer that cannot do what the method needs.

        Raises:
            SettingError: saying which methods are left.
        """
        if self.needs_workload and not isinstance(source, Workload):
            raise SettingError(
                f"Parameter `method`={self.name!r} needs a torch workload: it looks at models and gradients, and "
                f"{source!r} only reports losses. Take 'kernel-surrogate' or 'linear-surrogate', or bring the model "
                "and the data with coterie.from_arrays."
            )
