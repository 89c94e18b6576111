"""What a study knows: losses of subsets that need not have been trained, and the groups to serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coterie._lazy import named
from coterie.errors import SettingError
from coterie.study.results import Floats, Mask, ValuePredictor
from coterie.study.table import read_subsets

if TYPE_CHECKING:
    from coterie.study.study import Study


def predictor_of(value: Any) -> ValuePredictor:
    """A predictor by its name, the default one for None, or the one that was given."""
    if value is None or isinstance(value, str):
        find = named("coterie.study.predictors:find_predictor")
        return find() if value is None else find(value)
    if not callable(getattr(value, "fit", None)):
        raise SettingError(
            f"Parameter `predictor` should be a name or have a method `fit(results)`. Found {type(value).__name__}."
        )
    return value


def as_masks(study: Study, subsets: Any) -> Mask:
    """Subsets as truth values, (subsets, tasks).

    Args:
        study: of the tasks.
        subsets: a list of lists of names, or an array of truth values.

    Raises:
        SettingError: for another shape, an unknown task, an empty subset.
    """
    n = len(study.tasks)
    if isinstance(subsets, np.ndarray):
        if subsets.ndim != 2 or subsets.shape[1] != n or subsets.dtype != bool or not subsets.any(1).all():
            raise SettingError(
                f"Parameter `subsets` should be (subsets, {n}) truth values, each row with a task, or lists of names. "
                f"Found shape {subsets.shape}, {subsets.dtype}."
            )
        return subsets
    found = np.zeros((len(subsets), n), dtype=bool)
    for row, names in enumerate(subsets):
        found[row, list(study.settings.numbers(names, "subsets"))] = True
    return found


def predict(study: Study, masks: Mask, variants: Sequence[str], predictor: Any) -> tuple[Floats, Floats]:
    """Losses of subsets and their standard errors in the user's direction, NaN for tasks outside of a subset."""
    posterior = predictor_of(predictor).fit(_enough(study))
    shape = (len(masks), len(study.targets))
    values, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    kinds: NDArray[Any] = np.array([*variants], dtype=object)
    for variant in dict.fromkeys(variants):
        rows = kinds == variant
        values[rows], errors[rows] = posterior.predict(masks[rows], variant)
    if not study.settings.zero_shot:
        for column, task in enumerate(study.targets):
            if task in study.tasks:
                outside = ~masks[:, study.tasks.index(task)]
                values[outside, column] = errors[outside, column] = np.nan
    return values * study.settings.signs, errors


def predict_table(study: Study, table: Any, predictor: Any) -> tuple[Floats, Floats]:
    """The same for the subsets of a CSV file."""
    masks, variants = read_subsets(table, study.settings)
    return predict(study, masks, variants, predictor)


def _enough(study: Study) -> Any:
    """The results of a study that has some."""
    results = study.results()
    if not len(results.losses):
        raise SettingError(
            f"The study {study.name!r} has no run that was told. Ask for runs and tell them, or add a table of runs."
        )
    return results


def recommend(study: Study, models: int | None, costs: float | None, values: str, predictor: Any) -> Any:
    """Which groups to serve. See :meth:`coterie.study.Study.recommend`."""
    return named("coterie.study.recommend:recommend")(
        _enough(study),
        models=study.settings.models if models is None and costs is None else models,
        costs=costs,
        values=values,
        predictor=predictor_of(predictor) if values == "posterior" else None,
    )
