"""What every way of estimating affinity has in common: settings that turn a workload into a model of gains."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coterie._check import named_choice
from coterie._context import DEFAULT_CONTEXT, Context, called_with_keywords, keywords_into
from coterie._show import short_repr
from coterie._surface import names_of, refuse_unknown
from coterie.affinity.costs import Costs
from coterie.affinity.gain_model import GainModel
from coterie.errors import SettingError
from coterie.training.job import Fit
from coterie.workload import Workload

if TYPE_CHECKING:
    from coterie.affinity.costs import Prepared


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
        needs_one_output: True for a method that explains or fits one number a task, or one a class.
    """

    needs_workload: ClassVar[bool] = True
    needs_one_output: ClassVar[bool] = False

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
        """Refuse a trainer, or losses, that cannot do what the method needs.

        Raises:
            SettingError: saying which methods are left.
        """
        if self.needs_workload and not isinstance(source, Workload):
            raise SettingError(
                f"Parameter `method`={self.name!r} needs a torch workload: it looks at models and gradients, and "
                f"{source!r} only reports losses. Take 'kernel-surrogate' or 'linear-surrogate', or bring the model "
                "and the data with coterie.from_arrays."
            )
        several = [t.name for t in source.tasks if t.loss.outputs > 1] if isinstance(source, Workload) else []
        if self.needs_one_output and several:
            raise SettingError(
                f"Parameter `method`={self.name!r} looks at one output a task, and the loss of {several[0]!r} reads "
                "several. Take 'fused', 'secants', a gradient score such as 'tag', or 'kernel-surrogate'."
            )


#: name -> module below coterie.affinity, and what in it is the method: settings, or a class whose defaults are meant
_WHERE = {
    "secants": ("grad_tae", "SECANTS"),
    "task-vectors": ("grad_tae", "TASK_VECTORS"),
    "grad-tag": ("grad_tae", "GRAD_TAG"),
    "grad-tag-blocks": ("grad_tae", "GRAD_TAG_BLOCKS"),
    "grad-tag-released": ("grad_tae", "GRAD_TAG_RELEASED"),
    "fused": ("surrogates.fused", "Fused"),
    "linear-surrogate": ("surrogates.linear", "LinearSurrogate"),
    "kernel-surrogate": ("surrogates.kernel", "KernelSurrogate"),
    "tag": ("scores.tag", "Tag"),
    "cosine": ("scores.cosine", "Cosine"),
    "etap": ("scores.etap", "Etap"),
    "rsa": ("scores.rsa", "Rsa"),
    "attribution": ("scores.attribution", "Attribution"),
    "label-injection": ("scores.label_injection", "LabelInjection"),
    "taxonomy": ("scores.taxonomy", "Taxonomy"),
    "landscape": ("scores.landscape", "Landscape"),
    "landscape-spectral": ("scores.landscape", "SPECTRAL"),
    "label-correlation": ("scores.label_correlation", "LabelCorrelation"),
}
METHODS = tuple(_WHERE)


def get_estimator(method: str | Estimator, **options: Any) -> Estimator:
    """The settings of a method by name, with some changed; options that are None keep the method's value.

    Raises:
        SettingError: when the method or an option is unknown.

    Example:
        >>> get_estimator("grad-tag", count=100).to_dict()["count"]
        100
    """
    return estimator_of(None, method, options)


def estimator_of(call: Callable[..., Any] | None, method: str | Estimator, options: Mapping[str, Any]) -> Estimator:
    """The estimator for a function that hands its ``**options`` on; its own parameters may have been meant, too.

    Raises:
        SettingError: when the method or an option is unknown.
    """
    settings = method if isinstance(method, Estimator) else _named(method)
    options = {name: value for name, value in options.items() if value is not None}
    name = f"method {settings.name!r}"
    own = [] if call is None else [known for known in names_of(call) if known != "method"]
    refuse_unknown(name if call is None else f"{call.__name__} and {name}", options, [*own, *sorted(vars(settings))])
    return replace(settings, **options)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]


def _named(method: object) -> Estimator:
    named_choice(method, "method", sorted(METHODS))
    module, name = _WHERE[str(method)]
    found = getattr(importlib.import_module(f"coterie.affinity.{module}"), name)
    return found() if isinstance(found, type) else found


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
