"""Grouping by what a gain model predicts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.grouping import group
from coterie.grouping.objective import GainObjective
from coterie.grouping.search.local import search
from reference.partitions import groups_of, neighbours, set_partitions


class TableModel:
    """Predicts from a table of all subsets; counts how many it was asked for."""

    def __init__(self, seed, n, alone=np.nan):
        generator = np.random.default_rng(seed)
        self.tasks = tuple(f"t{i}" for i in range(n))
        self.table = generator.normal(scale=0.1, size=(1 << n, n))
        for i in range(n):
            self.table[1 << i] = alone
        self.asked = 0

    def predict(self, subsets):
        subsets = np.asarray(subsets, dtype=bool)
        self.asked += len(subsets)
        codes = subsets @ (1 << np.arange(subsets.shape[1]))
        return np.where(subsets, self.table[codes], np.nan)

    def pairwise(self):
        n = len(self.tasks)
        values = np.full((n, n), np.nan)
        for i in range(n):
            for j in range(n):
                if i != j:
                    values[i, j] = self.table[(1 << i) | (1 << j), i]
        return values


def plain_gain(model, partition):
    """Mean over tasks, by loops; a task alone gains nothing."""
    total = 0.0
    for members in partition:
        code = sum(1 << task for task in members)
        if len(members) > 1:
            total += sum(model.table[code, task] for task in members)
    return total / len(model.tasks)


def best_gain(model, k=None):
    every = (p for p in set_partitions(list(range(len(model.tasks)))) if k is None or len(p) == k)
    return max(plain_gain(model, p) for p in every)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 6), data=st.data())
def test_objective_is_the_mean_predicted_gain_and_exhaustive_is_the_best(seed, n, data):
    k = data.draw(st.none() | st.integers(1, n))
    model = TableModel(seed, n)
    found = group(model, k)
    assert found.tasks == model.tasks
    assert found.objective == pytest.approx(plain_gain(model, found.groups))
    assert found.bound is None
    assert k is None or found.n_groups == k
    best = best_gain(model, k)
    assert found.objective <= best + 1e-9
    assert group(model, k, method="exhaustive").objective == pytest.approx(best)


def test_search_mostly_finds_the_best_grouping_even_when_gains_are_not_pairwise():
    """Gains of larger groups are independent of those of pairs here, the hardest case. Measured: 29 of 30."""
    hits = sum(group(TableModel(seed, 6)).objective >= best_gain(TableModel(seed, 6)) - 1e-9 for seed in range(30))
    assert hits >= 26


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 7))
def test_search_never_lowers_and_ends_in_a_local_optimum(seed, n):
    model = TableModel(seed, n)
    start = np.random.default_rng(seed).integers(0, n, size=n)
    final = search(GainObjective(model, np.arange(n)), start)
    reached = plain_gain(model, groups_of(final))
    assert reached >= plain_gain(model, groups_of(start)) - 1e-12
    assert len(set(final)) == len(set(start))
    assert all(plain_gain(model, groups_of(other)) <= reached + 1e-8 for other in neighbours(final))


def test_nothing_is_asked_twice():
    model = TableModel(0, 7)
    group(model)
    assert model.asked < 1 << 7


def test_harmful_company_means_single_tasks_and_helpful_company_one_group():
    harmful, helpful = TableModel(0, 5), TableModel(0, 5)
    harmful.table, helpful.table = -np.abs(harmful.table), np.abs(helpful.table) * 0 + 0.2
    for model in (harmful, helpful):
        model.table[[1 << i for i in range(5)]] = 0.0
    assert group(harmful).n_groups == 5
    assert group(helpful).n_groups == 1


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_of_the_tasks_does_not_matter(seed):
    model, n = TableModel(seed, 5), 5
    order = np.random.default_rng(seed).permutation(n)

    class Shuffled:
        tasks = tuple(model.tasks[i] for i in order)

        def predict(self, subsets):
            inverse = np.argsort(order)
            return model.predict(np.asarray(subsets)[:, inverse])[:, order]

        def pairwise(self):
            return model.pairwise()[np.ix_(order, order)]

    plain, other = group(model, 2), group(Shuffled(), 2)
    assert {frozenset(g) for g in plain.names} == {frozenset(g) for g in other.names}
    assert other.objective == pytest.approx(plain.objective)


def test_a_prediction_that_is_no_number_is_named():
    model = TableModel(0, 4)
    model.table[0b0111, 1] = np.nan
    with pytest.raises(SettingError, match=r"nan for task 't1' in the group \['t0', 't1', 't2'\]"):
        group(model, method="exhaustive")


def test_a_model_of_this_library_is_accepted():
    gain_model = pytest.importorskip("coterie.affinity.gain_model")
    affinity = pytest.importorskip("coterie.affinity.affinity")
    if not hasattr(gain_model, "PairwiseGainModel"):
        gain_model = pytest.importorskip("coterie.affinity")
    values = np.kron(np.eye(2), np.full((3, 3), 0.2)) - 0.1
    np.fill_diagonal(values, 0.0)
    names = tuple("abcdef")
    given = affinity.Affinity(values, names, None, "gain", "test")
    by_matrix, by_model = group(given), group(gain_model.PairwiseGainModel(given))
    assert by_matrix.names == by_model.names == (("a", "b", "c"), ("d", "e", "f"))
    assert by_model.objective == pytest.approx(0.1)
