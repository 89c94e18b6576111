"""Banks of really trained subsets: drawing, training, resuming."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie import Context
from coterie._units import NoStore
from coterie.errors import SettingError
from coterie.evaluation import bank
from coterie.evaluation.bank import Runs, draw_subsets, train_subsets
from coterie.store import MemoryRun, RunDirectory
from coterie.training import fit, measure_cost, units
from coterie.training.job import Job
from reference.training_workloads import make

SUBSETS = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]], dtype=bool)


def tuples(subsets):
    return [tuple(np.flatnonzero(row).tolist()) for row in subsets]


@given(st.integers(0, 2**16), st.integers(0, 25), st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True))
def test_drawn_subsets_are_distinct_and_sizes_take_turns(seed, count, sizes):
    # 40 tasks have enough subsets of each size
    drawn = draw_subsets(40, count, sizes, seed)
    assert drawn.shape == (count, 40)
    assert drawn.dtype == bool
    assert len(set(tuples(drawn))) == count
    assert drawn.sum(1).tolist() == [sizes[turn % len(sizes)] for turn in range(count)]


@given(st.integers(0, 2**16), st.integers(0, 20), st.integers(0, 10))
def test_more_subsets_begin_with_the_same_ones(seed, count, more):
    few, many = (draw_subsets(8, number, (2, 3), seed) for number in (count, count + more))
    np.testing.assert_array_equal(many[:count], few)


def test_seeds_draw_different_subsets():
    assert tuples(draw_subsets(20, 10, (5,), 1)) != tuples(draw_subsets(20, 10, (5,), 2))


def test_every_subset_can_be_drawn_and_only_once():
    """All subsets of a size come before a size that still has some is used alone."""
    drawn = tuples(draw_subsets(5, 20, (2, 3), seed=3))
    assert sorted(drawn) == sorted([*combinations(range(5), 2), *combinations(range(5), 3)])
    rest = tuples(draw_subsets(5, 13, (4, 2), seed=3))
    assert [len(subset) for subset in rest] == [4, 2] * 5 + [2] * 3


def test_tasks_are_drawn_equally_often():
    share = np.mean([draw_subsets(10, 1, (3,), seed)[0] for seed in range(1200)], 0)
    assert np.abs(share - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 1200)


def test_without():
    first = draw_subsets(6, 12, (2, 3), seed=0)
    second = draw_subsets(6, 23, (2, 3), seed=1, without=first)  # all that are left
    assert not set(tuples(first)) & set(tuples(second))
    assert len(set(tuples(second))) == 23
    other_size = draw_subsets(6, 15, (2,), seed=1, without=np.ones((1, 6), dtype=bool))
    assert len(other_size) == 15


@pytest.mark.parametrize(
    ("n_tasks", "count", "sizes", "without", "left"),
    [
        (4, 7, (2,), None, 6),
        (4, 11, (2, 3), None, 10),
        (4, 6, (2,), SUBSETS, 3),
        (3, 1, (5,), None, 0),
    ],
)
def test_too_many(n_tasks, count, sizes, without, left):
    with pytest.raises(SettingError, match=rf"`count`.*have only {left} subsets .* left\. Found {count}\."):
        draw_subsets(n_tasks, count, sizes, seed=0, without=without)


def test_a_trained_bank_is_what_training_one_by_one_gives():
    workload = make("regression", missing=0.2)
    runs = train_subsets(workload, SUBSETS, 2, name="test")
    assert runs.values.shape == (2, 5, 4)
    assert runs.replicates == 2
    assert not runs.common
    for replicate in range(2):
        for index, subset in enumerate(tuples(SUBSETS)):
            seed = bank.INDEPENDENT * (replicate + 1) + index
            alone = fit(workload, [Job(subset, seed)], backend="loop")[0]
            np.testing.assert_allclose(runs.values[replicate, index], alone.validation, rtol=1e-4)
    np.testing.assert_array_equal(np.isnan(runs.values), np.broadcast_to(~SUBSETS, (2, 5, 4)))
    np.testing.assert_allclose(runs.truth, (runs.values[0] + runs.values[1]) / 2)


def test_blocks_change_nothing(monkeypatch):
    workload = make("binary")
    whole = train_subsets(workload, SUBSETS, 1, name="test")
    monkeypatch.setattr(bank, "BLOCK", 2)
    parts = train_subsets(workload, SUBSETS, 1, name="test")
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-5)
    np.testing.assert_array_equal(parts.flops, whole.flops)


def jobs_of(monkeypatch, **options):
    """The jobs that a bank of twice the same subset asks for."""
    seen = []
    real = units.fit
    monkeypatch.setattr(units, "fit", lambda work, jobs, **rest: seen.extend(jobs) or real(work, jobs, **rest))
    runs = train_subsets(make("regression"), SUBSETS[[0, 0, 1]], 3, name="test", **options)
    return seen, runs


def test_independent_trainings_share_no_seed(monkeypatch):
    jobs, runs = jobs_of(monkeypatch)
    assert len({job.seed for job in jobs}) == len({job.order for job in jobs}) == 9
    assert len(np.unique(runs.values[:, :2, 0])) == 6


def test_common_random_numbers_are_shared_by_the_subsets_of_a_replicate(monkeypatch):
    jobs, runs = jobs_of(monkeypatch, common=True)
    assert runs.common
    assert [len({job.seed for job in jobs[start : start + 3]}) for start in (0, 3, 6)] == [1, 1, 1]
    assert len({job.seed for job in jobs}) == 3
    np.testing.assert_allclose(runs.values[:, 0], runs.values[:, 1], rtol=1e-6)  # the same subset twice
    assert len(np.unique(runs.values[:, 0, 0])) == 3


def test_common_and_independent_seeds_never_meet():
    plenty = np.ones((400, 3), dtype=bool)
    independent = {job.seed for replicate in range(10) for job in bank._jobs(plenty, 0, replicate, False)}
    common = {job.seed for replicate in range(10) for job in bank._jobs(plenty, 0, replicate, True)}
    assert len(independent) == 4000
    assert len(common) == 10
    assert not common & independent


class Fragile:
    """A store that is killed before the unit of that number, counted over all units that were computed."""

    def __init__(self, inner, at=None):
        self.inner, self.at, self.computed, self.asked = inner, at, 0, 0

    def unit(self, name, key, compute):
        self.asked += 1

        def counted():
            if self.computed == self.at:
                raise KeyboardInterrupt
            self.computed += 1
            return compute()

        return self.inner.unit(name, key, counted)


@pytest.mark.parametrize("at", [0, 1, 4, 5])
def test_a_killed_bank_goes_on_and_computes_only_the_rest(at, tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "BLOCK", 2)
    workload = make("regression")

    def train(store):
        return train_subsets(workload, SUBSETS, 2, name="test", context=Context(store=store))

    whole = train(NoStore())
    with RunDirectory(tmp_path, fingerprint="f", settings={}) as run, pytest.raises(KeyboardInterrupt):
        train(Fragile(run, at))
    with RunDirectory(tmp_path, fingerprint="f", settings={}) as run:
        rest = Fragile(run)
        resumed = train(rest)
        assert (rest.asked, rest.computed) == (6, 6 - at)  # two replicates of three blocks
        again = train(Fragile(run, at=0))  # nothing is left to compute
    for runs in (resumed, again):
        np.testing.assert_array_equal(runs.values, whole.values)
        np.testing.assert_array_equal(runs.flops, whole.flops)
        np.testing.assert_array_equal(runs.subsets, SUBSETS)
    assert again.seconds == pytest.approx(resumed.seconds)  # those of the earlier process
    assert resumed.seconds > 0


def test_more_replicates_and_more_subsets_find_the_earlier_units(monkeypatch):
    monkeypatch.setattr(bank, "BLOCK", 2)
    workload, store = make("regression"), MemoryRun()
    first = train_subsets(workload, SUBSETS[:4], 1, name="test", context=Context(store=store))
    counted = Fragile(store)
    second = train_subsets(workload, SUBSETS, 3, name="test", context=Context(store=counted))
    assert (counted.asked, counted.computed) == (9, 7)
    np.testing.assert_array_equal(second.values[:1, :4], first.values)


@pytest.mark.parametrize("change", [{"name": "other"}, {"common": True}])
def test_other_trainings_are_other_units(change):
    workload, store = make("regression"), MemoryRun()
    options = {"name": "test", "common": False}
    train_subsets(workload, SUBSETS, 1, **options, context=Context(store=store))
    counted = Fragile(store)
    train_subsets(workload, SUBSETS, 1, **{**options, **change}, context=Context(store=counted))
    assert counted.computed == 1


def test_flops_are_those_of_the_steps_and_checks():
    """No early stopping here: every training takes all of its steps, so they can be counted by hand."""
    workload = make("regression", epochs=2, batch_size=9, check_every=4, patience=99)
    runs = train_subsets(workload, SUBSETS, 1, name="test")
    unit = measure_cost(workload)
    # 36 training rows make 4 steps of 9 an epoch; checks at steps 0, 4 and 8 see 12 rows
    np.testing.assert_allclose(runs.flops, 2 * 36 * unit.training + 3 * 12 * unit.forward)
    assert (runs.flops > 0).all()
    assert runs.run_flops == pytest.approx(float(runs.flops[0, 0]))


def test_progress_rises_to_the_number_of_trainings(monkeypatch):
    monkeypatch.setattr(bank, "BLOCK", 2)
    told = []
    train_subsets(make("regression"), SUBSETS, 2, name="x", context=Context(progress=lambda *news: told.append(news)))
    assert {(stage, total) for stage, _, total in told} == {("bank: x", 10)}
    done = [count for _, count, _ in told]
    assert done == sorted(done)
    assert done[-1] == 10


@pytest.mark.parametrize("keep", [np.array([True, False, True, False, False]), np.array([0, 2]), slice(0, 3, 2)])
def test_select(keep):
    values = np.arange(40.0).reshape(2, 5, 4)
    runs = Runs(SUBSETS, values, np.arange(10.0).reshape(2, 5), seconds=3.0, common=True)
    some = runs.select(keep)
    np.testing.assert_array_equal(some.subsets, SUBSETS[[0, 2]])
    np.testing.assert_array_equal(some.values, values[:, [0, 2]])
    np.testing.assert_array_equal(some.flops, [[0, 2], [5, 7]])
    assert (some.replicates, some.run_flops, some.common) == (2, 3.5, True)
