"""A run whose group models are trained with balancing: keys, resume, what is counted, mistakes found early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.balancing import Balancing
from coterie.errors import SettingError, StoreError
from coterie.evaluation import TrainedComparison, compare
from coterie.pipeline import plan, run
from coterie.store import MemoryRun
from coterie.workload import Workload

CANDIDATES = {"two": [[0, 1, 2], [3, 4]]}
OPTIONS: dict[str, Any] = {"groups": 2, "seeds": 2, "bases": 1}


def column(trained: TrainedComparison, name: str) -> np.ndarray:
    return trained.comparison.test[trained.comparison.index(name)]


def test_groups_are_balanced_and_single_tasks_are_the_same(tiny: Workload) -> None:
    store = MemoryRun()
    plain = compare(tiny, CANDIDATES, seeds=2, store=store)
    balanced = compare(tiny, CANDIDATES, seeds=2, store=store, balancing="famo")
    again = compare(tiny, CANDIDATES, seeds=2, store=store, balancing=Balancing("famo"))
    assert np.array_equal(again.comparison.test, balanced.comparison.test)
    np.testing.assert_allclose(column(balanced, "single-task"), column(plain, "single-task"), rtol=1e-4)
    for name in ("all-in-one", "two"):
        assert not np.allclose(column(balanced, name), column(plain, name), rtol=1e-4)
    assert {fit.job.balancing for fit in balanced.fits.values()} == {None, Balancing("famo")}
    assert balanced.best_state([0, 1, 2], 2**30, store)


def test_other_options_are_other_units(tiny: Workload) -> None:
    store = MemoryRun()
    found = [
        compare(tiny, {}, seeds=1, store=store, balancing=choice)
        for choice in (None, "marigold", Balancing("marigold", {"every": 1}), "uncertainty")
    ]
    losses = [column(one, "all-in-one").round(6).tobytes() for one in found]
    assert len(set(losses)) == 4


def test_halving_trains_with_the_same_balancing(tiny: Workload) -> None:
    candidates = {"a": [[0, 1, 2], [3, 4]], "b": [[0, 3], [1, 2, 4]], "c": [[0, 4], [1, 2, 3]]}
    trained = compare(tiny, candidates, seeds=3, runs=30, balancing="dwa")
    assert trained.raced
    fits = [*trained.fits.values(), *trained.raced.values()]
    assert all(fit.job.balancing == (Balancing("dwa") if len(fit.job.subset) > 1 else None) for fit in fits)


def test_a_run_with_balancing_is_resumed_and_kept_apart(tiny: Workload, tmp_path: Path) -> None:
    first = run(tiny, out=tmp_path / "run", balancing="famo", **OPTIONS)
    again = run(tiny, out=tmp_path / "run", balancing=Balancing("famo"), **OPTIONS)
    plain = run(tiny, **OPTIONS)
    assert np.array_equal(first.comparison.test, again.comparison.test)
    assert np.array_equal(first.affinity.values, plain.affinity.values)
    assert not np.allclose(first.comparison.test, plain.comparison.test, rtol=1e-4)
    assert first.result["settings"]["balancing"] == {"name": "famo", "options": {}}
    assert "balancing" not in plain.result["settings"]
    assert any("with balancing: famo" in note for note in first.result["notes"])
    with pytest.raises(StoreError, match="balancing"):
        run(tiny, out=tmp_path / "run", **OPTIONS)

    def comparison(result: dict[str, Any]) -> float:
        return next(row["flops"] for row in result["costs"] if row["stage"].startswith("comparison"))

    assert comparison(first.to_dict()) > 0


def test_mistakes_are_found_before_anything_is_trained(tiny: Workload, tmp_path: Path) -> None:
    stages: list[str] = []
    for call in (run, plan):
        with pytest.raises(SettingError, match=r"`balancing` .*Did you mean 'famo'"):
            call(tiny, balancing="fam", progress=lambda stage, done, total: stages.append(stage))
        with pytest.raises(SettingError, match="balancing"):
            call(tiny, balancing=3)  # type: ignore[arg-type]
    assert set(stages) <= {"plan"}
    with pytest.raises(SettingError, match=r"`balancing` .*Did you mean 'famo'"):
        compare(tiny, CANDIDATES, balancing="fam")


def test_the_plan_counts_the_passes(tiny: Workload) -> None:
    def row(**options: Any) -> dict[str, Any]:
        return next(row for row in plan(tiny, seeds=2, **options)["rows"] if row["stage"] == "comparison")

    plain, equal, famo = (row(balancing=name) for name in (None, "equal", "famo"))
    assert plain["flops"] == equal["flops"] < famo["flops"] < 1.5 * plain["flops"]
    assert "balancing: famo" in famo["why"]
    pytest.importorskip("torchjd")
    assert "one by one" in row(balancing="mgda")["why"]
