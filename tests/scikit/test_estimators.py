"""Scikit-learn estimators with grouped tasks."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import check_estimator

from coterie import Recipe
from coterie.sklearn import GroupedTasksClassifier, GroupedTasksRegressor

RECIPE = Recipe(epochs=4, check_every=5)
X, DIGIT = load_digits(return_X_y=True)
Y = np.stack([DIGIT % 2, DIGIT > 4, DIGIT // 4, DIGIT == 3], axis=1).astype(float)


@pytest.mark.parametrize(
    "estimator",
    [
        GroupedTasksClassifier(recipe=RECIPE, seeds=2, random_state=0),
        GroupedTasksRegressor(recipe=RECIPE, seeds=2, random_state=0),
        GroupedTasksClassifier(DecisionTreeClassifier(max_depth=4), seeds=2, random_state=0),
        GroupedTasksRegressor(DecisionTreeRegressor(max_depth=4), seeds=2, random_state=0),
    ],
    ids=["networks", "network regression", "trees", "tree regression"],
)
def test_scikit_learn_checks_pass(estimator: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failed = [
            found for found in check_estimator(estimator, on_fail=None, on_skip=None) if found["status"] == "failed"
        ]
    assert not failed


def test_networks_use_labels_of_any_kind_and_rows_with_some_of_them() -> None:
    rng = np.random.default_rng(0)
    words = np.array(["low", "middle", "high"], dtype=object)
    table = pd.DataFrame({"odd": Y[:, 0], "large": Y[:, 1], "third": words[Y[:, 2].astype(int)], "three": Y[:, 3]})
    table = table.mask(rng.random(table.shape) < 0.3)
    model = GroupedTasksClassifier(
        groups=2, seeds=2, method="label-correlation", recipe=Recipe(epochs=12), random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X[:1200], table[:1200])
    assert model.task_names_ == ["odd", "large", "third", "three"]
    assert [list(classes) for classes in model.classes_] == [[0, 1], [0, 1], ["high", "low", "middle"], [0, 1]]
    assert len(model.result_.comparison.candidates) > 1
    answers = model.predict(X[1200:])
    for column, name in enumerate(table):
        known = table[name][1200:].notna().to_numpy()
        assert (answers[known, column] == table[name][1200:].to_numpy()[known]).mean() > 0.8
    for column, chances in enumerate(model.predict_proba(X[1200:])):
        assert chances.sum(1) == pytest.approx(1)
        assert (model.classes_[column][chances.argmax(1)] == answers[:, column]).all()
    assert 0.8 < model.score(X[1200:], table[1200:]) < 1


def test_a_pickled_model_answers_the_same() -> None:
    model = GroupedTasksClassifier(groups=2, seeds=2, recipe=RECIPE, random_state=0).fit(X[:300], Y[:300])
    answers = model.predict(X[300:])
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    assert (again.predict(X[300:]) == answers).all()
    assert again.grouping_.groups == model.grouping_.groups
    # the same seed gives the same models, another one may not
    twin = GroupedTasksClassifier(groups=2, seeds=2, recipe=RECIPE, random_state=0).fit(X[:300], Y[:300])
    assert all((a == b).all() for a, b in zip(twin.predict_proba(X[300:]), model.predict_proba(X[300:]), strict=True))


def test_copies_are_fitted_to_the_groups_on_all_complete_rows() -> None:
    labels = Y.copy()
    labels[::5, 1] = np.nan
    forest = RandomForestClassifier(20, max_depth=6)
    model = GroupedTasksClassifier(forest, groups=2, seeds=2, random_state=0).fit(X[:800], labels[:800])
    groups = model.grouping_.groups
    assert sorted(task for group in groups for task in group) == [0, 1, 2, 3]
    for group, fitted in zip(groups, model.estimators_, strict=True):
        rows = ~np.isnan(labels[:800, list(group)]).any(1)
        target = labels[:800][rows][:, list(group)]
        twin = RandomForestClassifier(20, max_depth=6, random_state=fitted.random_state)
        twin.fit(X[:800][rows], target[:, 0] if len(group) == 1 else target)
        expected = twin.predict(X[800:]).reshape(len(X) - 800, -1)
        assert (model.predict(X[800:])[:, list(group)] == expected).all()
    assert model.score(X[800:], labels[800:]) > 0.85


def test_regression_is_in_the_units_of_the_labels_and_goes_through_tools() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = 1000 + 50 * (x @ rng.normal(size=(6, 4))) + rng.normal(size=(400, 4))
    y[::7, 2] = np.nan
    inner = make_pipeline(StandardScaler(), Ridge())
    search = GridSearchCV(
        GroupedTasksRegressor(inner, groups=2, seeds=2, random_state=0), {"estimator__ridge__alpha": [1e-3, 1e6]}, cv=2
    )
    found = search.fit(x[:300], y[:300]).best_estimator_
    assert search.best_params_ == {"estimator__ridge__alpha": 1e-3}
    assert found.score(x[300:], y[300:]) > 0.99
    networks = GroupedTasksRegressor(groups=2, seeds=2, recipe=Recipe(epochs=60, learning_rate=3e-3), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert networks.fit(x[:300], y[:300]).score(x[300:], y[300:]) > 0.8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda y: y[:-1], "rows"),
        (lambda y: np.where(y == y, 1.0, y), "only one class"),
        (
            lambda y: np.where(np.arange(y.shape[1]) == np.arange(len(y))[:, None] % y.shape[1], y, np.nan),
            "No row of y",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_named(change: Any, says: str) -> None:
    model = GroupedTasksClassifier(DecisionTreeClassifier(), seeds=2)
    with pytest.raises(ValueError, match=says):
        model.fit(X[:200], change(Y[:200]))


@pytest.mark.parametrize("rows", [40, 300])
@pytest.mark.parametrize("tasks", [1, 2])
def test_forests_for_few_rows_and_few_tasks(rows: int, tasks: int) -> None:
    model = GroupedTasksClassifier(RandomForestClassifier(5), seeds=2, random_state=0)
    model.fit(X[:rows], Y[:rows, :tasks])
    assert sorted(task for group in model.grouping_.groups for task in group) == list(range(tasks))
    assert model.predict(X[rows:]).shape == (len(X) - rows, tasks)
    assert bool(model.recommendation_) == (rows > 50 and tasks > 1)


def test_the_seed_reaches_the_steps_of_a_pipeline() -> None:
    inner = make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            GroupedTasksClassifier(inner, seeds=2, random_state=0)
            .fit(X[:200], Y[:200, [0, 3]])
            .predict_proba(X[200:300])
            for _ in range(2)
        )
    assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_frames_are_paired_and_judged_by_their_labels() -> None:
    rows = [f"row {n}" for n in range(300)]
    x = pd.DataFrame(X[:300], index=rows)
    x.columns = [f"pixel {n}" for n in x.columns]
    y = pd.DataFrame({"odd": pd.array(Y[:300, 0].astype(int), dtype="Int64"), "large": Y[:300, 1]}, index=rows)
    y.iloc[::9, 0] = pd.NA
    model = GroupedTasksClassifier(DecisionTreeClassifier(max_depth=5), seeds=2, random_state=0)
    expected = model.fit(x, y).predict(x)
    assert (model.fit(x, y.sample(frac=1, random_state=0)).predict(x) == expected).all()
    assert model.score(x, y[["large", "odd"]]) == model.score(x, y)
    with pytest.raises(ValueError, match="one for each of"):
        model.score(x, y[["odd"]])
    with pytest.raises(ValueError, match="different row labels"):
        model.fit(x.reset_index(drop=True), y.reset_index(drop=True).sample(frac=1, random_state=0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"estimator": DecisionTreeClassifier}, "`estimator`"),
        ({"budget": 0}, "`budget`"),
        ({"hidden": 8}, "`hidden`"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(settings: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GroupedTasksClassifier(**settings).fit(X[:40], Y[:40])
