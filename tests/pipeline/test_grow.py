"""A run directory goes on with more seeds, candidates or models: what was trained is not trained again."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from coterie._units import Payload
from coterie.errors import StoreError
from coterie.evaluation import compare
from coterie.pipeline import RunResult, run
from coterie.store import MemoryRun
from coterie.store.files import digest
from coterie.training import units
from coterie.workload import Recipe, Workload
from pipeline.conftest import digits_workload

OPTIONS = {"groups": 2, "bases": 1}


@pytest.fixture(scope="module")
def small() -> Workload:
    return digits_workload(rows=250, recipe=Recipe(epochs=2, batch_size=50, check_every=2, learning_rate=5e-3))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[tuple[int, ...], int]]:
    """Counts (subset, seed) that are trained for comparisons."""
    counts: Counter[tuple[tuple[int, ...], int]] = Counter()
    real = units.fit

    def counting(workload, jobs, **options):
        counts.update((tuple(job.subset), job.seed) for job in jobs)
        return real(workload, jobs, **options)

    monkeypatch.setattr(units, "fit", counting)
    return counts


def assert_same(a: RunResult, b: RunResult) -> None:
    assert a.comparison.candidates == b.comparison.candidates
    for part in ("validation", "test"):
        assert np.array_equal(a.comparison.losses(part), b.comparison.losses(part))
        assert np.array_equal(a.comparison.labels[part].values, b.comparison.labels[part].values)
    assert a.recommendation == b.recommendation
    assert a.served.to_dict() == b.served.to_dict()
    assert a.result["comparison"] == b.result["comparison"]
    assert a.path is not None
    assert b.path is not None
    assert digest((a.path / "serve.safetensors").read_bytes()) == digest((b.path / "serve.safetensors").read_bytes())


def test_more_seeds_go_on_and_give_what_a_fresh_run_gives(small: Workload, tmp_path: Path, trained) -> None:
    run(small, seeds=2, out=tmp_path / "grown", **OPTIONS)
    trained.clear()
    grown = run(small, seeds=4, out=tmp_path / "grown", **OPTIONS)
    assert {seed for _, seed in trained} == {2, 3}
    assert_same(grown, run(small, seeds=4, out=tmp_path / "fresh", **OPTIONS))
    assert grown.result["settings"]["seeds"] == 4
    assert json.loads((tmp_path / "grown" / "manifest.json").read_text())["settings"]["seeds"] == 4
    trained.clear()
    assert_same(run(small, seeds=4, out=tmp_path / "grown", **OPTIONS), grown)
    assert not trained


def test_what_may_only_grow_does_not_shrink(small: Workload, tmp_path: Path) -> None:
    run(small, seeds=2, budget=3, out=tmp_path / "run", **OPTIONS)
    before = (tmp_path / "run" / "result.json").read_bytes()
    for less in ({"seeds": 1}, {"budget": 2}):
        with pytest.raises(StoreError, match=f"`{next(iter(less))}`, which may only grow"):
            run(small, out=tmp_path / "run", **{"seeds": 2, "budget": 3, **OPTIONS, **less})
    for other in ({"bases": 2}, {"seed": 1}, {"groups": 3}):
        with pytest.raises(StoreError, match="setting"):
            run(small, out=tmp_path / "run", **{"seeds": 2, "budget": 3, **OPTIONS, **other})
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_a_larger_budget_trains_what_is_new(small: Workload, tmp_path: Path, trained) -> None:
    first = run(small, seeds=2, bases=1, budget=2, out=tmp_path / "run")
    done = set(trained)
    trained.clear()
    more = run(small, seeds=2, bases=1, budget=4, out=tmp_path / "run")
    assert done.isdisjoint(trained)
    assert len(more.comparison.candidates) > len(first.comparison.candidates)
    for name in ("all-in-one", "single-task"):
        a, b = (result.comparison for result in (first, more))
        assert np.array_equal(a.test[a.index(name)], b.test[b.index(name)])


def test_more_candidates_use_what_was_trained_and_stay_the_same(small: Workload, trained) -> None:
    store = MemoryRun()
    pairs, odd = [[0, 1], [2, 3], [4]], [[0, 1], [2, 3, 4]]
    compare(small, {"pairs": pairs}, seeds=2, store=store)
    assert max(trained.values()) == 1
    trained.clear()
    both = compare(small, {"pairs": pairs, "odd": odd}, seeds=3, store=store)
    again = {key for key in trained if key[1] < 2}
    assert again == {((2, 3, 4), 0), ((2, 3, 4), 1)}
    assert len({subset for subset, seed in trained if seed == 2}) == 9
    trained.clear()
    same = compare(small, {"pairs": pairs, "odd": odd}, seeds=3, store=store)
    assert not trained
    assert np.array_equal(same.comparison.test, both.comparison.test)
    fewer = compare(small, {"odd": odd}, seeds=2, store=store)
    assert not trained
    assert {subset for subset, _ in fewer.fits} == {(0, 1), (2, 3, 4), (0, 1, 2, 3, 4), *((t,) for t in range(5))}


class Killed(MemoryRun):
    """A store in which a process dies before a unit is written."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    def unit(self, name, key, compute) -> Payload:
        def counted() -> Payload:
            if self.left == 0:
                raise KeyboardInterrupt
            payload = compute()
            if self.left is not None:
                self.left -= 1
            return payload

        return super().unit(name, key, counted)


def test_a_kill_at_any_unit_of_the_growth_changes_nothing(small: Workload) -> None:
    few, large = {"a": [[0, 1], [2, 3, 4]]}, {"a": [[0, 1], [2, 3, 4]], "b": [[0, 2], [1, 3, 4]]}
    store = MemoryRun()
    compare(small, few, seeds=1, store=store)
    whole = compare(small, large, seeds=2, store=store).comparison
    for units_left in range(5):
        killed = Killed()
        compare(small, few, seeds=1, store=killed)
        killed.left = units_left
        with suppress(KeyboardInterrupt):
            compare(small, large, seeds=2, store=killed)
        killed.left = None
        again = compare(small, large, seeds=2, store=killed).comparison
        assert np.array_equal(again.test, whole.test)
