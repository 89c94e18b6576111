"""The arguments of :func:`coterie.grouping.select_groups`, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coterie._read import by_task, is_frame, read_array
from coterie.errors import SettingError
from coterie.grouping.cover.problem import Costs, CoverProblem, GroupScores, Limit, MatrixScores, ModelScores
from coterie.grouping.matrix import FloatArray, GainModelLike, as_square, read_problem

SINGLETONS = ("forbidden", "zero", "diagonal")
#: score of a task alone where that is forbidden, as in the published code
FORBIDDEN = -1e6


def read_cover(affinity: Any, budget: Any, singletons: Any, costs: Any, limit: Any) -> CoverProblem:
    """A checked problem.

    Raises:
        SettingError: an argument is out of range or does not fit the number of tasks.
    """
    tasks, scores = _read_scores(affinity, singletons)
    given = costs if isinstance(costs, Costs) else _short_costs(costs)
    model_cost = _number("costs", given.model, "the cost of a model")
    task_costs = _per_task("costs", given.tasks, tasks)
    if model_cost + task_costs.min() <= 0:
        raise SettingError(
            "Parameter `costs` should give every group a positive cost. Found a model and a task that cost nothing: "
            "the budget would not limit anything. Give the model a cost, Costs(model=1.0, tasks=...)."
        )
    if costs is None and (isinstance(budget, bool) or not isinstance(budget, int | np.integer)):
        raise SettingError(
            f"Parameter `budget` should be a whole number of models, at least 1. Found {budget!r}. A budget in other "
            "units needs `costs`."
        )
    allowed = limit if isinstance(limit, Limit) else _short_limit(limit)
    return CoverProblem(
        tasks=tasks,
        scores=scores,
        budget=_number(
            "budget", budget, "the largest total cost" if costs is not None else "the number of models", positive=True
        ),
        model_cost=model_cost,
        task_costs=task_costs,
        limit=np.inf if limit is None else _number("limit", allowed.total, "the largest sum in a group", positive=True),
        sizes=_per_task("limit", allowed.sizes, tasks),
    )


def _read_scores(affinity: Any, singletons: Any) -> tuple[tuple[str, ...], GroupScores]:
    """Task names and scores; a model that averages over pairs is read as its matrix."""
    if isinstance(affinity, GainModelLike):
        from coterie.affinity import PairwiseGainModel

        chosen = "zero" if singletons is None else singletons
        if isinstance(affinity, PairwiseGainModel):
            matrix = affinity.affinity.values
            return affinity.tasks, MatrixScores(matrix, _singles(chosen, affinity.tasks, matrix))
        tasks = tuple(str(name) for name in affinity.tasks)
        if len(tasks) < 2 or len(set(tasks)) != len(tasks):
            raise SettingError(
                f"Parameter `affinity` should have at least two tasks with different names. Found {tasks!r}."
            )
        return tasks, ModelScores(affinity, _singles(chosen, tasks, None))
    tasks = read_problem(affinity, "zero").tasks
    named = hasattr(affinity, "values") and hasattr(affinity, "tasks") and not is_frame(affinity)
    matrix = as_square(affinity.values if named else affinity)
    chosen = "forbidden" if singletons is None else singletons
    return tasks, MatrixScores(matrix, _singles(chosen, tasks, matrix))


def _singles(singletons: Any, tasks: Sequence[str], matrix: FloatArray | None) -> FloatArray:
    """(T,) score of each task alone."""
    n = len(tasks)
    if isinstance(singletons, str):
        if singletons not in SINGLETONS:
            raise SettingError(
                f"Parameter `singletons` should be one of {SINGLETONS}, a number, or a number for each task. Found "
                f"{singletons!r}."
            )
        if singletons == "zero":
            return np.zeros(n)
        largest = 0.0 if matrix is None else float(np.abs(matrix[~np.eye(n, dtype=bool)]).max())
        if singletons == "forbidden":  # far below every affinity, whatever their scale
            return np.full(n, FORBIDDEN * max(1.0, largest / 1000))
        if matrix is None:
            raise SettingError("Parameter `singletons` is 'diagonal', which needs a matrix. Found a gain model.")
        singletons = np.diag(matrix)
    values = _numbers("singletons", by_task(singletons, tasks, "singletons"))
    values = np.full(n, float(values)) if values.ndim == 0 else values
    if values.shape != (n,) or not np.isfinite(values).all():
        raise SettingError(
            f"Parameter `singletons` should give each of the {n} tasks one finite score. Found shape {values.shape}"
            + (" with NaN or infinite entries (a diagonal that was not measured?)." if values.shape == (n,) else ".")
        )
    return values


def _short_costs(costs: Any) -> Costs:
    """A number is the cost of each model, a sequence or a mapping what each task adds."""
    if costs is None:
        return Costs(model=1.0)
    return Costs(model=costs) if not isinstance(costs, Mapping) and np.ndim(costs) == 0 else Costs(tasks=costs)  # pyright: ignore[reportArgumentType, reportUnknownArgumentType]


def _short_limit(limit: Any) -> Limit:
    """A number is the largest number of tasks in a group."""
    return Limit(total=limit)


def _per_task(name: str, values: Any, tasks: Sequence[str]) -> FloatArray:
    """(T,) numbers from 0; a mapping and a Series by the names of the tasks."""
    n, array = len(tasks), _numbers(name, by_task(values, tasks, name))
    array = np.full(n, float(array)) if array.ndim == 0 else array
    if array.shape != (n,) or not np.isfinite(array).all() or (array < 0).any():
        raise SettingError(
            f"Parameter `{name}` should give each of the {n} tasks one finite number from 0. Found shape "
            f"{array.shape}" + (f", smallest entry {array.min():g}." if array.size else ".")
        )
    return array


def _number(name: str, value: Any, meaning: str, *, positive: bool = False) -> float:
    array = _numbers(name, value)
    if array.ndim or not np.isfinite(array) or array < 0 or (positive and array <= 0):
        raise SettingError(
            f"Parameter `{name}` should have a finite {'positive ' if positive else ''}number as {meaning}. "
            f"Found {value!r}."
        )
    return float(array)


def _numbers(name: str, value: Any) -> FloatArray:
    try:
        if isinstance(value, bool):
            raise SettingError("it is a truth value")
        return read_array(value, name, SettingError).astype(np.float64)
    except SettingError as error:
        raise SettingError(f"Parameter `{name}` should be numbers. Found {value!r} ({error}).") from error
