"""The search for groups as units of a run, and costs that add up to the time of the run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie import Context
from coterie._units import NoStore
from coterie.affinity import Affinity, Estimate, GainModel, PairwiseGainModel
from coterie.affinity.costs import Costs
from coterie.errors import SettingError
from coterie.grouping import Grouping
from coterie.pipeline import candidates, run
from coterie.pipeline.accounts import Accounts, RecordingStore
from coterie.pipeline.candidates import (
    AFFINITY,
    SEARCH,
    candidate_groupings,
    group_counts,
    has_overlapping,
    kept_affinity,
    subset_count,
    typical_size,
)
from coterie.store.arrays import MemoryRun
from coterie.training.units import UnitCost
from coterie.workload import Workload


def estimate(n: int = 12) -> tuple[Estimate, Affinity]:
    kinds = np.arange(n) % 3
    values = 0.3 * (kinds[:, None] == kinds) - 0.1 + 0.05 * np.random.default_rng(0).normal(size=(n, n))
    affinity = Affinity(values, tuple(f"t{i}" for i in range(n)), None, "gain", "made up")
    return Estimate(PairwiseGainModel(affinity), Costs(UnitCost(1.0, 1.0, 1.0))), affinity


def search(store: Any, told: list[tuple[str, int, int]], budget: int = 4, limit: float | None = None) -> Any:
    found, affinity = estimate()
    context = Context(store=store or NoStore(), progress=lambda *said: told.append(said))
    groupings = candidate_groupings(found, affinity, None, budget, context, limit)
    return groupings, found.costs


def test_a_search_that_was_finished_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = MemoryRun()
    (best, named), costs = search(store, told := [])
    bars = [(done, total) for stage, done, total in told if stage == SEARCH]
    assert bars == sorted(bars)
    assert bars[-1] == (300, 300)
    monkeypatch.setattr(candidates, "search_groups", None)
    monkeypatch.setattr(candidates, "select_groups", None)
    (again, other), booked = search(store, [])
    assert again.to_dict() == best.to_dict()
    assert {name: one.to_dict() for name, one in other.items()} == {name: one.to_dict() for name, one in named.items()}
    assert booked.entries[SEARCH] == costs.entries[SEARCH]
    with pytest.raises(TypeError):  # another limit, another search
        search(store, [], limit=100.0)


def test_an_interrupted_search_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = MemoryRun()
    real, asked = candidates.search_groups, []

    def searched(model: Any, k: int, **options: Any) -> Any:
        asked.append(k)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(model, k, **options)

    monkeypatch.setattr(candidates, "search_groups", searched)
    with pytest.raises(KeyboardInterrupt):
        search(store, [])
    search(store, [])
    assert asked == [4, 3, 3, 2]


def test_fewer_groups_are_also_sought_by_merging_more(monkeypatch: pytest.MonkeyPatch) -> None:
    real, starts = candidates.search_groups, {}

    def searched(model: Any, k: int, **options: Any) -> Any:
        starts[k] = [len(start.groups) for start in options["starts"]]
        return real(model, k, **options)

    monkeypatch.setattr(candidates, "search_groups", searched)
    search(None, [])
    assert starts == {4: [4], 3: [3, 4], 2: [2, 3]}


def test_a_larger_budget_finds_what_it_would_have_found_at_first() -> None:
    """The groupings of more groups are starts for fewer: with other starts it is another search."""
    store: Any = MemoryRun()
    search(store, [], budget=3)
    (_, grown), _ = search(store, [])
    (_, fresh), _ = search(MemoryRun(), [])
    assert {name: one.to_dict() for name, one in grown.items()} == {name: one.to_dict() for name, one in fresh.items()}


def test_the_affinity_is_a_unit() -> None:
    store: Any = MemoryRun()
    first, _ = estimate()
    found = kept_affinity(first, 4, 0, store)
    second, _ = estimate()
    second.model.predict = None  # type: ignore[method-assign, assignment]
    again = kept_affinity(second, 4, 0, store)
    assert again.to_dict() == found.to_dict()
    np.testing.assert_array_equal(again.values, first.model.higher_order(subset_count(12, 4), 4).values)
    assert second.costs.subsets == first.costs.subsets
    assert AFFINITY in second.costs.entries


def test_what_no_unit_took_is_booked_on_the_stage() -> None:
    store = RecordingStore(MemoryRun())
    accounts, costs = Accounts(), Costs(UnitCost(1.0, 1.0, 1.0))
    time.sleep(0.02)
    accounts.close("before", None)
    from coterie._units import Payload
    from coterie.affinity.costs import timed

    def work() -> Payload:
        time.sleep(0.05)
        return Payload(meta={})

    timed(store, costs, "unit", "name", {}, work)
    time.sleep(0.02)
    accounts.close("rest", costs, store)
    timed(store, costs, "again", "name", {}, work)  # was finished: booked, but not spent
    accounts.close("nothing", costs, store)
    accounts.close("nothing", costs)
    seconds = {row["stage"]: row["seconds"] for row in costs.rows()}
    assert list(seconds) == ["unit", "before", "rest", "again", "nothing"]
    assert seconds["unit"] == seconds["again"] >= 0.05
    assert min(seconds["before"], seconds["rest"]) >= 0.02 > seconds["nothing"]


def test_costs_add_up_and_a_finished_run_searches_no_more(
    tiny: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # what others do on the machine does not count
    begin = time.perf_counter()
    first = run(tiny, out=tmp_path / "run", budget=3, seeds=1, bases=1)
    took = time.perf_counter() - begin
    rows = first.result["costs"]
    assert first.result["seconds"] == sum(row["seconds"] for row in rows) == pytest.approx(took, rel=0.05)
    assert {AFFINITY, SEARCH, "reading and checking", "report and served models"} <= {row["stage"] for row in rows}
    trainings = {row["stage"]: row["trainings"] for row in rows}
    assert trainings["comparison: real trainings"] > 1
    for name in ("search_groups", "select_groups", "estimated_affinity"):
        monkeypatch.setattr(candidates, name, None)
    again = run(tiny, out=tmp_path / "run", budget=3, seeds=1, bases=1)
    assert again.grouping.to_dict() == first.grouping.to_dict()
    assert {row["stage"]: row["seconds"] for row in again.result["costs"]}[AFFINITY] == next(
        row["seconds"] for row in rows if row["stage"] == AFFINITY
    )


@pytest.mark.parametrize("limit", [0, -1.0, True, "1", float("inf"), float("nan")])
def test_limits_that_are_none_are_named(tiny: Workload, limit: object) -> None:
    with pytest.raises(SettingError, match="search_limit"):
        run(tiny, search_limit=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n", "groups", "budget", "counts", "overlapping"),
    [
        (12, None, None, [2, 3, 4, 5], False),
        (12, 4, None, [4], False),
        (12, 12, None, [12], False),
        (12, None, 4, [2, 3, 4], True),
        (12, None, 8, [2, 3, 4, 5, 8], True),
        (12, 3, 8, [3], False),
        (12, None, 1, [], False),
        (12, None, 2, [2], True),
        (12, None, 11, [2, 3, 4, 5, 11], True),
        (12, None, 12, [2, 3, 4, 5], False),
        (50, None, 5, [2, 3, 5], True),
        (51, None, 5, [2, 3, 5], False),
        (3, None, None, [2], False),
        (2, None, None, [], False),
    ],
)
def test_which_groupings_are_sought(
    n: int, groups: int | None, budget: int | None, counts: list[int], overlapping: bool
) -> None:
    assert group_counts(n, groups, budget) == counts
    assert has_overlapping(n, groups, budget) == overlapping


@pytest.mark.parametrize(
    ("n", "groups", "size", "count"),
    [
        (12, None, 4, 220),  # 20 subsets for each of 66 pairs, 6 pairs in a subset
        (12, 6, 2, 1320),
        (30, None, 10, 194),
        (30, 30, 2, 5000),  # where 20 a pair would be very many
        (150, None, 10, 4967),
        (300, None, 15, 5000),
        (1000, None, 50, 5000),
        (1000, 500, 2, 1498500),  # 3 a pair are the least
        (2, None, 2, 20),
    ],
)
def test_subsets_of_a_higher_order_affinity(n: int, groups: int | None, size: int, count: int) -> None:
    assert typical_size(n, groups) == size
    assert subset_count(n, size) == count


@pytest.mark.parametrize(("budget", "searches"), [(None, 4), (4, 4), (8, 6)])
def test_searches_share_the_time_limit(budget: int | None, searches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def sought(model: GainModel, count: int, **options: Any) -> Grouping:
        limits.append(options["time_limit"])
        return Grouping.from_labels(model.tasks, [task % count for task in range(len(model.tasks))], method="spy")

    for name in ("search_groups", "select_groups"):
        monkeypatch.setattr(candidates, name, sought)
    search(None, [], budget=budget, limit=60.0)  # type: ignore[arg-type]
    assert limits == [60.0 / searches] * searches


def test_one_group_and_single_tasks_are_no_candidates() -> None:
    found, affinity = estimate(6)
    for groups, names in ((1, []), (6, []), (2, ["grouped (2)"])):
        best, named = candidate_groupings(found, affinity, groups, None)
        assert len(best.groups) == groups
        assert list(named) == names
        assert all(grouping.to_dict() == best.to_dict() for grouping in named.values())
