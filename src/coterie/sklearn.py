"""Scikit-learn estimators whose tasks are grouped: fit, predict, and which tasks share a model.

They take a table of labels with one column a task, NaN where a label is missing, find out which tasks to train together
(:func:`coterie.run`), and keep one model for each group. The models are networks of the library, or copies of any
scikit-learn estimator that takes several outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from coterie._check import whole_number
from coterie.errors import SettingError, WorkloadError
from coterie.grouping import Grouping
from coterie.training import FunctionTrainer, Outcome
from coterie.workload import Recipe, Task
from coterie.workload.arrays import paired

__all__ = ["GroupedTasksClassifier", "GroupedTasksRegressor"]

Floats = NDArray[np.float64]

#: rows below which nothing is compared: a fifth of them would judge, and ten examples tell no groups apart
LEAST_ROWS = 50
#: shares of the rows for training, for the choice of groups, and for the last judgement: those of workloads
FRACTIONS = (0.6, 0.2, 0.2)
#: what a probability is at least, where a class was not seen in training: log losses stay finite
_FLOOR = 1e-6


class _GroupedTasks(BaseEstimator):
    """What both estimators do; `y` has one column a task."""

    def __init__(
        self,
        estimator: Any = None,
        *,
        budget: int | None = None,
        groups: int | None = None,
        seeds: int = 3,
        method: str | None = None,
        recipe: Recipe | None = None,
        hidden: Sequence[int] = (64, 32),
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.budget = budget
        self.groups = groups
        self.seeds = seeds
        self.method = method
        self.recipe = recipe
        self.hidden = hidden
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.required = True
        tags.non_deterministic = self.random_state is None
        return tags

    def _fit(self, x: Any, y: Any) -> Any:
        """Find groups and fit a model for each."""
        if y is None:
            raise WorkloadError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        x, y = paired(x, y)
        x = validate_data(self, x, dtype=np.float64)
        self._check_settings()
        columns = [str(name) for name in getattr(y, "columns", [])]
        if len(set(columns)) < len(columns):
            raise WorkloadError(f"y has two columns of one name: {columns}. Rename one.")
        y = y.astype(object) if hasattr(y, "columns") or hasattr(y, "array") else y  # missing values of pandas stay
        read: Any = check_array  # its types know fewer values than it takes
        table = read(y, ensure_2d=False, dtype=None, ensure_all_finite="allow-nan", estimator=self, input_name="y")
        self._flat = table.ndim == 1
        table = table.reshape(len(table), -1)
        if len(table) != len(x):
            raise WorkloadError(f"X has {len(x)} rows and y has {len(table)}. Rows belong together by position.")
        names = columns or [f"task {n}" for n in range(table.shape[1])]
        labels, tasks = self._read(table, names)
        self.task_names_ = names
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        few = len(x) < LEAST_ROWS or len(tasks) < 2
        self._inner = self._small_network() if self.estimator is None and few else self.estimator
        if few:
            self.result_, self.recommendation_ = None, ""
            # one model for all where the estimator takes several outputs, as it would without groups
            self.grouping_ = Grouping.from_labels(
                names, [0] * len(names) if self.estimator is not None else range(len(names))
            )
        else:
            self.result_ = self._compared(x, labels, tasks)
            self.grouping_, self.recommendation_ = self.result_.served, self.result_.recommendation.text
        if self._inner is not None:
            groups = self.grouping_.groups
            self.estimators_ = [self._copy(x, labels, list(group), self._seed % 2**16) for group in groups]
        return self

    def _read(self, table: NDArray[Any], names: list[str]) -> tuple[Floats, list[Task]]:
        """Labels as numbers, NaN where missing, and the tasks."""
        raise NotImplementedError

    def _losses(self, model: Any, x: Floats, labels: Floats, columns: Sequence[int]) -> Floats:
        """(rows, columns) losses of a fitted copy, NaN without a label; lower is better."""
        raise NotImplementedError

    def _check_settings(self) -> None:
        """Refuse what `fit` would trip over late.

        Raises:
            SettingError: naming the parameter.
        """
        own: Any = self.estimator
        if isinstance(own, type) or (own is not None and not hasattr(own, "get_params")):
            raise SettingError(
                f"Parameter `estimator` should be an estimator of scikit-learn, such as Ridge(). Found {own!r}."
            )
        for name in ("seeds", "budget", "groups"):
            value = getattr(self, name)
            if value is not None:
                whole_number(value, name, low=1)
        widths: Any = self.hidden
        if not isinstance(widths, Sequence) or isinstance(widths, str):
            raise SettingError(f"Parameter `hidden` should be widths, such as (64, 32). Found {widths!r}.")

    def _small_network(self) -> Any:
        """What stands in for a network of the library where there is nothing to compare, a model a task."""
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        kind = MLPClassifier if isinstance(self, ClassifierMixin) else MLPRegressor
        network = kind(
            hidden_layer_sizes=tuple(self.hidden), solver="lbfgs", max_iter=200, random_state=self._seed % 2**16
        )
        return make_pipeline(StandardScaler(), network)

    def _compared(self, x: Floats, labels: Floats, tasks: list[Task]) -> Any:
        """The run that finds and compares groups: of networks, or of copies of the estimator."""
        from coterie.pipeline import run
        from coterie.workload import from_arrays

        seed = self._seed % 2**16
        if self.estimator is None:
            source: Any = from_arrays(
                x, labels, tasks=tasks, recipe=self.recipe, hidden=tuple(self.hidden), split=FRACTIONS, seed=seed
            )
        else:
            source = self._trainer(x, labels)
        options: Any = {} if self.method is None else {"method": self.method}
        found = run(source, budget=self.budget, groups=self.groups, seeds=self.seeds, seed=seed, **options)
        self._files = {name: data for name, data in found.files.items() if name.startswith("serve")}
        self._predictor = None
        return found

    def _trainer(self, x: Floats, labels: Floats) -> FunctionTrainer:
        """Fits copies to some tasks on one part of the rows and judges them on two others."""
        names = self.task_names_
        parts = np.random.default_rng(self._seed).permutation(len(x))
        ends = np.cumsum([round(share * len(x)) for share in FRACTIONS[:2]])
        training, validation, test = np.split(parts, ends)

        self._complete(labels[training], range(len(names)))  # one model for all tasks is always a candidate

        def train(chosen: tuple[str, ...], seed: int) -> Outcome:
            columns = [names.index(name) for name in chosen]
            model = self._copy(x[training], labels[training], columns, seed)
            judged = [self._losses(model, x[rows], labels[rows], columns) for rows in (validation, test)]
            kept = [{name: losses[:, n] for n, name in enumerate(chosen)} for losses in judged]
            return Outcome(kept[0], kept[1])

        # a run of `fit` is kept nowhere: no number of it can come back for other rows
        return FunctionTrainer(train, names, version="fit")

    def _copy(self, x: Floats, labels: Floats, columns: Sequence[int], seed: int) -> Any:
        """A copy of the estimator, fitted to some tasks on the rows where all of them have labels."""
        rows = self._complete(labels, columns)
        model: Any = clone(self._inner)
        own = model.get_params()  # steps of pipelines have theirs
        model.set_params(**{name: seed for name in own if name == "random_state" or name.endswith("__random_state")})
        target = labels[rows][:, columns]
        return model.fit(x[rows], target[:, 0] if len(columns) == 1 else target)

    def _complete(self, labels: Floats, columns: Sequence[int]) -> NDArray[np.bool_]:
        """Rows in which all of some tasks have labels."""
        rows = np.asarray(~np.isnan(labels[:, list(columns)]).any(1))
        if not rows.any():
            some = ", ".join(self.task_names_[column] for column in columns)
            raise WorkloadError(
                f"No row of y has a label for each of {some}, and copies of an estimator are fitted to complete rows. "
                "Leave `estimator` at None: the library's own networks train on whatever labels a row has."
            )
        return rows

    def _answers(self, x: Any, method: str = "predict") -> list[Any]:
        """What the model that serves each task answers."""
        check_is_fitted(self, "grouping_")
        x = validate_data(self, x, dtype=np.float64, reset=False)
        if self._inner is None:
            found = self._served().predict(x)
            return [found[name] for name in self.task_names_]
        answers: list[Any] = [None] * len(self.task_names_)
        for number, group in enumerate(self.grouping_.groups):
            found = getattr(self.estimators_[number], method)(x)
            for place, task in enumerate(group):
                if self.grouping_.serves[task] == number:
                    answers[task] = _column(found, place, len(group))
        return answers

    def _truth(self, y: Any) -> NDArray[Any]:
        """(rows, tasks) labels to judge by, columns found by name where there are names; NaN where missing."""
        named = hasattr(y, "columns") and {str(name) for name in y.columns} == {*self.task_names_}
        table = np.asarray(y.astype(object) if hasattr(y, "columns") else y)
        table = table.reshape(len(table), -1)
        if named:
            table = table[:, [[str(name) for name in y.columns].index(name) for name in self.task_names_]]
        if table.shape[1] != len(self.task_names_):
            raise WorkloadError(f"y has {table.shape[1]} columns. It should have one for each of {self.task_names_}.")
        missing = np.stack([_missing(column) for column in table.T], 1)
        return np.where(missing, np.nan, table) if missing.any() else table

    def _served(self) -> Any:
        """The networks, built from what is kept of them when they are first asked."""
        from coterie.serving import load

        if getattr(self, "_predictor", None) is None:
            self._predictor = load(SimpleNamespace(path=None, files=self._files, workload=None))
        return self._predictor

    def __getstate__(self) -> dict[str, Any]:
        kept: Any = super().__getstate__()
        state: dict[str, Any] = dict(kept)
        # a predictor holds functions, which cannot be pickled; it is made again from the files
        if "_predictor" in state:
            state["_predictor"] = None
        if state.get("result_") is not None:
            state["result_"] = None
        return state


def _column(found: Any, place: int, tasks: int) -> Any:
    """The answer for one of the tasks of a group, as (rows,) or (rows, classes)."""
    if isinstance(found, list):
        return found[place]
    if tasks == 1:
        return found.reshape(len(found), -1)[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    return found[:, place]


class GroupedTasksClassifier(ClassifierMixin, _GroupedTasks):
    """Classifiers for many tasks, of which those that help each other share a model.

    A fifth of the rows chooses groups and another fifth judges them. Networks that serve are those of the comparison;
    copies of an estimator are fitted again to all rows.

    Args:
        estimator: a scikit-learn classifier that takes several outputs (forests, trees, nearest neighbours,
            ``MLPClassifier`` for binary tasks, a pipeline of these), of which each group gets a copy; a group is fitted
            to the rows in which all of its tasks have labels. None for networks of the library, which use all labels.
        budget: largest number of models; None for no limit.
        groups: number of groups; None tries several.
        seeds: trainings of every candidate model in the comparison.
        method: estimator of affinities; None for the default of :func:`coterie.run`.
        recipe: how networks are trained; None takes the default.
        hidden: widths of their hidden layers.
        random_state: seed of everything random; a number for the same result each time.

    Attributes:
        grouping_: the groups, and which of them serves each task.
        recommendation_: whether more than one model is worth it, in a line; empty where nothing was compared: for a
            single task, and below 50 rows. Then a copy of `estimator` serves all tasks, or, without one, an
            ``sklearn.neural_network`` model serves each.
        result_: the result of :func:`coterie.run`; None where nothing was compared, and after unpickling.
        classes_: classes of each task, or of the single one.
        task_names_: columns of `y`, or ``task 0`` and so on.

    Raises:
        WorkloadError: a ValueError, for data that cannot be used.

    Cost: that of :func:`coterie.run`: ``seeds`` trainings of each candidate group, and the estimate of affinities.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> x, y = load_digits(return_X_y=True)
        >>> labels = np.stack([y % 2, y > 4, y == 3], axis=1)
        >>> model = GroupedTasksClassifier(groups=2, seeds=2, recipe=Recipe(epochs=2), random_state=0)
        >>> model.fit(x[:400], labels[:400]).predict(x[400:]).shape
        (1397, 3)
    """

    def fit(self, X: Any, y: Any) -> GroupedTasksClassifier:
        """Find the groups and fit their models.

        Args:
            X: (rows, features), finite.
            y: (rows, tasks) labels of any kind, NaN (or None) where one is missing; or (rows,) for one task.
        """
        return self._fit(X, y)

    def predict(self, X: Any) -> NDArray[Any]:
        """(rows, tasks) most probable classes; (rows,) where `y` was one column without a second dimension."""
        check_is_fitted(self, "grouping_")
        if self._inner is None:
            found = [self._classes[n][np.argmax(p, axis=1)] for n, p in enumerate(self._probabilities(X))]
        else:
            codes = self._answers(X)
            found = [self._classes[n][np.asarray(code).astype(int)] for n, code in enumerate(codes)]
        return found[0] if self._flat else np.stack(found, 1)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (rows, classes), one array a task; a single array where `y` was a single column."""
        found = self._probabilities(X)
        return found[0] if self._flat else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy, mean over the tasks; rows without a label of a task do not count for it. Higher is better."""
        answers, truth = self.predict(X), self._truth(y)
        answers = answers.reshape(len(answers), -1)
        weights = np.ones(len(truth)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        shares = []
        for column in range(truth.shape[1]):
            rows = ~_missing(truth[:, column])
            if rows.any():
                shares.append(np.average(answers[rows, column] == truth[rows, column], weights=weights[rows]))
        return float(np.mean(shares))

    def _read(self, table: NDArray[Any], names: list[str]) -> tuple[Floats, list[Task]]:
        from sklearn.utils.multiclass import check_classification_targets

        labels = np.full(table.shape, np.nan)
        self._classes: list[NDArray[Any]] = []
        tasks: list[Task] = []
        for column, name in enumerate(names):
            values = table[:, column]
            rows = ~_missing(values)
            known = values[rows]
            if known.dtype == object and known.size and not isinstance(known[0], str):
                known = np.array(known.tolist())
            check_classification_targets(known)
            classes, codes = np.unique(known, return_inverse=True)
            if len(classes) < 2:
                raise WorkloadError(
                    f"Classifier can't train when only one class is present: {name!r} has {len(classes)} class in y. "
                    "Leave this task out, or give rows of another class."
                )
            labels[rows, column] = codes
            self._classes.append(classes)
            kind = "binary" if len(classes) == 2 else "multiclass"
            tasks.append(Task(name, kind, classes=None if kind == "binary" else len(classes)))
        self.classes_ = self._classes[0] if self._flat else self._classes
        return labels, tasks

    def _losses(self, model: Any, x: Floats, labels: Floats, columns: Sequence[int]) -> Floats:
        """Log losses where the model gives probabilities, errors elsewhere."""
        result = np.full((len(x), len(columns)), np.nan)
        probable = hasattr(model, "predict_proba")
        found = model.predict_proba(x) if probable else model.predict(x)
        for place, column in enumerate(columns):
            known = np.flatnonzero(~np.isnan(labels[:, column]))
            truth, answer = labels[known, column].astype(int), _column(found, place, len(columns))[known]
            if probable:
                full = self._spread(model, answer, place, column, len(columns))
                result[known, place] = -np.log(full[np.arange(len(known)), truth])
            else:
                result[known, place] = answer.astype(int) != truth
        return result

    def _spread(self, model: Any, answer: Any, place: int, column: int, tasks: int) -> Floats:
        """(rows, classes) probabilities of all classes of a task, of which a model may have seen some only."""
        answer = np.asarray(answer, dtype=np.float64)
        classes = len(self._classes[column])
        full = np.full((len(answer), classes), _FLOOR)
        if answer.ndim == 1:  # of binary tasks some estimators give the probability of the second class only
            full[:, 0], full[:, 1] = 1 - answer, answer
        else:
            seen = model.classes_[place] if tasks > 1 and isinstance(model.classes_, list) else model.classes_
            full[:, np.asarray(seen).astype(int)] = answer
        full = np.maximum(full, _FLOOR)
        return full / full.sum(1, keepdims=True)

    def _probabilities(self, x: Any) -> list[Floats]:
        check_is_fitted(self, "grouping_")
        if self._inner is not None:
            answers, found = self._answers(x, "predict_proba"), list[Floats]()
            for task, answer in enumerate(answers):
                number = self.grouping_.serves[task]
                group = self.grouping_.groups[number]
                found.append(self._spread(self.estimators_[number], answer, group.index(task), task, len(group)))
            return found
        return [np.stack([1 - p, p], 1) if p.ndim == 1 else p for p in self._answers(x)]


class GroupedTasksRegressor(RegressorMixin, _GroupedTasks):
    """Regressors for many tasks, of which those that help each other share a model.

    Arguments and attributes are those of :class:`GroupedTasksClassifier`, but for `classes_`; `estimator` is a
    scikit-learn regressor that takes several outputs.

    Example:
        >>> from sklearn.linear_model import Ridge
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(300, 5))
        >>> y = x @ rng.normal(size=(5, 4)) + rng.normal(size=(300, 4))
        >>> model = GroupedTasksRegressor(Ridge(), seeds=2, random_state=0).fit(x[:200], y[:200])
        >>> model.predict(x[200:]).shape, sum(len(group) for group in model.grouping_.groups)
        ((100, 4), 4)
    """

    def fit(self, X: Any, y: Any) -> GroupedTasksRegressor:
        """Find the groups and fit their models; `y` is (rows, tasks) numbers, NaN where missing, or (rows,)."""
        return self._fit(X, y)

    def predict(self, X: Any) -> Floats:
        """(rows, tasks) predictions in the units of `y`; (rows,) where it had one dimension."""
        found = np.stack([np.asarray(answer, dtype=np.float64).reshape(-1) for answer in self._answers(X)], 1)
        return found[:, 0] if self._flat else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2, mean over the tasks; rows without a label of a task do not count for it. Higher is better."""
        from sklearn.metrics import r2_score

        answers, truth = self.predict(X), self._truth(y).astype(np.float64)
        answers = answers.reshape(len(answers), -1)
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=float)
        scores = []
        for column in range(truth.shape[1]):
            rows = ~np.isnan(truth[:, column])
            if rows.any():
                scores.append(
                    r2_score(
                        truth[rows, column], answers[rows, column],
                        sample_weight=None if weights is None else weights[rows],
                    )
                )  # fmt: skip
        return float(np.mean(scores))

    def _read(self, table: NDArray[Any], names: list[str]) -> tuple[Floats, list[Task]]:
        missing = np.stack([_missing(column) for column in table.T], 1)
        labels = np.where(missing, np.nan, table).astype(np.float64)
        return labels, [Task(name, "regression") for name in names]

    def _losses(self, model: Any, x: Floats, labels: Floats, columns: Sequence[int]) -> Floats:
        """Squared errors in units of the variance of the labels."""
        found = np.asarray(model.predict(x), dtype=np.float64).reshape(len(x), len(columns))
        scale = np.nanvar(labels[:, columns], axis=0)
        return (found - labels[:, columns]) ** 2 / np.where(scale > 0, scale, 1.0)


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column has no label: NaN or None."""
    if values.dtype == object:
        return np.array([value is None or str(value) == "<NA>" or value != value for value in values], dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
