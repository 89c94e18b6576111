"""Successive halving with real trainings: counted, resumed, and held against the plain comparison."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from coterie._units import Payload
from coterie.errors import CoterieWarning, SettingError
from coterie.evaluation import compare
from coterie.evaluation.compare import affordable, as_groupings
from coterie.evaluation.labels import log_losses
from coterie.store import MemoryRun
from coterie.training import fit, units
from coterie.workload import Recipe, Workload, from_arrays

CANDIDATES = {
    "pairs": [[0, 1], [2, 3], [4]],
    "odd": [[1, 3], [0, 2, 4]],
    "low": [[0, 1, 2], [3, 4]],
    "ends": [[0, 4], [1, 2, 3]],
}
#: 8 distinct groups beside the 6 simple models
PLAIN, RUNS = 3 * (6 + 8), 34


@pytest.fixture(scope="module")
def work() -> Workload:
    x, y = load_digits(return_X_y=True)
    recipe = Recipe(learning_rate=5e-3, batch_size=50, check_every=4, patience=2, epochs=2)
    return from_arrays(x[:240], (y[:240, None] == np.arange(5)).astype(float), recipe=recipe, hidden=(8,))


@pytest.fixture(scope="module")
def plain(work):
    return compare(work, CANDIDATES, seeds=3).comparison


class Counting:
    """Stands in for `fit` and counts what it trains."""

    def __init__(self) -> None:
        self.jobs: Counter[tuple[tuple[int, ...], int]] = Counter()

    def __call__(self, workload, jobs, **options):
        self.jobs.update((job.subset, job.seed) for job in jobs)
        return fit(workload, jobs, **options)


@pytest.fixture
def counted(monkeypatch):
    counting = Counting()
    monkeypatch.setattr(units, "fit", counting)
    return counting.jobs


def test_a_budget_for_everything_equals_the_plain_comparison(work, plain, counted):
    trained = compare(work, CANDIDATES, seeds=3, runs=PLAIN)
    found = trained.comparison
    assert found.candidates == plain.candidates
    assert found.seeds == plain.seeds
    assert np.array_equal(found.validation, plain.validation)
    assert np.array_equal(found.test, plain.test)
    for part in ("validation", "test"):
        assert np.array_equal(found.labels[part].values, plain.labels[part].values)
    assert {key: value for key, value in found.to_dict().items() if key != "halving"} == plain.to_dict()
    assert found.halving is not None
    assert (found.halving.rungs, found.halving.spent) == ((), PLAIN)
    assert sum(counted.values()) == PLAIN
    assert not trained.raced


def test_no_more_is_trained_than_was_allowed(work, plain, counted):
    trained = compare(work, CANDIDATES, seeds=3, runs=RUNS)
    record = trained.comparison.halving
    assert max(counted.values()) == 1
    assert sum(counted.values()) == record.spent <= RUNS
    assert set(counted) == set(trained.fits) | set(trained.raced)
    assert record.rungs
    assert record.eliminated
    assert record.finalists == trained.comparison.candidates
    assert {"all-in-one", "single-task"} < set(record.finalists)
    # whoever came through was trained with the seeds of the plain comparison, and lost the same
    rows = [plain.index(name) for name in record.finalists]
    for part in ("validation", "test"):
        expected = plain.losses(part)[rows][:, : len(record.seeds)]
        assert trained.comparison.losses(part) == pytest.approx(expected, rel=1e-4)


def test_rungs_judge_on_validation_losses_of_their_own_seeds(work):
    trained = compare(work, CANDIDATES, seeds=3, runs=RUNS)
    rung = trained.comparison.halving.rungs[0]
    again = compare(work, CANDIDATES, seeds=rung.seeds).comparison
    for standing in rung.standings:
        own = again.part("validation")
        expected = np.exp(log_losses(own.means[again.index(standing.name)], own.floor).mean())
        assert standing.loss == pytest.approx(expected, rel=1e-4)
    assert all(not fitted.state for fitted in trained.raced.values())


class _Killed(Exception):
    pass


class Killable(MemoryRun):
    """A store whose process dies before the unit of a given number."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10**9
        self.names: list[str] = []

    def unit(self, name, key, compute) -> Payload:
        def counted() -> Payload:
            if not self.left:
                raise _Killed
            payload = compute()  # raises where the store is only asked whether it has the unit
            self.left -= 1
            self.names.append(name)
            return payload

        return super().unit(name, key, counted)


def test_a_killed_comparison_goes_on_where_it_was(work):
    whole = Killable()
    expected = compare(work, CANDIDATES, seeds=3, runs=RUNS, store=whole).comparison
    assert {"halving", "compare", "trained together"} == set(whole.names)
    store = Killable()
    for _ in range(len(whole.names)):
        store.left = 1
        try:
            compare(work, CANDIDATES, seeds=3, runs=RUNS, store=store)
        except _Killed:
            continue
    store.left = 10**9
    found = compare(work, CANDIDATES, seeds=3, runs=RUNS, store=store).comparison
    assert store.names == whole.names
    assert found.to_dict() == expected.to_dict()


@pytest.mark.parametrize("bad", [0, -3, 1.5, "many", True])
def test_other_budgets_are_refused(work, bad):
    with pytest.raises(SettingError, match="runs"):
        compare(work, CANDIDATES, runs=bad)


def test_a_budget_without_a_use_says_what_would_do(work, counted):
    with pytest.raises(SettingError, match=r"at least (\d+) for these candidates") as caught:
        compare(work, CANDIDATES, seeds=3, runs=10)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert not counted
    assert compare(work, CANDIDATES, seeds=3, runs=least).comparison.halving.spent <= least


def test_candidates_that_cannot_be_served_take_no_runs(work, counted):
    found = compare(work, CANDIDATES, seeds=2, runs=40, budget=2).comparison
    assert found.halving.refused == ("pairs",)
    assert "pairs" not in found.candidates
    assert ((0, 1), 0) not in counted


def test_candidates_out_of_long_work_are_cut_to_the_budget(work):
    everything = as_groupings(CANDIDATES, work.task_names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert affordable(everything, 3, None) == everything
        assert affordable(everything, 3, RUNS) == everything
    with pytest.warns(CoterieWarning) as caught:
        kept = affordable(everything, 3, 22)
    assert ["'ends' is left out" in str(caught[0].message), "'low' is left out" in str(caught[1].message)] == [True] * 2
    assert kept
    assert list(kept) == list(everything)[: len(kept)]
    assert compare(work, kept, seeds=3, runs=22).comparison.halving.spent <= 22
    with pytest.warns(CoterieWarning):
        assert affordable(everything, 3, 1) == {}
