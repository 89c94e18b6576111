"""Comparisons of groupings that somebody else trains: as with our own training, and honest without examples."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest

import coterie
from coterie.errors import CoterieWarning, DataWarning, ModelError, SettingError
from coterie.evaluation import compare
from coterie.evaluation.recommend import conclude
from coterie.store import MemoryRun
from coterie.training import FunctionTrainer, Outcome
from reference.own_trainers import Ridge, through_torch, without_examples
from reference.training_workloads import make

GROUPS = {"pairs": [[0, 1], [2, 3]], "crossed": [[0, 2], [1, 3]], "bad": [[0, 3], [1, 2]]}
pytestmark = pytest.mark.filterwarnings("ignore:Models are trained one after the other")


def trainer(function=None) -> FunctionTrainer:
    return FunctionTrainer(function or Ridge(), ["a1", "a2", "b1", "b2"])


@pytest.mark.parametrize("runs", [None, 22])
def test_the_same_losses_give_the_same_comparison(runs):
    work = make(rows=120, missing=0.1)
    tasks = work.task_names
    candidates = {"first": [tasks[:2], tasks[2:]], "second": [[tasks[0], tasks[-1]], tasks[1:-1]]}
    own = compare(work, candidates, seeds=2, runs=runs).comparison
    theirs = compare(FunctionTrainer(partial(through_torch, work), tasks), candidates, seeds=2, runs=runs).comparison
    assert own.candidates == theirs.candidates
    for part in ("validation", "test"):
        np.testing.assert_allclose(theirs.losses(part), own.losses(part), rtol=1e-4)
        assert np.array_equal(own.labels[part].task, theirs.labels[part].task)
        # numbered in another way, but the same labels belong to one example
        pairs = set(zip(own.labels[part].row.tolist(), theirs.labels[part].row.tolist(), strict=True))
        assert len(pairs) == len(np.unique(own.labels[part].row)) == len(np.unique(theirs.labels[part].row))


def test_numpy_alone_finds_who_belongs_together():
    found = compare(trainer(), GROUPS, seeds=6)
    _, advice = conclude(found.comparison)
    assert (advice.candidate, advice.verdict) == ("pairs", "yes")
    assert found.comparison.to_dict()["interval"] == "95 % interval over 6 training seeds and the examples"
    assert len(found.runs) == 6 * (1 + 4 + 6)
    assert not found.fits


def test_without_examples_intervals_cover_seeds_and_say_so():
    with pytest.warns(DataWarning, match="reports no test losses"):
        found = compare(trainer(without_examples(Ridge())), GROUPS, seeds=6).comparison
    assert not found.labels
    assert np.array_equal(found.test, found.validation)
    assert found.to_dict()["interval"] == "95 % interval over 6 training seeds"
    whole = compare(trainer(), GROUPS, seeds=6).comparison
    np.testing.assert_allclose(found.validation, whole.validation, rtol=1e-5)
    near, far = found.total("pairs", "validation"), whole.total("pairs", "validation")
    assert near.high - near.low < far.high - far.low


@pytest.mark.parametrize("function", [None, without_examples(Ridge())], ids=["examples", "means"])
@pytest.mark.filterwarnings("ignore:.*reports no test losses")
def test_halving_with_a_trainer(function):
    calls = MemoryRun()
    record = compare(trainer(function), GROUPS, seeds=3, runs=26, store=calls).comparison.halving
    assert record is not None
    assert record.finalists[1] == "pairs"
    assert record.spent <= 26


def test_what_was_done_is_not_done_again():
    done = list[int]()
    ridge = Ridge()

    def train(tasks, seed):
        done.append(seed)
        return ridge(tasks, seed)

    store = MemoryRun()
    compare(trainer(train), GROUPS, seeds=2, store=store)
    first = len(done)
    compare(trainer(train), GROUPS, seeds=3, store=store)
    assert (first, len(done)) == (22, 33)


def test_own_lengths_are_own_examples():
    """Tasks with data sets of their own: examples of different tasks are not taken for the same ones."""

    def train(tasks, seed):
        rng = np.random.default_rng((seed, len(tasks)))
        return Outcome({task: rng.random(5 + ord(task[0]) + int(task[1])) for task in tasks})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoterieWarning)
        labels = compare(trainer(train), {}, seeds=2).comparison.labels["validation"]
    assert len(np.unique(labels.row)) == len(labels.row)


@pytest.mark.parametrize("change", ["length", "missing"])
def test_other_examples_from_run_to_run_are_refused(change):
    def train(tasks, seed):
        losses = np.ones(5 + (seed if change == "length" else 0))
        if change == "missing":
            losses[seed] = np.nan
        return Outcome(dict.fromkeys(tasks, losses), dict.fromkeys(tasks, 1.0))

    with pytest.raises(ModelError, match="different examples of task 'a1'"):
        compare(trainer(train), {}, seeds=2)


def test_tests_now_and_then_are_refused():
    def train(tasks, seed):
        return Outcome(dict.fromkeys(tasks, 1.0), dict.fromkeys(tasks, 1.0) if seed else None)

    with pytest.raises(ModelError, match="Report them always, or never"):
        compare(trainer(train), {}, seeds=2)


def test_what_is_no_trainer():
    with pytest.raises(SettingError, match=r"a Workload, or a trainer.*Found function\. Write FunctionTrainer"):
        compare(Ridge().__call__.__func__, {})
    with pytest.raises(SettingError, match="`balancing`='famo' needs a torch workload"):
        compare(trainer(), GROUPS, balancing="famo")


def test_nothing_is_served_from_a_trainer_that_keeps_its_models():
    found = compare(trainer(), {}, seeds=1)
    with pytest.raises(SettingError, match="none can be served"):
        found.best_state((0,), 2**30, MemoryRun())
    assert isinstance(found.comparison, coterie.Comparison)
