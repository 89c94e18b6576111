"""The main job for somebody else's training: no torch model, no models to serve, and nothing claimed about them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import coterie
from coterie.affinity import METHODS, get_estimator
from coterie.errors import SettingError, StoreError
from coterie.executors import LocalExecutor
from coterie.report.data import parse
from coterie.training import FunctionTrainer, Outcome, Run
from reference.own_trainers import Ridge, without_examples

NAMES = ("a1", "a2", "b1", "b2")
#: the four tasks have six pairs: all of them are trained
OPTIONS = {"seeds": 4, "groups": 2}


def trainer(function=None) -> FunctionTrainer:
    return FunctionTrainer(function or Ridge(), NAMES)


@pytest.mark.parametrize("method", [None, "kernel-surrogate", "linear-surrogate"])
def test_numpy_alone_goes_through_the_main_job(tmp_path: Path, method: str | None) -> None:
    found = coterie.run(trainer(), method=method, out=tmp_path / "run", **OPTIONS)
    assert found.grouping.names == (("a1", "a2"), ("b1", "b2"))
    assert (found.recommendation.verdict, found.recommendation.models) == ("yes", 2)
    assert np.isfinite(found.affinity.values[~np.eye(4, dtype=bool)]).all()
    assert found.affinity.values[0, 1] > found.affinity.values[0, 2]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["settings"]["method"] == (method or "kernel-surrogate")
    costs = {row["stage"]: row for row in result["costs"]}
    assert costs["real trainings of subsets"]["trainings"] == pytest.approx(6)
    assert costs["comparison: real trainings"]["trainings"] == pytest.approx(4 * 7)
    assert all(row["flops"] is None for row in result["costs"])
    page = parse(result)
    assert [name for name, _, _ in page.tasks] == list(NAMES)
    assert "nan" not in (tmp_path / "run" / "report.html").read_text().lower().replace("finance", "")
    assert not list((tmp_path / "run").glob("*model*"))


def test_a_killed_run_goes_on_and_a_finished_one_trains_nothing(tmp_path: Path) -> None:
    ridge, calls, dying = Ridge(), list[Run](), [True]

    def train(tasks: tuple[str, ...], seed: int) -> Outcome:
        if dying[0] and len(calls) == 20:
            raise KeyboardInterrupt
        calls.append(Run(tasks, seed))
        return ridge(tasks, seed)

    def again() -> coterie.RunResult:
        return coterie.run(FunctionTrainer(train, NAMES, version="1"), out=tmp_path / "run", **OPTIONS)

    with pytest.raises(KeyboardInterrupt):
        again()
    dying[0] = False
    first = again()
    assert len(calls) == len(set(calls)) == 6 + 4 * 7
    assert again().result["comparison"] == first.result["comparison"]
    assert len(calls) == 6 + 4 * 7
    grown = coterie.run(FunctionTrainer(train, NAMES, version="1"), out=tmp_path / "run", **{**OPTIONS, "seeds": 5})
    assert len(calls) == 6 + 5 * 7
    assert len(grown.comparison.seeds) == 5


def test_workers_change_nothing(two_processes: LocalExecutor) -> None:
    here = coterie.run(trainer(), **OPTIONS)
    there = coterie.run(trainer(), executor=two_processes, **OPTIONS)
    assert here.result["comparison"] == there.result["comparison"]
    assert here.result["affinity"] == there.result["affinity"]


@pytest.mark.filterwarnings("ignore:.*reports no test losses")
def test_means_alone_are_enough() -> None:
    found = coterie.run(trainer(without_examples(Ridge())), **OPTIONS)
    assert found.result["comparison"]["interval"] == "95 % interval over 4 training seeds"
    assert found.grouping.names == (("a1", "a2"), ("b1", "b2"))
    assert any("reports no test losses" in text for text in found.result["warnings"])


def test_another_trainer_does_not_go_on_in_the_directory(tmp_path: Path) -> None:
    coterie.run(trainer(), out=tmp_path / "run", **OPTIONS)
    with pytest.raises(StoreError, match="another"):
        coterie.run(trainer(Ridge(seed=1)), out=tmp_path / "run", **OPTIONS)


@pytest.mark.parametrize("method", [name for name in METHODS if get_estimator(name).needs_workload])
def test_methods_that_look_at_models_say_so(method: str, tmp_path: Path) -> None:
    for verb in (coterie.run, coterie.estimate_affinity):
        with pytest.raises(SettingError, match=r"`method`='.*' needs a torch workload.*Take 'kernel-surrogate'"):
            verb(trainer(), method=method)
    with pytest.raises(SettingError):
        coterie.run(trainer(), method=method, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_affinities_and_groups_of_a_trainer() -> None:
    affinity, model = coterie.estimate_affinity(trainer(), order="pairwise")
    assert coterie.group(affinity, 2).names == (("a1", "a2"), ("b1", "b2"))
    assert model.tasks == NAMES


def test_no_model_is_served(tmp_path: Path) -> None:
    found = coterie.run(trainer(), out=tmp_path / "run", **OPTIONS)
    for run in (tmp_path / "run", coterie.run(trainer(), **OPTIONS), found):
        with pytest.raises((SettingError, StoreError), match=r"no served models.* keeps its models"):
            coterie.load(run)


@dataclass
class Own:
    """A trainer that somebody wrote: compares equal by value, so it has no hash."""

    tasks: tuple[str, ...] = NAMES
    fingerprint: str = "own-1"
    done: list[Run] = field(default_factory=list)

    def train(self, run: Run) -> Outcome:
        self.done.append(run)
        outcome = Ridge()(run.tasks, run.seed)
        return Outcome(outcome.validation, outcome.test, cost=float(len(run.tasks)))


def test_a_trainer_of_ones_own_and_its_costs() -> None:
    own = Own()
    result = coterie.run(own, **OPTIONS).result
    assert own.done
    rows = {row["stage"]: row for row in result["costs"]}
    # six pairs cost 2 each; a seed of the comparison 4 (all) + 4 x 1 (single) + 2 x 2 (groups); a pair is the yardstick
    assert rows["real trainings of subsets"]["trainings"] == pytest.approx(6)
    assert rows["comparison: real trainings"]["trainings"] == pytest.approx(4 * 12 / 2)


def test_a_function_is_no_trainer() -> None:
    with pytest.raises(SettingError, match="Write FunctionTrainer"):
        coterie.run(Ridge())  # pyright: ignore[reportArgumentType]


def two(tasks: tuple[str, ...], seed: int) -> dict[str, float]:
    return {task: 0.5 - 0.1 * (len(tasks) > 1) + 0.01 * np.random.default_rng(seed).normal() for task in tasks}


@pytest.mark.parametrize("method", ["kernel-surrogate", "linear-surrogate"])
def test_two_tasks_are_trained_together_and_apart(method: str) -> None:
    found = coterie.run(FunctionTrainer(two, ["a", "b"]), seeds=3, method=method)
    assert found.comparison.candidates == ("all-in-one", "single-task")
    assert found.served.groups == ((0, 1),)
    affinity, _ = coterie.estimate_affinity(FunctionTrainer(two, ["a", "b"]), method=method)
    assert affinity.values[0, 1] > 0
