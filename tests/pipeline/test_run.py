"""The main job, end to end, on small real data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.errors import SettingError, StoreError
from coterie.pipeline import RunResult, estimate_affinity, plan, run
from coterie.serving import load
from coterie.workload import Recipe, Workload, from_arrays

OPTIONS = {"groups": 2, "seeds": 2, "bases": 2}


@pytest.fixture(scope="module")
def finished(tiny: Workload, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tiny, out=tmp_path_factory.mktemp("run") / "tiny", **OPTIONS)


def test_run_directory_has_everything(finished: RunResult) -> None:
    assert finished.path is not None
    names = {path.name for path in finished.path.iterdir()}
    assert {
        "manifest.json",
        "result.json",
        "report.html",
        "serve.json",
        "serve.safetensors",
        "comparison.safetensors",
        "units",
    } <= names
    result = json.loads((finished.path / "result.json").read_text())
    assert result["recommendation"]["text"] == str(finished)
    assert {row["stage"] for row in result["costs"]} >= {"base models", "task vectors", "secant features"}
    assert all(row["flops"] >= 0 and row["seconds"] >= 0 for row in result["costs"])
    assert result["seconds"] == sum(row["seconds"] for row in result["costs"])
    assert finished.recommendation.text.split(":")[0] in finished.report.read_text()  # type: ignore[union-attr]


def test_every_task_is_served_by_a_group_that_holds_it(finished: RunResult) -> None:
    for grouping in (finished.grouping, finished.served):
        assert all(task in grouping.groups[group] for task, group in enumerate(grouping.serves))


def test_candidates_were_trained_with_all_seeds(finished: RunResult, tiny: Workload) -> None:
    comparison = finished.comparison
    assert comparison.validation.shape == (len(comparison.candidates), 2, tiny.n_tasks)
    assert np.isfinite(comparison.validation).all()
    assert np.isfinite(comparison.test).all()
    assert {"all-in-one", "single-task", "grouped (2)"} <= set(comparison.candidates)


def test_served_predictions_are_those_of_the_trained_models(finished: RunResult, tiny: Workload) -> None:
    """The loss of the served predictions on test rows is one of the really measured test losses."""
    predictor = load(finished.path)
    rows = tiny.split.test
    raw = tiny.inputs[rows] * tiny.input_scale + tiny.input_center  # type: ignore[index, operator]
    predicted = predictor.predict(raw.numpy())
    served = finished.served
    for task, name in enumerate(tiny.task_names):
        p = torch.as_tensor(predicted[name]).double().clamp(1e-12, 1 - 1e-12)
        y = tiny.labels[rows, task].double()
        loss = float(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
        measured = [
            finished.comparison.test[c, s, task]
            for c, grouping in enumerate(finished.comparison.groupings)
            for s in range(2)
            if grouping.groups[grouping.serves[task]] == served.groups[served.serves[task]]
        ]
        assert min(abs(loss - value) for value in measured) < 1e-4


def test_a_finished_run_is_read_not_computed(finished: RunResult, tiny: Workload) -> None:
    again = run(tiny, out=finished.path, **OPTIONS)
    assert np.array_equal(again.comparison.test, finished.comparison.test)
    assert np.array_equal(again.affinity.values, finished.affinity.values)
    assert again.served.to_dict() == finished.served.to_dict()


def test_the_same_seed_gives_the_same_numbers(finished: RunResult, tiny: Workload) -> None:
    again = run(tiny, **OPTIONS)
    assert again.path is None
    assert np.array_equal(again.comparison.validation, finished.comparison.validation)
    assert np.array_equal(again.affinity.values, finished.affinity.values)


def test_other_settings_do_not_overwrite_a_run(finished: RunResult, tiny: Workload) -> None:
    with pytest.raises(StoreError, match="seeds"):
        run(tiny, out=finished.path, groups=2, seeds=1, bases=2)
    assert (finished.path / "result.json").exists()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 6}, "groups"),
        ({"groups": 0}, "groups"),
        ({"budget": 0}, "budget"),
        ({"groups": 3, "budget": 2}, "budget"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": 1.5}, "seeds"),
        ({"groups": "2"}, "groups"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"memory": "1GiB"}, "memory"),
        ({"out": 5}, "out"),
        ({"out": ""}, "out"),
        ({"method": 3}, "method"),
        ({"bases": 1.5}, "bases"),
        ({"offset": "no"}, "offset"),
        ({"method": "nope"}, "method"),
        ({"basis": 3}, "basis"),
        ({"bases": 0}, "bases"),
        ({"ridge": -1.0}, "ridge"),
        ({"directions": "nope"}, "directions"),
    ],
)
def test_settings_out_of_range_are_named(tiny: Workload, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        run(tiny, **options)


def test_something_else_than_a_workload_is_named() -> None:
    for call in (run, estimate_affinity, plan):
        with pytest.raises(SettingError, match="workload"):
            call(np.zeros((3, 3)))  # type: ignore[arg-type]


def test_plan_refuses_what_run_refuses(tiny: Workload) -> None:
    with pytest.raises(SettingError, match="groups"):
        plan(tiny, groups=99)


def test_warnings_of_a_run_come_back_when_it_is_resumed(tmp_path: Path) -> None:
    """BatchNorm in evaluation mode is said by the first run and by the one that only reads."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype("float32")
    y = (x[:, :3] > 0).astype(float)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU())
            self.head = torch.nn.Linear(8, 3)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.head(self.trunk(batch))

    work = from_arrays(x, y, build_model=lambda seed: Net(), recipe=Recipe(epochs=3, batch_size=32))
    options = {"groups": 2, "seeds": 2, "bases": 1, "out": tmp_path / "run"}
    first, again = (run(work, **options).to_dict()["warnings"] for _ in range(2))  # type: ignore[arg-type]
    assert any("BatchNorm" in text for text in first)
    assert set(again) == set(first)


def test_affinity_methods(tiny: Workload, tmp_path: Path) -> None:
    affinity, model = estimate_affinity(tiny, method="grad-tag", order="pairwise", count=20)
    assert affinity.values.shape == (5, 5)
    assert np.isfinite(affinity.values).all()
    assert model.predict([[0, 1]]).shape == (1, 5)
    higher, _ = estimate_affinity(tiny, method="secants", order="higher", bases=1, ridge=0.01)
    assert higher.counts is not None
    assert (higher.counts > 0).all()
    with pytest.raises(SettingError, match="order"):
        estimate_affinity(tiny, order="lower")


def test_a_run_is_found_when_the_working_directory_changes(
    tmp_path: Path, tiny: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    other.mkdir()
    monkeypatch.chdir(first)

    def move(stage: str, done: int, of: int) -> None:
        monkeypatch.chdir(other)

    result = run(tiny, out="runs/one", seeds=2, groups=1, method="label-correlation", progress=move)
    assert result.path == first / "runs" / "one"
    assert result.report is not None
    assert result.report.exists()
    assert set(load(result).predict(tiny.inputs[:2])) == set(tiny.task_names)
    assert not list(other.iterdir())


def test_budget_of_one_recommends_one_model(tiny: Workload) -> None:
    result = run(tiny, budget=1, seeds=1, bases=1)
    assert len(result.served.groups) == 1


def test_plan_says_what_and_why(tiny: Workload) -> None:
    stages = ["base models", "task vectors", "secant features", "real trainings of subsets", "search for groups"]
    stages += ["comparison", "report"]
    for options in ({}, {"bases": 2, "runs": 5}):
        found = plan(tiny, **options)
        # what is imported for the first time in a process takes a row of its own
        assert [row["stage"] for row in found["rows"] if row["stage"] != "imports"] == stages
        assert all(row["seconds"] > 0 for row in found["rows"])
        assert all(row["memory_bytes"] > 0 for row in found["rows"] if row["stage"] in stages)
    with pytest.raises(SettingError, match="base"):
        plan(tiny, method="tag")
    found = plan(tiny, method="task-vectors")
    assert {"gradient features", "comparison", "base models"} <= {row["stage"] for row in found["rows"]}
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert any("forward" in row["what"] or "reverse" in row["what"] for row in found["rows"])
