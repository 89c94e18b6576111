"""Choose the models to train when only so many can be served."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coterie._check import choice
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._progress import Progress
from coterie._read import by_task, is_frame, read_array
from coterie._surface import known_arguments, warn
from coterie.errors import DataWarning, SettingError
from coterie.grouping.cover.bound import upper_bound
from coterie.grouping.cover.exact import EXACT, best_costed_cover, best_cover
from coterie.grouping.cover.large import search_cover
from coterie.grouping.cover.problem import Costs, CoverProblem, GroupScores, Limit, MatrixScores, ModelScores
from coterie.grouping.grouping import Grouping
from coterie.grouping.matrix import BoolArray, FloatArray, GainModelLike, as_square, read_problem

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


SOLVERS = ("auto", "exact", "search")
#: share of the time limit that the bound may take
_FOR_BOUND = 0.4


@keywords_into(context=Context)
@known_arguments
def select_groups(
    affinity: Any,
    budget: float,
    *,
    singletons: Any = None,
    costs: Any = None,
    limit: Any = None,
    solver: str = "auto",
    time_limit: float | None = None,
    context: Context = DEFAULT_CONTEXT,
) -> Grouping:
    """Choose groups within a budget that cover all tasks; groups may overlap and each task is served by its best one.

    Maximises the mean over tasks of the best score that a chosen group gives the task. With a matrix the score of a
    task in a group is the mean over its partners of the affinity with them; with a gain model it is the predicted gain.
    A task may be trained in a group to help others and be served by another group.

    Args:
        affinity: an :class:`~coterie.affinity.Affinity`, a (T, T) array or data frame (rows targets, columns sources,
            larger is better; not symmetrised), or a :class:`~coterie.affinity.GainModel`.
        budget: largest number of groups; with `costs`, largest total cost.
        singletons: score of a task in a group of its own. ``"forbidden"``: -1e6 as in TAG, so that it is only chosen
            when nothing else covers (default for a matrix); ``"zero"``: 0, the gain of training alone (default for a
            gain model); ``"diagonal"``: the matrix's own diagonal, for higher-order approximation with true values
            of single-task models; a number, or a number for each task.
        costs: a number: the cost of each group; a number for each task (in their order, or a mapping or pandas Series
            with their names): a group costs the sum of its tasks;
            :class:`~coterie.grouping.Costs` for both. None: each group costs 1.
        limit: a number: the most tasks in a group; :class:`~coterie.grouping.Limit` for sizes of tasks that must
            not add up to more than a total, such as memory or latency.
        solver: ``"exact"`` (up to 14 tasks), ``"search"``, or ``"auto"``: exact where it can be.
        time_limit: seconds for the search and its bound, or for the integer program behind different costs. Results
            of a search that is cut off depend on the speed of the machine.
        context: seed of the search, and progress.

    Returns:
        Groups, ordered by their first task, that serve at least one task each. `objective` is the mean over tasks;
        `bound` a certified upper bound on the objective of every selection within the budget: equal to the objective
        where the result is proven optimal; None for a gain model with more than 16 tasks. `details` has the solver,
        the cost and the gap.

    Warns:
        DataWarning: `singletons` was left out, the diagonal of the matrix is 0, and a task is served with less.

    Raises:
        SettingError: an argument out of range; no groups within budget and limit cover all tasks; too many tasks for
            ``solver="exact"``.

    Cost:
        Equal costs: 1 ms at 9 tasks, 20 ms at 12, 0.4 s at 14. Different costs: 0.03 s at 9, 0.2 s at 12, some
        seconds where the integer program is hard. More tasks: 2 to 5 s at 73, 10 to 50 s at 200.

    Source:
        TAG (arXiv 2109.04617), network selection; Standley et al. 2020 (arXiv 1905.07553) for costs and higher-order
        approximation. The exact method and the bound are made here.

    Example:
        >>> a = np.array([[0, 3.0, 1.0], [2.0, 0, 0.5], [4.0, 1.0, 0]])
        >>> found = select_groups(a, budget=2)
        >>> found.groups, found.serves, found.objective == found.bound
        (((0, 1), (0, 2)), (0, 0, 1), True)
    """
    choice(solver, "solver", SOLVERS)
    if time_limit is not None and not time_limit > 0:
        raise SettingError(f"Parameter `time_limit` should be a positive number of seconds. Found {time_limit!r}.")
    problem = read_cover(affinity, budget, singletons, costs, limit)
    exact = problem.n <= EXACT if solver == "auto" else solver == "exact"
    if exact and problem.n > EXACT:
        raise SettingError(
            f"Parameter `solver` is 'exact', which takes at most {EXACT} tasks. Found {problem.n}. Use "
            "solver='search': it reports how far it is from the best at most."
        )
    if exact:
        groups, bound = _exact(problem, time_limit, context.progress)
    else:
        groups, bound = _search(problem, context, time_limit)
    found = _grouping(problem, groups, bound, "exact" if exact else "search")
    if singletons is None and not isinstance(affinity, GainModelLike):
        _say_who_is_harmed(problem, found, affinity)
    return found


def _say_who_is_harmed(problem: CoverProblem, found: Grouping, affinity: Any) -> None:
    """With zeros on the diagonal, the gains of tasks alone, a score below 0 is worse than being left alone."""
    served = problem.scores.scores(found.subsets)[list(found.serves), np.arange(problem.n)]
    if not (served < 0).any():
        return
    named = hasattr(affinity, "values") and hasattr(affinity, "tasks")
    source = affinity.values if named and not is_frame(affinity) else affinity
    if np.diag(as_square(source)).any():
        return
    names = [problem.tasks[int(task)] for task in np.flatnonzero(served < 0)[:5]]
    warn(
        f"{int((served < 0).sum())} tasks are served by a group with a score below 0, which is what the diagonal says "
        f"of a task alone: {', '.join(names)}. By default no task stays alone, as in TAG; singletons='zero' (or "
        "'diagonal') lets them.",
        DataWarning,
    )


def _exact(problem: CoverProblem, time_limit: float | None, progress: Progress) -> tuple[BoolArray, float]:
    """Groups and the bound on the sum over tasks."""
    if problem.uniform:
        groups = best_cover(problem, progress)
        return groups, float(problem.scores.scores(groups).max(axis=0).sum())
    found = best_costed_cover(problem, progress, time_limit)
    return found.groups, found.bound


def _search(problem: CoverProblem, context: Context, time_limit: float | None) -> tuple[BoolArray, float | None]:
    """The same, by search; the bound is None for a gain model of many tasks."""
    start = time.monotonic()
    share = None if time_limit is None else (1 - _FOR_BOUND) * time_limit
    groups = search_cover(problem, seed=context.seed, time_limit=share, progress=context.progress)
    left = None if time_limit is None else max(0.0, time_limit - (time.monotonic() - start))
    return groups, upper_bound(problem, groups, time_limit=left, progress=context.progress)


def _grouping(problem: CoverProblem, groups: BoolArray, bound: float | None, solver: str) -> Grouping:
    """The result, without groups that serve nobody."""
    groups = groups[np.lexsort((~groups).T[::-1])]
    serves = problem.scores.scores(groups).argmax(axis=0)
    groups = groups[np.unique(serves)]
    values = problem.scores.scores(groups)
    objective = float(values.max(axis=0).mean())
    top = None if bound is None else max(objective, bound / problem.n)
    if top is not None:
        # of the affinities, not of a score alone, which may be a million below
        pairs = np.abs(problem.scores.pairs()[~np.eye(problem.n, dtype=bool)])
        top = objective if top - objective <= 1e-12 * float(pairs.max()) else top
    details: dict[str, float | str] = {
        "solver": solver,
        "budget": problem.budget,
        "cost": float(problem.costs(groups).sum()),
    }
    if top is not None:
        details["gap"] = top - objective
    return Grouping(
        tasks=problem.tasks,
        groups=tuple(tuple(int(task) for task in np.flatnonzero(group)) for group in groups),
        serves=tuple(int(index) for index in values.argmax(axis=0)),
        objective=objective,
        bound=top,
        method="budget",
        details=details,
    )
