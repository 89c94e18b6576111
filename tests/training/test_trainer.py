"""Trainers: runs kept one by one, losses read in every form, and what cannot be meant is said."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import coterie
from coterie import Context
from coterie.errors import ModelError, SettingError, WorkerError
from coterie.executors import LocalExecutor
from coterie.store import MemoryRun, RunDirectory
from coterie.training import FunctionTrainer, Outcome, Run
from coterie.training.trainer import train_runs
from reference import own_trainers
from reference.own_trainers import SLOPE, dying, linear

TASKS = ("a", "b", "c")


def runs(count: int = 3) -> list[Run]:
    return [Run(TASKS[: 1 + number % 3], seed=number) for number in range(count)]


def test_public_names() -> None:
    assert coterie.FunctionTrainer is FunctionTrainer
    assert coterie.Outcome is Outcome


@pytest.mark.parametrize(
    "losses",
    [
        {"a": 0.5},
        {"a": np.float32(0.5)},
        {"a": [0.25, 0.75]},
        {"a": torch.tensor(0.5, requires_grad=True)},
        {"a": torch.tensor([0.25, 0.75])},
        {"a": np.array([0.5, np.nan])},
    ],
    ids=range(6),
)
def test_losses_in_every_form(losses: dict[str, Any]) -> None:
    assert Outcome(losses).mean("a") == 0.5
    assert Outcome({"a": 9.0}, test=losses).mean("a", "test") == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 0.5}, "`validation` should map names of tasks to losses. Found float"),
        ({"validation": {}}, "`validation` should map"),
        ({"validation": {"a": "low"}}, "the loss of task 'a' should be a number"),
        ({"validation": {"a": []}}, "the loss of task 'a' should be a number"),
        ({"validation": {"a": [[0.1]]}}, "the loss of task 'a' should be a number"),
        ({"validation": {"a": None}}, "has no finite|should be a number"),
        ({"validation": {"a": 1.0}, "test": {"b": 1.0}}, "`test` should hold a loss of the same tasks"),
        ({"validation": {"a": 1.0}, "cost": 0}, "`cost` should be a positive number"),
        ({"validation": {"a": 1.0}, "cost": float("nan")}, "`cost` should be a positive number"),
    ],
    ids=range(9),
)
def test_what_is_no_outcome(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((SettingError, ModelError), match=message):
        train_runs(FunctionTrainer(lambda *_: Outcome(**settings), TASKS), runs(1), Context(store=MemoryRun()))


@pytest.mark.parametrize("tasks", ["abc", ["a"], ["a", "a"], ["a", 1], ["a", ""], 3], ids=range(6))
def test_tasks_that_are_none(tasks: Any) -> None:
    with pytest.raises(SettingError, match="`tasks` should be at least two different names"):
        FunctionTrainer(linear, tasks)


def test_no_function() -> None:
    with pytest.raises(SettingError, match="`function` should be a function of"):
        FunctionTrainer(3, TASKS)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"returned no losses for tasks 'a', 'b'; seed 1: .*Found NoneType"),
        ({"a": 1.0}, r"no finite validation loss of 'b'"),
        ({"a": 1.0, "b": float("nan")}, r"no finite validation loss of 'b'"),
        ({"a": [1.0, float("inf")], "b": 1.0}, r"no finite validation loss of 'a'"),
        (Outcome({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": float("nan")}), r"no finite test loss of 'b'"),
    ],
    ids=range(5),
)
def test_runs_without_losses_are_said_and_keep_what_was_done(answer: Any, message: str) -> None:
    store, calls = MemoryRun(), list[int]()

    def train(tasks: tuple[str, ...], seed: int) -> Any:
        calls.append(seed)
        return answer if seed == 1 else dict.fromkeys(tasks, 1.0)

    trainer = FunctionTrainer(train, TASKS, version=str(message))
    with pytest.raises(ModelError, match=message):
        train_runs(trainer, runs(3), Context(store=store))
    assert calls == [0, 1]
    answer = {"a": 2.0, "b": 2.0}
    found = train_runs(trainer, runs(3), Context(store=store))
    assert calls == [0, 1, 1, 2]  # the first was kept
    assert [outcome.mean("a") for outcome, _ in found] == [1.0, 2.0, 1.0]


def test_an_error_of_the_function_names_the_run() -> None:
    def train(tasks: tuple[str, ...], seed: int) -> Any:
        raise RuntimeError("out of memory")

    with pytest.raises(
        ModelError, match=r"failed in the run on tasks 'a'; seed 0: RuntimeError: out of memory"
    ) as told:
        train_runs(FunctionTrainer(train, TASKS), runs(1), Context(store=MemoryRun()))
    assert isinstance(told.value.__cause__, RuntimeError)


def test_a_run_is_done_once(tmp_path: Any) -> None:
    calls = list[Run]()

    def train(tasks: tuple[str, ...], seed: int) -> dict[str, float]:
        calls.append(Run(tasks, seed))
        return dict.fromkeys(tasks, float(seed))

    trainer, told = FunctionTrainer(train, TASKS), list[tuple[str, int, int]]()
    with RunDirectory(tmp_path / "run", fingerprint=trainer.fingerprint, settings={}) as store:
        train_runs(trainer, [*runs(2), *runs(3)], Context(store=store))
    with RunDirectory(tmp_path / "run", fingerprint=trainer.fingerprint, settings={}) as store:
        context = Context(store=store, progress=lambda *news: told.append(news))
        found = train_runs(trainer, runs(4), context, stage="mine")
    assert calls == runs(4)
    assert [outcome.mean("a") for outcome, _ in found] == [0, 1, 2, 3]
    assert told == [("mine", 3, 4), ("mine", 4, 4)]
    assert all(seconds >= 0 for _, seconds in found)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.booleans(), st.one_of(st.none(), st.just(2.5)))
def test_outcomes_survive_a_store(losses: list[float], with_test: bool, cost: float | None) -> None:
    there = Outcome({"a": losses}, {"a": losses[::-1]} if with_test else None, cost)
    store = MemoryRun()
    trainer = FunctionTrainer(lambda *_: there, TASKS)
    for _ in range(2):
        ((found, _),) = train_runs(trainer, runs(1), Context(store=store))
        assert found.cost == cost
        assert np.array_equal(found.losses("validation")["a"], losses)
        assert np.array_equal(found.losses("test")["a"], losses[::-1] if with_test else losses)
        assert (found.test is None) == (not with_test)


def test_what_decides_the_outcome_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(slope: float) -> FunctionTrainer:
        return FunctionTrainer(lambda tasks, seed: dict.fromkeys(tasks, slope * seed), TASKS)

    first = FunctionTrainer(linear, TASKS).fingerprint
    assert made(1.0).fingerprint == made(1.0).fingerprint != made(2.0).fingerprint
    assert FunctionTrainer(linear, TASKS[:2]).fingerprint != first
    named = FunctionTrainer(linear, TASKS, version="2").fingerprint
    assert named != first
    assert named != FunctionTrainer(linear, TASKS, version="3").fingerprint
    assert named == FunctionTrainer(own_trainers.failing, TASKS, version="2").fingerprint
    monkeypatch.setattr(own_trainers, "SLOPE", SLOPE + 1)
    assert FunctionTrainer(linear, TASKS).fingerprint != first


def test_runs_elsewhere_have_the_same_outcomes(two_processes: LocalExecutor) -> None:
    here = train_runs(FunctionTrainer(linear, TASKS), runs(5), Context(store=MemoryRun()))
    away = Context(store=MemoryRun(), executor=two_processes)
    there = train_runs(FunctionTrainer(linear, TASKS), runs(5), away)
    with pytest.raises(ModelError, match="RuntimeError: seed 1"):
        train_runs(FunctionTrainer(own_trainers.failing, TASKS), runs(2), away)
    with pytest.raises(WorkerError):
        train_runs(FunctionTrainer(dying, TASKS), runs(1), away)
    assert [outcome.mean("a") for outcome, _ in here] == [outcome.mean("a") for outcome, _ in there]


def test_it_says_what_it_is() -> None:
    assert re.fullmatch(r"FunctionTrainer\(linear, 3 tasks\)", repr(FunctionTrainer(linear, TASKS)))
