"""All methods by name; a method's module is read when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie._check import named_choice
from coterie._surface import known_arguments, refuse_unknown
from coterie.balancing.balancer import Balancer
from coterie.errors import SettingError

#: name -> module below coterie.balancing, class, and options that make this method of the class
_WHERE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "equal": ("equal", "Equal", {}),
    "uncertainty": ("uncertainty", "Uncertainty", {}),
    "dwa": ("dwa", "DynamicWeightAverage", {}),
    "rlw": ("rlw", "RandomWeighting", {}),
    "famo": ("famo", "Famo", {}),
    "marigold": ("marigold", "Marigold", {}),
    "marigold-same": ("amortised", "MarigoldAmortised", {"losses": "same"}),
    "marigold-next": ("amortised", "MarigoldAmortised", {"losses": "next"}),
}
#: name -> aggregator of TorchJD, and options for which it has no default; its own options can be given as well
_AGGREGATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "aligned-mtl": ("AlignedMTL", {}),
    "cagrad": ("CAGrad", {"c": 0.4}),
    "config": ("ConFIG", {}),
    "dualproj": ("DualProj", {}),
    "excess-mtl": ("ExcessMTL", {}),
    "fairgrad": ("FairGrad", {"alpha": 2.0}),
    "graddrop": ("GradDrop", {}),
    "gradvac": ("GradVac", {}),
    "imtl-g": ("IMTLG", {}),
    "krum": ("Krum", {"n_byzantine": 1}),
    "mgda": ("MGDA", {}),
    "nash-mtl": ("NashMTL", {}),
    "pcd": ("PCD", {}),
    "pcgrad": ("PCGrad", {}),
    "trimmed-mean": ("TrimmedMean", {"trim_number": 1}),
    "upgrad": ("UPGrad", {}),
}
WEIGHTINGS = tuple(_WHERE)
AGGREGATIONS = tuple(_AGGREGATORS)
METHODS = WEIGHTINGS + AGGREGATIONS


def check_method(name: str, parameter: str) -> None:
    """Refuse a name that is no method, in words about the parameter that brought it."""
    named_choice(name, parameter, sorted(METHODS))


def get_balancer(name: str, tasks: int, **options: Any) -> Balancer:
    """A balancer by name.

    Names in `WEIGHTINGS` need losses only. Those in `AGGREGATIONS` need the gradient of every task, one backward pass
    each, and the extra ``balancing``.

    Args:
        name: one of `METHODS`.
        tasks: number of tasks.
        options: of the method; those that are None keep its default.

    Raises:
        SettingError: when the name or an option is unknown.
        MissingDependencyError: when the method needs a package that is not installed.

    Example:
        >>> get_balancer("marigold", 3, form="simplex", every=5).every
        5
    """
    check_method(name, "name")
    options = {option: value for option, value in options.items() if value is not None}
    if name in _AGGREGATORS:
        from coterie.balancing.aggregation import named_aggregation

        aggregator, defaults = _AGGREGATORS[name]
        return named_aggregation(aggregator, tasks, defaults | options)
    module, kind, preset = _WHERE[name]
    method = getattr(importlib.import_module(f"coterie.balancing.{module}"), kind)
    known = sorted(set(inspect.signature(method).parameters) - {"tasks"} - set(preset))
    refuse_unknown(f"method {name!r}", options, known)
    return method(tasks, **preset, **options)


Options = tuple[tuple[str, Any], ...]


@known_arguments
@dataclass(frozen=True)
class Balancing:
    """A method of balancing and its options.

    Args:
        name: one of :data:`coterie.balancing.METHODS`.
        options: of the method, as a mapping or as pairs; numbers, texts, booleans and lists of them.

    Raises:
        SettingError: when the name or an option is unknown or out of range.
        MissingDependencyError: when the method needs a package that is not installed.

    Example:
        >>> Balancing("marigold", {"every": 5})
        Balancing(name='marigold', options=(('every', 5),))
        >>> str(Balancing("marigold", {"every": 5}))
        'marigold (every=5)'
    """

    name: str
    options: Options = field(default=())

    def __post_init__(self) -> None:
        given: Mapping[str, Any] | Options = self.options
        pairs = dict(given)
        options = tuple(
            (option, _plain(option, pairs[option])) for option in sorted(pairs) if pairs[option] is not None
        )
        object.__setattr__(self, "options", options)
        # one of the smallest kind, so that mistakes are found before anything is trained
        get_balancer(self.name, 2, **dict(options))

    @property
    def stackable(self) -> bool:
        """Whether stacked models can be trained with it: methods that weight losses can, those of gradients cannot."""
        return self.name not in AGGREGATIONS

    def make(self, tasks: int, *, seeds: Sequence[int], windows: Sequence[int], members: int | None = None) -> Balancer:
        """The balancer of a training, or of stacked ones.

        Options that a method would better take from the training are filled in where they were not given: `seed` of
        random weights, and `window` of DWA, which is an epoch.

        Args:
            tasks: number of tasks.
            seeds: of the members' trainings; one for a single model.
            windows: steps of an epoch of each member.
            members: see :class:`Balancer`.
        """
        filled = {"rlw": {"seed": seeds}, "dwa": {"window": windows}}.get(self.name, {})
        options: dict[str, Any] = {**filled, **dict(self.options)}
        if self.stackable:
            options["members"] = members
        elif members is not None:
            raise SettingError(
                f"Method {self.name!r} combines gradients, so stacked models cannot be trained with it. Train them one "
                "after the other (backend='loop'), or take one of the methods that weight losses."
            )
        return get_balancer(self.name, tasks, **options)

    def passes(self, tasks: int) -> tuple[float, float]:
        """Forward and backward passes of a training step with so many tasks, on average; (1, 1) without balancing."""
        return get_balancer(self.name, tasks, **dict(self.options)).passes

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"name": self.name, "options": {option: _listed(value) for option, value in self.options}}

    def __str__(self) -> str:
        said = ", ".join(f"{option}={value}" for option, value in self.options)
        return f"{self.name} ({said})" if said else self.name


def as_balancing(value: Balancing | str | None) -> Balancing | None:
    """A choice of balancing from what a user gives: a name, a choice, or None for the loss pooled over labels.

    Raises:
        SettingError: when it is none of them, or unknown.
        MissingDependencyError: when the method needs a package that is not installed.

    Example:
        >>> as_balancing("famo")
        Balancing(name='famo', options=())
    """
    if value is None or isinstance(value, Balancing):
        return value
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            "Parameter `balancing` should be None, the name of a method such as 'famo', or a "
            f"coterie.balancing.Balancing with options. Found {type(value).__name__}."
        )
    check_method(value, "balancing")
    return Balancing(value)


def balancing_key(balancing: Balancing | None) -> dict[str, Any]:
    """What a balancing adds to settings and to the key of a unit: nothing without one, so that older runs go on."""
    return {} if balancing is None else {"balancing": balancing.to_dict()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        items: Sequence[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return tuple(_plain(name, item) for item in items)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SettingError(
        f"Option `{name}` of a balancing should be a number, a text, a boolean or a list of them, so that it can be "
        f"compared and written down. Found {type(value).__name__}."
    )


def _listed(value: Any) -> Any:
    """With lists in place of tuples, as JSON gives them back."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
