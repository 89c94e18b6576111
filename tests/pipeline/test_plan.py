"""Plans against real runs, and the arithmetic behind them."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.balancing.methods import as_balancing
from coterie.errors import ResourceError, SettingError
from coterie.evaluation import BASELINE, JOINT, Comparison
from coterie.evaluation.compare import all_in_one, single_task
from coterie.evaluation.labels import LabelLosses
from coterie.pipeline import plan, planning, planning_measurements, planning_rows, planning_time, run
from coterie.pipeline.planning import check_runs
from coterie.pipeline.planning_estimate import SearchCost, count_search, shrunk
from coterie.pipeline.planning_measurements import Measurements, Sizes, resident
from coterie.pipeline.planning_rows import rows_of
from coterie.pipeline.planning_time import Pilot, StepCost, Timing
from coterie.training.job import Fit, Job
from coterie.workload import Workload

OPTIONS = {"groups": 2, "seeds": 2}


@pytest.fixture(scope="module", autouse=True)
def hurry() -> Iterator[None]:
    """Time fewer steps: what is tested here does not depend on the seconds that are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning_time, "ALONE", 0.01)
        yield


@pytest.fixture(scope="module")
def planned(tiny: Workload) -> dict:
    return plan(tiny, **OPTIONS)


def stage(found: dict, name: str) -> dict:
    return next(row for row in found["rows"] if row["stage"] == name)


def test_the_disk_and_the_units_of_a_real_run(tiny: Workload, planned: dict, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(tiny, out=out, **OPTIONS)
    real = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert planned["totals"]["disk_bytes"] == pytest.approx(real, rel=0.25)
    units = Counter(json.loads(path.read_text())["name"] for path in (out / "units").glob("*.json"))
    bases = units["secants"]
    assert stage(planned, "base models")["what"] == f"{bases + 1} trainings on all tasks"
    assert stage(planned, "task vectors")["what"].startswith(f"{bases * tiny.n_tasks} short trainings")
    # the FLOPs of the pilot's trainings stand for those of the run's
    costs = {row["stage"]: row["flops"] for row in result.result["costs"]}
    assert stage(planned, "comparison")["flops"] == pytest.approx(costs["comparison: real trainings"], rel=0.3)
    assert stage(planned, "secant features")["flops"] == pytest.approx(costs["secant features"], rel=1e-6)


def test_totals_are_sums_and_bounds_are_above(planned: dict) -> None:
    total, rows = planned["totals"], planned["rows"]
    json.dumps(planned)
    assert total["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert total["disk_bytes"] == sum(total["disk"].values()) == sum(row["disk_bytes"] for row in rows)
    for row in rows:
        assert row["seconds_at_most"] >= row["seconds"] >= 0
        assert row["flops_at_most"] >= row["flops"] >= 0
    assert planned["notes"][0].startswith("Expected: ")


def test_the_peak_is_at_least_what_the_process_has(planned: dict) -> None:
    found = resident()
    if found is None:
        pytest.skip("the system does not tell")
    assert planned["totals"]["peak_memory_bytes"] > 2**27
    block = mmap.mmap(-1, 2**27)  # new pages: an allocator may hand out some that earlier tests have freed
    block.write(b"1" * len(block))
    grown = resident()
    assert grown is not None
    assert grown[0] - found[0] > 0.9 * len(block) or grown[0] == grown[1] >= found[1]


def test_more_seeds_take_more(tiny: Workload, planned: dict) -> None:
    more = plan(tiny, groups=2, seeds=6)
    assert stage(more, "comparison")["flops"] == pytest.approx(3 * stage(planned, "comparison")["flops"])
    assert stage(more, "comparison")["disk_bytes"] == pytest.approx(3 * stage(planned, "comparison")["disk_bytes"])


def test_gradient_methods_are_planned(tiny: Workload) -> None:
    found = plan(tiny, method="grad-tag", groups=2, seeds=1, count=20)
    assert stage(found, "gradient features")["what"].endswith("d = 20")
    assert stage(found, "base models")["what"] == "1 trainings on all tasks"
    with pytest.raises(SettingError, match="no plan can be made for 'tag'"):
        plan(tiny, method="tag")


def test_a_pilot_that_is_cut_off_says_so(tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning_time, "BUDGET", 1e-6)
    found = plan(tiny, **OPTIONS)
    assert any("cut off at" in note for note in found["notes"])
    assert found["totals"]["seconds"] < found["totals"]["seconds_at_most"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=2, max_size=30), st.integers(2, 40))
def test_step_cost_of_a_population(steps: list[int], at_once: int) -> None:
    one = Timing(1.0, 1.0)
    step_cost = StepCost(at_once, one, one, one * 0.1)
    chunks = -(-len(steps) // at_once)
    assert step_cost.trainings(steps).cpu == pytest.approx(chunks * max(steps) + 0.1 * sum(steps))
    alone = StepCost(1, one)
    assert alone.trainings(steps).cpu == pytest.approx(sum(steps))
    assert alone.trainings([]) == Timing()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=30, unique=True),
    st.integers(2, 40),
    st.floats(0.02, 0.9),
)
def test_the_cost_of_a_step_is_found_again(steps: list[int], at_once: int, share: float) -> None:
    """From a step alone and one population, as long as a population of one member takes as long as a model alone."""
    one = Timing(1.0, 1.0)
    real = StepCost(at_once, one, one * (1 - share), one * share)
    found = StepCost.of(at_once, one, steps, real.trainings(steps))
    assert found.trainings(steps).cpu == pytest.approx(real.trainings(steps).cpu)
    if sum(steps) > -(-len(steps) // at_once) * max(steps):
        assert found.trainings([7] * 50).cpu == pytest.approx(real.trainings([7] * 50).cpu)


def test_members_that_share_nothing_cost_what_was_measured() -> None:
    """More a step than models alone, as a population that outgrows the caches may."""
    found = StepCost.of(8, Timing(1.0, 1.0), [10] * 4, Timing(60.0, 60.0))
    assert found.trainings([10] * 4).cpu == pytest.approx(60.0)
    assert StepCost.of(1, Timing(1.0, 1.0), [10] * 4, Timing(60.0, 60.0)).trainings([5]).cpu == pytest.approx(7.5)


def test_few_examples_have_labels_of_every_task(tiny: Workload) -> None:
    labels = tiny.labels.clone()
    labels[tiny.split.train[5:], 0] = float("nan")
    small = shrunk(replace(tiny, labels=labels), 4)
    for part in ("train", "validation"):
        assert small.observed[small.split.part(part)].any(0).all()
        assert len(small.split.part(part)) < len(tiny.split.part(part)) / 4


def test_a_search_is_counted() -> None:
    names = tuple("abcdefghij")
    fresh = count_search(names, 3, None, remembers=True)
    again = count_search(names, 3, None, remembers=False)
    assert 0 < fresh.subsets <= again.subsets
    assert [len(g.groups) for g in fresh.groupings] == [3]
    assert np.all(np.array(fresh.groups) > 1)


def test_a_process_that_was_larger_before_is_not_the_pilot(tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peak stays where it was: 8 GiB of something that is gone are no working memory of a training."""
    monkeypatch.setattr(planning_measurements, "resident", lambda: (2**28, 2**33))
    monkeypatch.setattr(planning_rows, "resident", lambda: (2**28, 2**33))
    found = plan(tiny, **OPTIONS)
    assert max(row["memory_bytes"] for row in found["rows"]) < 2**28
    assert found["totals"]["peak_memory_bytes"] == 2**33


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2**28, 2**28), (2**28, 2**28)),  # at its peak, and the pilot fits into what was freed but not given back
        ((2**28, 2**28), (2**28, 2**28 + 4096)),  # all but a page of it does
        ((2**28, 2**28 + 4096), (2**28, 2**28 + 4096)),
        (None, None),  # the system does not tell
    ],
)
def test_the_past_of_the_process_does_not_make_trainings_small(
    measured: Measurements, before: tuple[int, int] | None, after: tuple[int, int] | None
) -> None:
    shapes = min(len(measured.members), measured.pilot.cost.at_once) * measured.footprint.member
    assert shapes > 2**16
    rows = {row["stage"]: row for row in planning_rows.rows_of(replace(measured, before=before, after=after))}
    assert rows["base models"]["memory_bytes"] == shapes
    assert rows["comparison"]["memory_bytes"] >= shapes
    grown = planning_rows.rows_of(replace(measured, before=(2**28, 2**28), after=(2**28, 2**29)))
    assert {row["stage"]: row for row in grown}["base models"]["memory_bytes"] == 2**28


@pytest.mark.parametrize("method", ["secants", "grad-tag"])
def test_what_a_run_refuses_is_refused_before_anything_is_trained(
    tiny: Workload, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rehearsal has one base on a few examples, which would fit."""
    with pytest.raises(ResourceError) as real:
        run(tiny, method=method, memory=3000, **OPTIONS)
    monkeypatch.setattr(planning_measurements, "run_pilot", lambda *_: pytest.fail("models were trained"))
    with pytest.raises(ResourceError) as planned:
        plan(tiny, method=method, memory=3000, **OPTIONS)
    assert str(planned.value) == str(real.value)


@pytest.fixture(scope="module")
def measured(tiny: Workload) -> Measurements:
    """What was measured for a plan."""
    found: list[Measurements] = []

    def keep(measured: Measurements) -> list:
        found.append(measured)
        return planning_rows.rows_of(measured)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "rows_of", keep)
        plan(tiny, **OPTIONS)
    return found[0]


def test_methods_that_combine_gradients_train_groups_one_by_one(measured: Measurements) -> None:
    one = Timing(1.0, 1.0)
    pilot = replace(measured.pilot, cost=StepCost(100, one, one))
    measured = replace(measured, pilot=pilot, losses=Timing())
    plain, weighted, combined = (
        stage(
            {"rows": rows_of(replace(measured, request=replace(measured.request, balancing=as_balancing(name))))},
            "comparison",
        )
        for name in (None, "uncertainty", "pcgrad")
    )
    assert weighted["cpu_seconds"] == pytest.approx(plain["cpu_seconds"], rel=0.1)
    assert combined["cpu_seconds"] > 2 * plain["cpu_seconds"]
    assert combined["flops"] > plain["flops"]


def test_groups_of_many_tasks_are_counted_as_asked_for(measured: Measurements, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is rehearsed with 48 tasks, in which 100 groups would be single tasks."""
    assert count_search(tuple(str(i) for i in range(500)), 100, None, remembers=True).subsets > 0
    monkeypatch.setattr(planning_measurements, "TASKS", 1)
    n, counts = measured.request.workload.n_tasks, [2, 3]
    halves = [-(-n // k) for k in counts for _ in range(k)]
    asked = replace(measured, request=replace(measured.request, counts=counts))
    assert asked.members == [n, *[1] * n, *(size for size in halves if size > 1)]


@pytest.mark.parametrize(("tasks", "labels", "seeds"), [(2, 10, 2), (4, 50, 6), (24, 40, 4), (100, 20, 3)])
def test_the_table_of_a_comparison_is_as_large_as_planned(tasks: int, labels: int, seeds: int) -> None:
    names, n = tuple(f"t{t}" for t in range(tasks)), tasks * labels
    groupings = {JOINT: all_in_one(names), BASELINE: single_task(names)}
    task, row = np.repeat(np.arange(tasks), labels), np.tile(np.arange(labels), tasks)
    parts = {part: LabelLosses(np.ones((2, seeds, n), np.float32), task, row) for part in ("validation", "test")}
    means = [parts[part].means(tasks) for part in ("validation", "test")]
    real = Comparison(names, tuple(groupings), tuple(groupings.values()), tuple(range(seeds)), *means, parts)
    sizes = Sizes(
        state=0, tensors=0, n_tasks=tasks, members=0, seeds=seeds, candidates=2, labels=2 * n, member_labels=0, checks=0
    )
    assert sizes.table == pytest.approx(len(real.to_bytes()), rel=0.05, abs=300)


def test_a_unit_of_a_comparison_holds_parameters_and_losses_of_every_member() -> None:
    small = Sizes(
        state=1000, tensors=4, n_tasks=5, members=7, seeds=3, candidates=4, labels=60, member_labels=90, checks=2
    )
    assert small.unit == 7 * 1000 + 4 * 90
    assert small.held == 3 * small.unit + 2 * small.table
    large = replace(small, state=2**40)  # too much to keep
    assert large.unit == 4 * 90
    assert large.held == 3 * large.unit + 2 * large.table


def test_a_number_of_runs_leaves_fewer_seeds_in_what_is_stored(measured: Measurements) -> None:
    members = len(measured.members)
    for most, seeds in ((2 * members, 2), (5 * members, 5), (members // 2, 1)):
        asked = replace(measured, request=replace(measured.request, seeds=50, most=most))
        assert (asked.runs, asked.sizes.seeds) == (most, seeds)


def test_the_network_is_asked_about_new_subsets_only(tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NetworkValues remembers what it has evaluated."""

    def count(*_: object, remembers: bool) -> SearchCost:
        raise KeyError(remembers)

    monkeypatch.setattr(planning_measurements, "count_search", count)
    for method, remembers in (("grad-tag", True), ("secants", False)):
        with pytest.raises(KeyError, match=str(remembers)):
            plan(tiny, method=method, groups=2, seeds=1)


def test_the_smallest_number_of_runs_is_enough(tiny: Workload) -> None:
    """With one seed, what trains everything once leaves nothing to choose; all-in-one and alone are there anyway."""
    n = tiny.n_tasks
    for groups in (1, n):
        check_runs(tiny.n_tasks, groups, None, 2, 2 * (1 + n))
        with pytest.raises(SettingError, match=f"at least {2 * (1 + n)} for a final with 2 seeds"):
            check_runs(tiny.n_tasks, groups, None, 2, 2 * (1 + n) - 1)
    check_runs(tiny.n_tasks, None, None, 1, 1 + n + sum(k for k in (2, 3, 5) if k < n))


@pytest.mark.parametrize(
    ("steps", "best", "expected"),
    [(7, 7, 7.0), (4, 4, (34 * 100) ** 0.5), (4, 0, (30 * 100) ** 0.5), (4, 90, 100.0)],
    ids=["ended by itself", "still falling", "has not begun to fall", "the last epoch comes first"],
)
def test_a_training_that_was_cut_off_cannot_stop_before_its_patience(steps: int, best: int, expected: float) -> None:
    job, nothing = Job((0, 1), seed=0), np.full(2, np.nan)
    done = Fit(replace(job, max_steps=4), {}, steps, best, (), nothing, nothing)
    pilot = Pilot((done,), (), {job: 100}, {job: 30}, 4, Timing(), StepCost(1, Timing()))
    assert pilot.steps(done) == pytest.approx(expected)
