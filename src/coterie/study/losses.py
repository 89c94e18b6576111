"""What a run reports: a number a task, one an example, several metrics, or a number with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from coterie._check import is_number, plain, positive
from coterie.errors import SettingError
from coterie.study.settings import StudySettings

#: a loss and the standard error of it that is known, 0 where none is
Loss = tuple[float, float]
#: what stands for a loss where a task was trained and not measured
TRAINED = "trained"


def read_report(given: Any, settings: StudySettings, tasks: Sequence[str], parameter: str) -> dict[str, Any]:
    """Losses and further metrics of a run, JSON-ready: ``{"losses": {task: [loss, error]}, "metrics": {...}}``.

    Args:
        given: a mapping of tasks to losses, or an array with a row a task of the run. A loss is a number, a list or
            array of one number an example (NaN where there is no label), a tuple (mean, standard error), a mapping of
            metrics to one of these, or None or ``"trained"`` where the task was not measured.
        settings: of the study.
        tasks: names of the tasks that the run trained on.
        parameter: for messages.

    Raises:
        SettingError: for anything else: a task that is not in the study or was not in the run, a loss that is not
            finite, no loss at all.
    """
    losses: dict[str, list[float]] = {}
    metrics: dict[str, dict[str, float]] = {}
    for task, value in _by_task(given, tasks, parameter).items():
        settings.check_name(task, (*settings.measured, *settings.tasks), parameter)
        if value is None or (isinstance(value, str) and value == TRAINED):
            continue
        _check_part(task, settings, tasks, parameter)
        several = _metrics_of(value, task, settings, parameter)
        found = {name: _loss(one, task, parameter) for name, one in several.items()}
        losses[task] = list(found[settings.metric if len(found) > 1 or settings.metric in found else next(iter(found))])
        if len(found) > 1:
            metrics[task] = {name: loss[0] for name, loss in found.items()}
    if not losses:
        raise SettingError(
            f"Parameter `{parameter}` should hold the loss of at least one task of {list(settings.measured)!r:.80}. "
            f"Found {given!r:.80}. A run that brought none is told with failed='why'."
        )
    return {"losses": losses, **({"metrics": metrics} if metrics else {})}


def _by_task(given: Any, tasks: Sequence[str], parameter: str) -> dict[str, Any]:
    """The report as a dictionary."""
    if hasattr(given, "to_dict") and not isinstance(given, Mapping):  # a Series of pandas
        given = given.to_dict()
    if isinstance(given, Mapping):
        return {str(task): value for task, value in cast("Mapping[Any, Any]", given).items()}
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    if isinstance(given, np.ndarray | list | tuple) and len(cast("Sequence[Any]", given)) == len(tasks):
        return dict(zip(tasks, cast("Sequence[Any]", given), strict=True))
    raise SettingError(
        f"Parameter `{parameter}` should map names of tasks to losses, or hold one row for each of the {len(tasks)} "
        f"tasks of the run, in their order. Found {type(given).__name__} {given!r:.60}."
    )


def _check_part(task: str, settings: StudySettings, tasks: Sequence[str], parameter: str) -> None:
    """Refuse losses of tasks that are not measured, or that the run did not train on without it being meant."""
    if task not in settings.measured:
        raise SettingError(
            f"Parameter `{parameter}`: task {task!r} is trained on and not measured in this study. Its targets are "
            f"{list(settings.measured)!r:.80}."
        )
    if task in settings.tasks and task not in tasks and not settings.zero_shot:
        raise SettingError(
            f"Parameter `{parameter}` has a loss of task {task!r}, which was not in the run on {list(tasks)!r:.80}. "
            "The result of another run is the likely cause. Where tasks are measured that were not trained, make the "
            "study with zero_shot=True (--zero-shot)."
        )


def _metrics_of(value: Any, task: str, settings: StudySettings, parameter: str) -> Mapping[str, Any]:
    """Metric -> loss; the one that decides is among several."""
    if not isinstance(value, Mapping):
        return {settings.metric: value}
    if settings.metric not in value:
        named = f"metric={settings.metric!r} decides" if settings.metric else "no metric was named to decide"
        raise SettingError(
            f"Parameter `{parameter}`: task {task!r} has the metrics {sorted(map(str, value))}, but {named} in this "
            "study. Report that one, or make the study with the metric that decides: create_study(..., metric=...)."
        )
    return {str(name): one for name, one in value.items()}


def _loss(given: Any, task: str, parameter: str) -> Loss:
    """A loss and its standard error."""
    value: Any = given.detach().cpu().numpy() if hasattr(given, "detach") else plain(given)
    error = 0.0
    if isinstance(value, tuple) and len(value) == 2:
        value, error = map(plain, cast("tuple[Any, Any]", value))
    elif isinstance(value, np.ndarray | list):
        value = _mean(cast("Any", value))
    good = is_number(value) and is_number(error) and math.isfinite(value) and math.isfinite(error) and error >= 0
    if not good:
        raise SettingError(
            f"Parameter `{parameter}`: the loss of task {task!r} should be a finite number, a list of one number an "
            f"example, or a tuple (mean, standard error). Found {value!r:.60}"
            + (f" with the error {error!r:.40}. " if error else ". ")
            + "A training that diverged is a likely cause: tell that run with failed='diverged'. A task that was "
            "trained and not measured is left out."
        )
    return float(cast("Any", value)), float(cast("Any", error))


def _mean(value: Any) -> Any:
    """Mean over examples with a label; what cannot be averaged stays as it is."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return value
    good = array.ndim < 2 and np.isfinite(array).any() and not np.isinf(array).any()
    return float(np.nanmean(array)) if good else value


def _split(losses: Any, test: Any, cost: Any) -> tuple[Any, Any, Any]:
    """Losses, losses on test data and cost, which may come in one object: an Outcome, or what a command writes."""
    if isinstance(losses, Mapping):
        whole: dict[str, Any] = dict(cast("Mapping[str, Any]", losses))
        if isinstance(whole.get("validation"), Mapping):
            return whole["validation"], _first(test, whole.get("test")), _first(cost, whole.get("cost"))
    elif hasattr(losses, "validation"):
        return losses.validation, _first(test, losses.test), _first(cost, losses.cost)
    return losses, test, cost


def _first(given: Any, other: Any) -> Any:
    """What was given, else the other; arrays have no truth value, and a cost of 0 is to be refused."""
    return other if given is None else given


def full_report(settings: StudySettings, given: tuple[Any, Any, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """What a run brought, JSON-ready: losses, and where they are there metrics, losses on test data, and the cost.

    Args:
        settings: of the study.
        given: losses, losses on test data, cost.
        tasks: names of the tasks that the run trained on.

    Raises:
        SettingError: see :func:`read_report`; also for a cost that is not positive.
    """
    losses, test, cost = _split(*given)
    if losses is None:
        raise SettingError("Parameter `losses` is missing. Give {task: loss}, or failed='why'.")
    report = read_report(losses, settings, tasks, "losses")
    if test is not None:
        report["test"] = read_report(test, settings, tasks, "test")["losses"]
    if cost is not None:
        report["cost"] = positive(cost, "cost")
    return report
