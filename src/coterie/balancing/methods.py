"""All methods by name; a method's module is read when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from coterie._check import named_choice
from coterie._surface import refuse_unknown
from coterie.balancing.balancer import Balancer

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
