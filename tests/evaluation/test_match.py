"""Measures of pairs against plain loops, and the worth of groupings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie import Context
from coterie.errors import SettingError
from coterie.evaluation.bank import draw_subsets
from coterie.evaluation.bank_plan import BankPlan, draw_pairs
from coterie.evaluation.regret import Total, random_grouping, regrets, total, train_groups
from coterie.evaluation.skill import match, pair_matrix
from coterie.grouping import Grouping
from coterie.store import MemoryRun
from reference import skill as plain
from reference.training_workloads import make


def example(seed: int, tasks: int = 7, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(tasks, tasks))
    predicted = true + rng.normal(size=(tasks, tasks))
    if ties:
        predicted, true = predicted.round(0), true.round(1)
    for matrix in (predicted, true):
        np.fill_diagonal(matrix, np.nan)
    a, b = np.nonzero(np.triu(rng.random((tasks, tasks)) < 0.15, 1))
    true[a, b] = true[b, a] = np.nan
    return predicted, true


@pytest.mark.parametrize("seed", range(6))
def test_pair_measures_equal_plain_loops(seed: int) -> None:
    predicted, true = example(seed)
    found, expected = match(predicted, true), plain.match(predicted, true)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(expected)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_rankings_need_the_order_only(seed: int, scale: float) -> None:
    predicted, true = example(seed, ties=False)
    found, other = match(predicted, true), match(np.exp(scale * predicted), true)
    order = np.random.default_rng(seed).permutation(len(true))
    moved = match(predicted[np.ix_(order, order)], true[np.ix_(order, order)])
    for name in ("kendall", "spearman", "hits", "regret", "separation"):
        assert other[name].value == pytest.approx(found[name].value) or name == "separation"
        assert moved[name].value == pytest.approx(found[name].value)
    assert match(np.exp(scale * predicted) - 1e-9, true)["separation"].value == pytest.approx(found["separation"].value)
    perfect = match(true, true)
    assert perfect["hits"].value == perfect["sign"].value == perfect["separation"].value == 1
    assert perfect["correlation"].value == pytest.approx(1)
    assert perfect["regret"].value == 0


def test_scores_that_say_nothing_are_worth_what_chance_is_worth() -> None:
    _, true = example(0, ties=False)
    found = match(np.ones_like(true), true, resamples=50)
    assert found["kendall"].value == found["spearman"].value == found["correlation"].value == 0
    assert found["hits"].value == pytest.approx(found["chance"].value)
    assert found["regret"].value == pytest.approx(found["chance_regret"].value)
    assert found["separation"].value == 0.5
    assert found["hits"].interval().low <= found["hits"].value <= found["hits"].interval().high
    nothing = match(np.full_like(true, np.nan), true)
    assert all(math.isnan(figure.value) for figure in nothing.values())


def test_pairs_as_a_matrix() -> None:
    subsets = np.array([[True, False, True], [True, True, False]])
    found = pair_matrix(subsets, np.array([[0.1, np.nan, 0.2], [0.3, 0.4, np.nan]]))
    assert (found[0, 2], found[2, 0], found[0, 1], found[1, 0]) == (0.1, 0.2, 0.3, 0.4)
    assert np.isnan(found[1, 2])
    assert np.isnan(np.diag(found)).all()


def test_totals_are_geometric_means_over_the_serving_groups() -> None:
    tasks = ("a", "b", "c")
    rng = np.random.default_rng(0)
    runs = {(0, 1): rng.uniform(1, 2, (4, 3)), (2,): rng.uniform(1, 2, (6, 3)), (1, 2): rng.uniform(1, 2, (4, 3))}
    grouping = Grouping(tasks, ((0, 1), (2,), (2, 1)), serves=(0, 2, 1))
    expected = (np.log(runs[0, 1][:, 0]).mean() + np.log(runs[1, 2][:, 1]).mean() + np.log(runs[2,][:, 2]).mean()) / 3
    own = total(grouping, runs)
    assert own.log == pytest.approx(expected)
    reference = Total(0.1, 1e-4, 5.0)
    gain = own.gain(reference)
    assert gain.mean == pytest.approx(1 - math.exp(expected - 0.1))
    assert gain.low < gain.mean < gain.high
    assert vars(own.gain(own)) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    alone = total(Grouping(tasks, ((0, 1, 2),), (0, 0, 0)), {(0, 1, 2): np.ones((1, 3))})
    assert math.isnan(alone.gain(reference).low)


def test_intervals_of_gains_cover() -> None:
    rng, hits, rounds = np.random.default_rng(1), 0, 400
    grouping = Grouping(("a", "b"), ((0,), (1,)), (0, 1))
    for _ in range(rounds):
        own, other = ({(t,): np.exp(level + 0.1 * rng.normal(size=(4, 2))) for t in range(2)} for level in (0.2, 0.3))
        gain = total(grouping, own).gain(total(grouping, other))
        hits += gain.low <= 1 - math.exp(-0.1) <= gain.high
    assert 0.91 < hits / rounds < 0.985


def test_regrets_and_random_groups() -> None:
    assert regrets({"a": -0.1, "b": 0.3, "c": 0.3}) == pytest.approx({"a": 0.4, "b": 0.0, "c": 0.0})
    names = tuple(map(str, range(11)))
    found = [random_grouping(names, 3, seed) for seed in range(5)]
    assert all(sorted(map(len, grouping.groups)) == [3, 4, 4] for grouping in found)
    assert len({grouping.groups for grouping in found}) == 5
    assert random_grouping(names, 3, 0) == random_grouping(names, 3, 0)


class Counting(MemoryRun):
    """Counts the units that were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0

    def unit(self, name, key, compute):
        def counted():
            payload = compute()
            self.computed += 1
            return payload

        return super().unit(name, key, counted)


def test_groups_are_trained_once_wherever_they_come_from() -> None:
    work, store = make(epochs=2), Counting()
    first = train_groups(work, [(1, 0), (2,)], 2, context=Context(store=store))
    assert store.computed == 4
    assert first[0, 1].shape == (2, work.n_tasks)
    assert np.isnan(first[0, 1][:, 2]).all()
    assert len(np.unique(first[0, 1][:, 0])) == 2  # seeds differ
    again = train_groups(work, [(0, 1), (0, 2)], 3, context=Context(store=store))
    assert store.computed == 4 + 1 + 3
    np.testing.assert_array_equal(again[0, 1][:2], first[0, 1])
    anew = train_groups(work, [(0, 2), (0, 1)], 3)
    np.testing.assert_allclose(anew[0, 1], again[0, 1], rtol=1e-5)


def test_plans_of_banks() -> None:
    small, large = BankPlan((2, 3), subsets=8, pool=5, pairs=10), BankPlan((2, 3), subsets=12, pool=5, pairs=21)
    first, second = small.draw(9), large.draw(9)
    for part in ("test", "pairs"):
        np.testing.assert_array_equal(second[part][: len(first[part])], first[part])
    rows = {tuple(row) for row in first["test"]} | {tuple(row) for row in first["pool"]}
    assert len(rows) == 13
    assert small.trainings(9) == 8 * 10 + 5 + 10 * 6 + 10 * 4
    tiny = BankPlan((2,)).draw(4)
    assert [len(tiny[part]) for part in ("test", "pool", "pairs", "alone", "everything")] == [6, 0, 6, 4, 1]
    partners = draw_pairs(30, 10, 0).astype(int)
    assert (partners.T @ partners).astype(bool).sum() == 25  # all pairs of five tasks
    assert len(draw_subsets(9, 5, (2,), 0)) == 5


@pytest.mark.parametrize(
    ("settings_of", "words"),
    [
        ({"sizes": ()}, "sizes"),
        ({"sizes": (1,)}, "sizes"),
        ({"sizes": (2, 2)}, "sizes"),
        ({"sizes": (2,), "subsets": 1}, "subsets"),
        ({"sizes": (2,), "replicates": 0}, "replicates"),
        ({"sizes": (2,), "pairs": 1.5}, "pairs"),
    ],
)
def test_plans_that_cannot_be_meant(settings_of: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        BankPlan(**settings_of)
    with pytest.raises(SettingError, match="cannot be drawn from 4"):
        BankPlan((5,)).draw(4)
