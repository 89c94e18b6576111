"""Arguments that do not exist are refused by name; warnings are said once and name the caller's line."""

import importlib
import inspect
import warnings
from typing import Any

import numpy as np
import pytest
from torch import nn

import coterie
from coterie import _surface
from coterie._lazy import named
from coterie.affinity import METHODS, get_estimator
from coterie.errors import CoterieWarning, DataWarning, FallbackWarning, SettingError, StoreWarning

ROOMS = ("workload", "affinity", "grouping", "balancing", "training", "serving", "diffusion", "adapters", "benchmark")
#: made by the library, or inner steps that are public for those who enter half-way
INNER = {
    *("encode_text", "Estimate", "SdpSolution", "affinity_costs", "Balancer", "Replay", "Weighting", "StepAffinity"),
    *("Troa", "predict_dense", "Entry", "select"),
}
#: what no room lists, and refuses unknown arguments all the same
UNLISTED = {
    "workload": ("structure:HeadSpec",),
    "affinity": ("gain_model:random_subsets",),
    "grouping": (
        *("objective:improve", "intervals.programme:every_k", "peers.leiden:leiden_partition"),
        *("peers.random_groups:random_partition", "search.local:search"),
    ),
    "training": ("job:Job", "trainer:train_runs"),
}
X = np.random.default_rng(0).normal(size=(120, 4))
Y = (X[:, :3] > 0).astype(float)
RECIPE = coterie.Recipe(epochs=1)


def has_settings(value: Any) -> bool:
    if not callable(value) or (isinstance(value, type) and issubclass(value, Exception)):
        return False
    return any(p.default is not p.empty for p in inspect.signature(value).parameters.values())


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_whatever_has_settings_refuses_unknown_ones(room):
    module = importlib.import_module(f"coterie.{room}".rstrip("."))
    work = coterie.from_arrays(X, Y, tasks=list("abc"))
    checked = 0
    listed = {name: getattr(module, name) for name in set(module.__all__) - INNER}
    unlisted = {path: named(f"coterie.{room}.{path}") for path in UNLISTED.get(room, ())}
    for name, value in {**listed, **unlisted}.items():
        if not has_settings(value):
            continue
        options = [p.name for p in inspect.signature(value).parameters.values() if p.kind is p.VAR_KEYWORD]
        if name == "IntervalTasks":  # hands its options on to a method of balancing
            continue
        with pytest.raises(SettingError, match=r"`nonsense` of .*does not exist.*Known are"):
            value(*([work] if options else []), nonsense=1)
        checked += 1
    assert checked >= 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_refuses_unknown_options(method):
    with pytest.raises(SettingError, match=f"`nonsense` of method '{method}"):
        get_estimator(method, nonsense=1)
    with pytest.raises(SettingError, match="`nonsense` of "):
        type(get_estimator(method))(nonsense=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda work: coterie.Recipe(lr=0.1), "learning_rate"),
        (lambda work: coterie.Recipe(epoch=3), "epochs"),
        (lambda work: coterie.Task("a", type="binary"), "kind"),
        (lambda work: coterie.from_arrays(X, Y, stantardize=False), "standardize"),
        (lambda work: coterie.run(work, overwrit=True), "overwrite"),
        (lambda work: coterie.run(work, random_state=1), "seed"),
        (lambda work: coterie.run(work, base=2, method="secants"), "bases"),
        (lambda work: coterie.plan(work, n_jobs=4), None),
        (lambda work: coterie.estimate_affinity(work, n_jobs=4), "executor"),
        (lambda work: coterie.group(np.eye(3), diagonals="zero"), "diagonal"),
        (lambda work: coterie.Recipe(scheduler="cosine"), "schedule"),
        (lambda work: coterie.Recipe(nesterov=True), None),
    ],
)
def test_the_nearest_name_is_named(call, meant):
    expected = "not yet in this version" if meant is None else f"Did you mean `{meant}`"
    with pytest.raises(SettingError, match=expected):
        call(coterie.from_arrays(X, Y, tasks=list("abc")))


def test_signatures_stay():
    assert list(inspect.signature(coterie.Recipe).parameters)[:2] == ["optimizer", "learning_rate"]
    assert inspect.signature(coterie.from_arrays).parameters["seed"].annotation == "int"
    assert "Args:" in (coterie.from_arrays.__doc__ or "")


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def shown(said: list[warnings.WarningMessage], category: type[Warning]) -> list[tuple[str, int]]:
    return [(item.filename, item.lineno) for item in said if issubclass(item.category, category)]


def constant_inputs() -> Any:
    x = X.copy()
    x[:, 1:] = 1.0
    return coterie.from_arrays(x, Y, tasks=list("abc"), model=Normed(), recipe=RECIPE)


def test_what_is_unusual_about_a_workload_is_said_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        work = constant_inputs()
        coterie.estimate_affinity(work, method="attribution")
        result = coterie.run(work, method="attribution", groups=2, seeds=2)
        coterie.compare(work, {"two": [["a"], ["b", "c"]]}, seeds=1)
    texts = [str(item.message) for item in said if issubclass(item.category, CoterieWarning)]
    assert len(texts) == len(set(texts)) > 1
    assert any("one value only" in text for text in result.result["warnings"])  # the page has it all the same


def test_another_workload_says_it_again():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        flat = np.where(np.arange(4) > 0, 1.0, X)
        one = coterie.from_arrays(flat, Y, tasks=list("abc"))
        other = coterie.from_arrays(flat, Y, tasks=list("abc"))
        coterie.workload.validate(one)
        coterie.workload.validate(other)
    places = shown(said, DataWarning)
    assert [file for file, _ in places] == [__file__] * 2
    assert places[0] != places[1]


def test_a_filter_that_wants_all_gets_all():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        coterie.workload.validate(constant_inputs())
    assert len(shown(said, DataWarning)) == 2


def test_a_call_says_each_warning_once_and_names_the_callers_line():
    work = constant_inputs()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        coterie.compare(work, {"two": [["a"], ["b", "c"]]}, seeds=3)
    places = shown(said, FallbackWarning)
    assert len(places) == 1
    assert places[0][0] == __file__


def test_errors_of_a_filter_stay_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataWarning):
            constant_inputs()


class Thing:
    pass


@pytest.mark.parametrize(("category", "times"), [(DataWarning, 1), (StoreWarning, 2)])
def test_what_happened_in_a_run_is_said_every_time(category, times):
    thing = Thing()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            with _surface.once(thing):
                _surface.warn("odd", category)
                _surface.warn("odd", category)
    assert len(said) == times
