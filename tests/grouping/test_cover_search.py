"""Selection for many tasks: search and bound, against the exact optimum where it is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie import Context
from coterie.affinity import Affinity, PairwiseGainModel
from coterie.errors import SettingError
from coterie.grouping import Costs, Limit, select_groups
from coterie.grouping.cover.bound import EnumeratedPricing, Pricing, upper_bound
from coterie.grouping.cover.large import search_cover
from coterie.grouping.cover.select import read_cover
from reference.cover import all_groups, rows, score


def random_matrix(seed, n):
    return np.random.default_rng(seed).normal(size=(n, n))


def planted(seed, n, k, noise):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    return (labels[:, None] == labels) + noise * rng.normal(size=(n, n)), labels


def pricing_limit(problem):
    """What every task would have with its best partner, or alone."""
    return problem.scores.pairs().max(axis=1).mean()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 8), st.integers(1, 3), st.booleans())
def test_search_and_bound_enclose_the_optimum(seed, n, budget, scored):
    matrix = random_matrix(seed, n)
    singletons = "diagonal" if scored else "forbidden"
    exact = select_groups(matrix, budget, singletons=singletons)
    found = select_groups(matrix, budget, singletons=singletons, solver="search")
    assert found.objective <= exact.objective + 1e-9
    assert found.bound >= exact.objective - 1e-9
    assert found.bound <= exact.objective + 0.2  # measured: 0.02 at most on such matrices
    problem = read_cover(matrix, budget, singletons, None, None)
    rough = upper_bound(problem, found.subsets, pricing=Pricing(problem, problem.scores), steps=40) / n
    assert rough >= exact.objective - 1e-9
    assert rough <= pricing_limit(problem) + 1e-9
    assert found.details["gap"] == pytest.approx(found.bound - found.objective)


def test_search_finds_nearly_all_small_optima():
    missed = []
    for seed in range(8):
        matrix, budget = random_matrix(seed, 10), 2 + seed % 3
        found = search_cover(read_cover(matrix, budget, None, None, None), patience=15)
        value = rows(10, [np.flatnonzero(g).tolist() for g in found], lambda g, t: score(matrix, g, t)).max(axis=0)  # noqa: B023
        missed.append(select_groups(matrix, budget).objective - value.mean())
    assert min(missed) > -1e-9
    assert sum(miss > 1e-9 for miss in missed) <= 2
    assert max(missed) < 0.05


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.booleans())
def test_no_group_is_worth_more_than_its_bound(seed, n, costly):
    rng = np.random.default_rng(seed)
    matrix, prices = rng.normal(size=(n, n)), rng.normal(size=n)
    costs = Costs(0.5, tuple(rng.uniform(0, 1, n))) if costly else None
    problem = read_cover(matrix, 2.0 * n if costly else 2, "diagonal", costs, None)
    groups = all_groups(n)
    table = rows(n, groups, lambda group, task: score(matrix, group, task, np.diag(matrix)))
    worth = np.maximum(table - prices, 0.0).sum(axis=1)
    cost = np.array([1.0 if costs is None else 0.5 + sum(costs.tasks[t] for t in group) for group in groups])
    best = max(0.0, float((worth / cost).max()))
    assert EnumeratedPricing(problem).bound(prices).ratio == pytest.approx(best, abs=1e-12)
    pricing = Pricing(problem, problem.scores)
    assert pricing.bound(prices).ratio >= best - 1e-9
    assert (pricing.bound(prices).slope <= 0).all()  # dearer tasks never make a group worth more


def test_costs_and_limits_are_kept_by_the_search():
    rng = np.random.default_rng(0)
    matrix, tasks = rng.normal(size=(9, 9)), rng.uniform(0.1, 1, 9)
    arguments = {"costs": Costs(1.0, tuple(tasks)), "limit": Limit(5)}
    budget = 2.2 * (1 + tasks.sum())
    exact = select_groups(matrix, budget, **arguments)
    found = select_groups(matrix, budget, **arguments, solver="search")
    assert exact.objective - 0.1 <= found.objective <= exact.objective + 1e-9 <= found.bound + 2e-9
    assert max(map(len, found.groups)) <= 5
    assert found.details["cost"] <= budget * (1 + 1e-9)
    with pytest.raises(SettingError, match="limit"):
        select_groups(random_matrix(0, 20), 2, limit=5)


def test_planted_groups_are_found_and_nearly_proven():
    matrix, labels = planted(0, 30, 3, 0.05)
    found = select_groups(matrix, 3)
    assert {frozenset(group) for group in found.groups} == {
        frozenset(np.flatnonzero(labels == k).tolist()) for k in range(3)
    }
    assert found.objective <= found.bound <= found.objective + 0.1
    assert found.details["solver"] == "search"


def test_as_many_groups_as_tasks_are_proven_optimal():
    matrix = random_matrix(0, 10)
    found = select_groups(matrix, 10, solver="search")
    best_partner = np.where(np.eye(10, dtype=bool), -np.inf, matrix).max(axis=1).mean()
    assert found.objective == pytest.approx(best_partner, abs=1e-9)
    assert found.bound == pytest.approx(found.objective, abs=1e-8)


def test_one_group_is_everything():
    matrix = random_matrix(0, 20)
    found = select_groups(matrix, 1)
    assert found.groups == (tuple(range(20)),)
    assert found.objective == pytest.approx((matrix.sum() - np.trace(matrix)) / 20 / 19)


def test_gain_models_are_searched_in_batches_and_have_no_bound():
    matrix, labels = planted(1, 18, 3, 0.1)
    affinity = Affinity(np.where(np.eye(18, dtype=bool), 0.0, matrix - 0.4), tuple(f"t{i}" for i in range(18)))
    asked = []

    class Plain:
        tasks = affinity.tasks

        def predict(self, subsets):
            asked.append(len(subsets))
            return PairwiseGainModel(affinity).predict(subsets)

        def pairwise(self):
            return affinity

    found = select_groups(Plain(), 3)
    assert {frozenset(group) for group in found.groups} == {
        frozenset(np.flatnonzero(labels == k).tolist()) for k in range(3)
    }
    assert found.bound is None
    assert found.objective == pytest.approx(select_groups(PairwiseGainModel(affinity), 3).objective, abs=1e-9)
    assert max(asked) >= 18
    assert np.mean(asked) > 5


def test_the_same_seed_gives_the_same_groups_and_progress_is_said():
    matrix, stages = random_matrix(7, 10), set()
    first = select_groups(
        matrix, 3, context=Context(seed=3, progress=lambda stage, done, total: stages.add(stage)), solver="search"
    )
    assert select_groups(matrix, 3, context=Context(seed=3), solver="search") == first
    assert {"grouping: starts", "grouping: bound"} <= stages


def test_a_time_limit_is_kept_and_its_result_is_valid():
    matrix = random_matrix(0, 60)
    found = select_groups(matrix, 6, time_limit=0.05)
    assert found.n_groups <= 6
    assert found.bound >= found.objective
