"""Predictors of mixtures by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie._check import named_choice
from coterie.errors import SettingError
from coterie.study.mixtures.average import MixtureProcess
from coterie.study.mixtures.results import MixturePredictor
from coterie.study.mixtures.simple import MixtureConstant, MixtureLaw, MixtureLinear, MixtureTrees

#: name -> how the predictor is made
MIXTURE_PREDICTORS: dict[str, Callable[..., MixturePredictor]] = {
    "process": MixtureProcess,
    "log-linear": MixtureLaw,
    "linear": MixtureLinear,
    "trees": MixtureTrees,
    "constant": MixtureConstant,
}


def find_mixture_predictor(name: Any = None, **options: Any) -> MixturePredictor:
    """Return the predictor of a name, the usual one for None, or the one that was given.

    Args:
        name: "process" (the usual one: two Gaussian processes and trees), "log-linear" (a law of mixing a target),
            "linear", "trees" or "constant"; or something with a method `fit(results)`.
        options: of the predictor.

    Raises:
        SettingError: a name or an option that there is not.

    Example:
        >>> find_mixture_predictor("log-linear")
        MixtureLaw()
    """
    if name is None or isinstance(name, str):
        chosen = "process" if name is None else name
        named_choice(chosen, "predictor", MIXTURE_PREDICTORS)
        return MIXTURE_PREDICTORS[chosen](**options)
    if not callable(getattr(name, "fit", None)):
        raise SettingError(
            f"Parameter `predictor` should be a name or have a method `fit(results)`. Found {type(name).__name__}."
        )
    return name
