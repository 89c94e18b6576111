"""Predictors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie._check import named_choice
from coterie.study.predictors.runs import ProcessPredictor
from coterie.study.predictors.simple import (
    ConstantValues,
    KernelValues,
    LinearValues,
    PairAverages,
    SourceQuality,
    TreeValues,
)
from coterie.study.results import ValuePredictor

#: name -> how the predictor is made
PREDICTORS: dict[str, Callable[..., ValuePredictor]] = {
    "process": ProcessPredictor,
    "linear": LinearValues,
    "kernel": KernelValues,
    "trees": TreeValues,
    "pairs": PairAverages,
    "quality": SourceQuality,
    "constant": ConstantValues,
}


def find_predictor(name: str = "process", **options: Any) -> ValuePredictor:
    """Return the predictor of a name.

    Args:
        name: "process" (the default: a Gaussian process that learns from runs which targets are alike), "linear"
            (ridge regression on membership a target), "kernel" (kernel ridge a target), "trees" (extra trees),
            "pairs" (averages of pairs), "quality" (a source is worth as much to all targets) or "constant".
        options: of the predictor.

    Raises:
        SettingError: a name or an option that there is not.

    Example:
        >>> find_predictor("linear")
        LinearValues()
    """
    named_choice(name, "name", PREDICTORS)
    return PREDICTORS[name](**options)
