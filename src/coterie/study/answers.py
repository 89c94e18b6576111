"""What a study knows: losses of subsets that need not have been trained, and the groups to serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coterie._lazy import named
from coterie.errors import SettingError
from coterie.study.results import Floats, Mask, Results, ValuePredictor
from coterie.study.runs import told_runs
from coterie.study.table import read_subsets

if TYPE_CHECKING:
    from coterie.study.recommend import StudyRecommendation
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


def results_of(study: Study, part: str) -> Results:
    """The runs that were told, as arrays. See :meth:`coterie.study.study.Study.results`."""
    if part not in ("validation", "test"):
        raise SettingError(f"Parameter `part` should be 'validation' or 'test'. Found {part!r}.")
    told = [(run, run.losses if part == "validation" else run.test) for run in told_runs(study.runs)]
    rows = [(run, losses) for run, losses in told if losses]
    costs = [run.cost for run, _ in rows if run.cost is not None]
    usual = float(np.mean(costs)) if costs else 1.0  # of a run whose cost was not told
    position = {task: index for index, task in enumerate(study.targets)}
    values = np.full((len(rows), len(position)), np.nan)
    errors = np.zeros_like(values)
    for row, (_, losses) in enumerate(rows):
        for task, (value, error) in losses.items():
            values[row, position[task]], errors[row, position[task]] = value, error
    return Results(
        study.tasks,
        study.targets,
        np.array([[task in run.tasks for task in study.tasks] for run, _ in rows], dtype=bool).reshape(
            len(rows), len(study.tasks)
        ),
        values * study.settings.signs,
        errors if errors.any() else None,
        np.array([-1 if run.seed is None else run.seed for run, _ in rows], dtype=np.int64),
        tuple(run.variant for run, _ in rows),
        np.array([usual if run.cost is None else run.cost for run, _ in rows]),
    )


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


def recommend(
    study: Study, models: int | None, costs: float | None, values: Any, predictor: Any, confirmation: Any
) -> StudyRecommendation:
    """Which groups to serve. See :meth:`coterie.study.study.Study.recommend`."""
    from coterie.study.confirmation import Confirmation
    from coterie.study.recommend import recommend as decide

    aim = study.aim(models, costs)
    return decide(
        study.results(),
        models=aim.models,
        costs=aim.costs,
        values=values,
        predictor=None if predictor is None else predictor_of(predictor),
        matters=aim.matters,
        rules=aim.rules,
        confirmation=None if confirmation is None else Confirmation.from_dict(confirmation),
    )
