"""Metrics: what predictions are judged by beside the loss, by name or as functions of one's own.

A metric is a function of the labels and the predictions of one task. Where several are compared, what counts is the
*shortfall*: how far a value is from the best one that the metric can have, so that lower is better, ratios make sense,
and decisions on a metric use the same rules as decisions on losses.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from coterie._check import flag, is_number, named_choice
from coterie._process_lock import process_lock
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.evaluation.rates import NAMED
from coterie.workload import Task, Workload

Floats = NDArray[np.float64]
#: so far beyond its best value is rounding
_ROUNDING = 1e-6


@known_arguments
@dataclass(frozen=True)
class Metric:
    """A function of one's own that judges the predictions of a task.

    Args:
        function: ``function(y_true, y_score)`` as scikit-learn's metrics, with arrays of NumPy, or an object of
            torchmetrics. ``y_true`` are the labels in their own units; ``y_score`` what is served: the probability of
            label 1, the probabilities of the classes (examples, classes), or the prediction. Returns one number.
        name: for tables; None takes that of the function.
        higher: whether larger values are better.
        best: the value that nothing exceeds; None is 1 where higher is better, else 0. Gains are reductions of what is
            lacking to it.

    Raises:
        SettingError: when `function` cannot be called, or another argument is out of range.

    Cost: it is called a few hundred times a task, training and part of the data, for the intervals.

    Example:
        >>> from sklearn.metrics import mean_absolute_error
        >>> Metric(mean_absolute_error, higher=False).title
        'mean_absolute_error'
    """

    function: Callable[..., Any]
    name: str | None = None
    higher: bool = True
    best: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise SettingError(
                f"Parameter `function` of a metric should be callable. Found {self.function!r}. For example "
                "Metric(sklearn.metrics.matthews_corrcoef)."
            )
        if self.name is not None and not (isinstance(self.name, str) and self.name.strip()):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(
                f"Parameter `name` of a metric should be words for tables, or None. Found {self.name!r}."
            )
        flag(self.higher, "higher")
        if self.best is not None and not (is_number(self.best) and np.isfinite(self.best)):
            raise SettingError(f"Parameter `best` of a metric should be a finite number. Found {self.best!r}.")

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return self.name or _name(self.function)


@dataclass(frozen=True)
class Judge:
    """A metric as it is used: for which tasks, and how it is computed.

    Attributes:
        title: for tables.
        tasks: task number -> the metric that judges it; tasks that it cannot judge are left out.
        decides: whether gains and the choice are about it; it then needs a value for every task.
    """

    title: str
    tasks: Mapping[int, Metric | str]
    decides: bool = False

    def shortfall(self, task: int, values: Floats) -> Floats:
        """How far values of the metric of a task are from the best one; lower is better.

        Raises:
            SettingError: when a value is better than the best one.
        """
        metric = self.tasks[task]
        higher, best = _direction(metric)
        found = (best - values) if higher else (values - best)
        lowest = float(np.nanmin(found, initial=0.0))
        if lowest < -_ROUNDING:
            raise SettingError(
                f"The metric {self.title!r} has a value of {best - lowest if higher else best + lowest:g}, better than "
                f"its best one ({best:g}). Give Metric(..., higher=..., best=...) the direction and bound that it has."
            )
        return np.maximum(found, 0.0)

    def value(self, task: int, shortfall: Floats) -> Floats:
        """The inverse of :meth:`shortfall`."""
        higher, best = _direction(self.tasks[task])
        return best - shortfall if higher else shortfall + best


def _direction(metric: Metric | str) -> tuple[bool, float]:
    if isinstance(metric, str):
        return NAMED[metric].higher, NAMED[metric].best
    return metric.higher, float((1.0 if metric.higher else 0.0) if metric.best is None else metric.best)


def as_judges(metrics: Any, workload: Workload) -> tuple[Judge, ...]:
    """What users give as metrics: a name, a function, a :class:`Metric`, a mapping of tasks to these, or a list of any.

    Raises:
        SettingError: when one is unknown, judges no task here, or does not say its direction.
    """
    if metrics is None:
        return ()
    listed: list[Any] = list(cast("Sequence[Any]", metrics)) if isinstance(metrics, list | tuple) else [metrics]
    found = [_judge(metric, workload) for metric in listed]
    titles = [judge.title for judge in found]
    if len(set(titles)) < len(titles):
        twice = next(title for title in titles if titles.count(title) > 1)
        raise SettingError(
            f"Parameter `metrics` has {twice!r} twice. Give one of them another name: Metric(f, name=...)."
        )
    return tuple(found)


def _judge(metric: Any, workload: Workload) -> Judge:
    tasks = dict(enumerate(workload.tasks))
    if not isinstance(metric, Mapping):
        chosen = _metric(metric)
        fits = {number: chosen for number, task in tasks.items() if _suits(chosen, task)}
        if not fits:
            kinds = sorted({task.kind for task in workload.tasks})
            raise SettingError(
                f"Parameter `metrics`: {metric!r} judges none of the tasks, which are {', '.join(kinds)}. "
                f"It is for {NAMED[str(chosen)].kinds}."
            )
        return Judge(chosen if isinstance(chosen, str) else chosen.title, fits)
    by_task = {str(name): _metric(one) for name, one in cast("Mapping[Any, Any]", metric).items()}
    if sorted(by_task) != sorted(workload.task_names):
        raise SettingError(
            f"Parameter `metrics`: a mapping should name a metric for each task. Found {list(by_task)[:5]}; the tasks "
            f"are {list(workload.task_names)[:5]}."
        )
    chosen = {number: by_task[task.name] for number, task in tasks.items()}
    for number, one in chosen.items():
        if not _suits(one, tasks[number]):
            raise SettingError(
                f"Parameter `metrics`: {one!r} cannot judge the {tasks[number].kind} task {tasks[number].name!r}. It "
                f"is for {NAMED[str(one)].kinds}."
            )
    titles = list(dict.fromkeys(one if isinstance(one, str) else one.title for one in by_task.values()))
    return Judge(", ".join(titles), chosen)


def _metric(metric: Any) -> Metric | str:
    if isinstance(metric, str):
        named_choice(metric, "metrics", NAMED)
        return metric
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        name, higher = _name(metric), getattr(metric, "higher_is_better", None)
        if isinstance(higher, bool):
            return Metric(metric, higher=higher)
        if name.endswith(("_score", "_coefficient")):
            return Metric(metric)
        if name.endswith(("_error", "_loss", "_deviance")):
            return Metric(metric, higher=False)
        raise SettingError(
            f"Parameter `metrics`: whether larger values of {name} are better cannot be told. Write "
            "coterie.evaluation.Metric(function, higher=True, best=1.0)."
        )
    raise SettingError(
        f"Parameter `metrics` should be names ({', '.join(NAMED)}), functions of labels and predictions, or "
        f"coterie.evaluation.Metric objects. Found {metric!r} ({type(metric).__name__})."
    )


def _suits(metric: Metric | str, task: Task) -> bool:
    if not isinstance(metric, str):
        return True
    kinds = NAMED[metric].kinds
    return kinds == ("tasks with classes" if task.loss.discrete else "numbers")


def _name(function: Any) -> str:
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def measure(metric: Metric | str, labels: Floats, scores: Floats, weights: Floats, name: str = "") -> Floats:
    """Values of a metric, (draws,), one for each row of weights: how often each example counts.

    Args:
        metric: a name or a function.
        labels: (examples,) in their own units.
        scores: (examples,) or (examples, classes), as they are served.
        weights: (draws, examples) whole numbers, the first row all ones.
        name: of the task, for errors.

    Returns:
        NaN where a draw has no value, as AUROC with one class.

    Raises:
        SettingError: when a function fails or returns no number for all examples.
    """
    if isinstance(metric, str):
        with np.errstate(divide="ignore", invalid="ignore"):
            return NAMED[metric].function(labels, scores, weights)
    first = _called(metric, labels, scores, name)
    found = [first]
    for row in weights[1:]:
        chosen = np.repeat(np.arange(len(labels)), row.astype(np.int64))
        try:
            found.append(_called(metric, labels[chosen], scores[chosen], name))
        except SettingError:
            if not _lacks(labels[chosen], labels):
                raise
            found.append(np.nan)
    return np.array(found)


def _lacks(drawn: Floats, labels: Floats) -> bool:
    """Whether a draw lacks one of the classes, or has one value only: a metric may then have no value."""
    values = np.unique(drawn)
    return len(values) < 2 or (not (labels % 1).any() and len(values) < len(np.unique(labels)))


def _called(metric: Metric, labels: Floats, scores: Floats, name: str) -> float:
    of = f" of task {name!r}" if name else ""
    function: Any = metric.function
    try:
        with process_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if all(hasattr(function, name) for name in ("update", "compute", "reset")):
                function.reset()
                whole = not bool((labels % 1).any()) and scores.ndim == 1 and 0 <= scores.min() <= scores.max() <= 1
                y = torch.tensor(labels)
                function.update(torch.tensor(scores), y.long() if whole or scores.ndim == 2 else y)
                value = function.compute()
            else:
                value = function(labels, scores)
    except Exception as error:
        raise SettingError(
            f"The metric {metric.title!r} failed with {type(error).__name__}: {error}. It is called with "
            f"labels {labels.shape} and predictions {scores.shape}{of}: probabilities of classes. Wrap it, as in "
            "Metric(lambda y, p: f1_score(y, p > 0.5), name='f1')."
        ) from error
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if array.size != 1 or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise SettingError(
            f"The metric {metric.title!r} should return one number. Found shape {array.shape} of {array.dtype}{of}. "
            "A metric that is not averaged over classes or examples is a likely cause: take average='macro'."
        )
    return float(array.reshape(()))


def check_judges(judges: Sequence[Judge], workload: Workload, parts: Mapping[str, torch.Tensor]) -> None:
    """Compute metrics once on predictions of the initial model, so that a mistake shows before anything is trained.

    Args:
        judges: functions are called; a metric known by name only where it decides.
        workload: of the tasks.
        parts: name -> rows of the data that are looked at.

    Raises:
        SettingError: see :func:`measure`; or the metric that decides has no value for a task.
    """
    wanted = [(j, task, m) for j in judges for task, m in j.tasks.items() if isinstance(m, Metric) or j.decides]
    if not wanted:
        return
    from coterie.evaluation.labels import LabelIndex

    every, state = range(workload.n_tasks), workload.build_model(0).state_dict()
    for part, rows in parts.items():
        index = LabelIndex.of(workload, rows)
        scores = index.scores(workload, every, index.predictions(workload, state, every))
        for judge, task, metric in wanted:
            labels, own = index.labels(workload, task), scores[task]
            if isinstance(metric, str):  # initial predictions may all be equal, which says nothing about the labels
                own = np.random.default_rng(0).random(own.shape)
            once = np.ones((1, len(labels)))
            values = judge.shortfall(task, measure(metric, labels, own, once, workload.task_names[task]))
            check_value(judge, workload.task_names[task], part, values, labels)


def check_value(judge: Judge, task: str, part: str, values: Floats, labels: Floats) -> None:
    """Refuse a metric that decides and has no value on a part of the data, of which the first of `values` is told."""
    if not judge.decides or np.isfinite(values[0]):
        return
    distinct = np.unique(labels)
    why = f"all {len(labels)} labels there are {distinct[0]:g}" if len(distinct) == 1 else "the function returns NaN"
    raise SettingError(
        f"Parameter `decide_by`={judge.title!r} has no value for task {task!r} on {part} data: {why}. Give a metric "
        "that has one, a mapping of every task to a metric, or a split in which every part has all classes."
    )
