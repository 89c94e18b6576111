"""Selection under a budget: published values, every selection tried, and properties."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie import Context
from coterie.affinity import Affinity, PairwiseGainModel
from coterie.errors import DataWarning, SettingError
from coterie.grouping import Costs, Grouping, Limit, select_groups
from reference.cover import all_groups, best, best_of_matrix, best_three, rows, score
from reference.taskonomy import MATRICES, TASKS


def random_matrix(seed, n):
    return np.random.default_rng(seed).normal(size=(n, n))


def value_of(found, matrix, singles=None):
    """The objective from the groups alone, by the plain rule."""
    groups = [list(group) for group in found.groups]
    return rows(len(matrix), groups, lambda g, t: score(matrix, g, t, singles)).max(axis=0).mean()


SMALL = st.tuples(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 4))


@pytest.mark.parametrize(
    ("name", "budget", "objective"),
    [("TAG", 2, 0.3216958), ("TAG", 3, 0.3486704), ("CS", 2, 1.4699368), ("CS", 3, 1.603779)],
)
def test_taskonomy_gives_the_published_groups(name, budget, objective):
    found = select_groups(Affinity(MATRICES[name], TASKS, kind="raw"), budget)
    groups = {frozenset(group) for group in found.names}
    pair = {frozenset({"keypoints", "edges"})}
    large = frozenset({"segmentation", "normals", "depth"})
    both = {frozenset({"segmentation", "depth"}), frozenset({"normals", "depth"})}
    assert groups == pair | ({large} if budget == 2 else both)
    assert found.objective == pytest.approx(objective, abs=1e-6)
    assert found.bound == found.objective
    if name == "TAG" and budget == 3:  # depth is helped more by segmentation
        assert "segmentation" in found.names[found.serves[TASKS.index("depth")]]


@pytest.mark.parametrize("seed", range(3))
def test_nine_tasks_two_groups_equal_every_selection(seed):
    matrix = random_matrix(seed, 9)
    found = select_groups(matrix, 2)
    assert found.objective == pytest.approx(best_of_matrix(matrix, 2), abs=1e-9)
    assert found.objective == pytest.approx(value_of(found, matrix), abs=1e-12)
    assert found.bound == found.objective


@pytest.mark.parametrize("seed", range(2))
def test_nine_tasks_three_groups_equal_every_selection(seed):
    matrix = random_matrix(10 + seed, 9)
    table = rows(9, all_groups(9), lambda group, task: score(matrix, group, task))
    found = select_groups(matrix, 3)
    assert found.objective == pytest.approx(best_three(table) / 9, abs=1e-9)
    assert found.objective == pytest.approx(value_of(found, matrix), abs=1e-12)


def test_the_two_references_agree():
    matrix = random_matrix(4, 6)
    table = rows(6, all_groups(6), lambda group, task: score(matrix, group, task))
    assert best_three(table) == best(table, 3)


@settings(max_examples=40, deadline=None)
@given(SMALL, st.booleans())
def test_small_problems_equal_every_selection(case, scored):
    seed, n, budget = case
    matrix = random_matrix(seed, n)
    singles = random_matrix(seed + 1, n)[0] if scored else None
    found = select_groups(matrix, budget, singletons="forbidden" if singles is None else singles)
    assert found.objective == pytest.approx(best_of_matrix(matrix, budget, singles=singles), abs=1e-9)
    assert found.n_groups <= budget
    assert set(found.serves) == set(range(found.n_groups))


@settings(max_examples=30, deadline=None)
@given(SMALL, st.floats(1, 5))
def test_limits_are_kept(case, total):
    seed, n, budget = case
    matrix, sizes = random_matrix(seed, n), np.random.default_rng(seed).uniform(0.2, 1.5, n)
    expected = best_of_matrix(matrix, budget, limit=total, sizes=sizes)
    if np.isinf(expected):
        with pytest.raises(SettingError, match="no selection of groups of at most"):
            select_groups(matrix, budget, limit=Limit(total, tuple(sizes)))
        return
    found = select_groups(matrix, budget, limit=Limit(total, tuple(sizes)))
    assert found.objective == pytest.approx(expected, rel=1e-9)
    assert all(sizes[list(group)].sum() <= total * (1 + 1e-9) for group in found.groups)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.9, 3), st.booleans(), st.booleans())
def test_costs_equal_every_selection(seed, n, share, whole, scored):
    rng = np.random.default_rng(seed)
    matrix, model = rng.normal(size=(n, n)), float(rng.uniform(0.3, 1))
    tasks = rng.integers(0, 3, n) / 2 if whole else rng.uniform(0, 1, n)
    singles = rng.normal(size=n) if scored else None
    budget = share * (model + tasks.sum())
    expected = best_of_matrix(matrix, budget, singles=singles, costs=(model, tasks))
    arguments = {"singletons": "forbidden" if singles is None else singles, "costs": Costs(model, tuple(tasks))}
    if np.isinf(expected):
        with pytest.raises(SettingError, match="budget"):
            select_groups(matrix, budget, **arguments)
        return
    found = select_groups(matrix, budget, **arguments)
    assert found.objective == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert expected - 1e-9 * abs(expected) <= found.bound <= expected + 1e-6 * max(1, abs(expected))
    assert sum(model + tasks[list(group)].sum() for group in found.groups) <= budget * (1 + 1e-9)


def test_costs_that_are_the_same_for_all_are_a_number_of_groups():
    matrix = random_matrix(0, 7)
    assert select_groups(matrix, 1.6, costs=0.5).groups == select_groups(matrix, 3).groups
    even = select_groups(matrix, 2.0, costs=tuple(np.full(7, 0.2)), singletons="zero")
    assert sum(map(len, even.groups)) <= 10


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 8))
def test_more_budget_is_never_worse_and_as_many_groups_as_tasks_are_enough(seed, n):
    matrix = random_matrix(seed, n)
    values = [select_groups(matrix, budget).objective for budget in range(1, n + 2)]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(values))
    best_partner = np.where(np.eye(n, dtype=bool), -np.inf, matrix).max(axis=1).mean()
    assert values[n - 1] == pytest.approx(best_partner, abs=1e-12)
    assert values[n] == values[n - 1]
    alone = (matrix.sum(axis=1) - np.diag(matrix)).mean() / (n - 1)
    assert values[0] == pytest.approx(alone, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 8), st.integers(1, 4))
def test_the_order_of_the_tasks_and_the_scale_do_not_matter(seed, n, budget):
    matrix, rng = random_matrix(seed, n), np.random.default_rng(seed)
    found = select_groups(matrix, budget)
    order = rng.permutation(n)
    moved = select_groups(matrix[np.ix_(order, order)], budget)
    assert {frozenset(order[list(group)]) for group in moved.groups} == {frozenset(group) for group in found.groups}
    shifted = select_groups(3.0 * matrix + 2.0, budget)
    assert {frozenset(group) for group in shifted.groups} == {frozenset(group) for group in found.groups}
    assert shifted.objective == pytest.approx(3 * found.objective + 2, abs=1e-9)
    raised = matrix + rng.normal(size=(n, 1))  # a constant added to a row changes what it is worth, not the choice
    assert select_groups(raised, budget).objective == pytest.approx(
        found.objective + (raised - matrix)[:, 0].mean(), abs=1e-9
    )


def test_rows_with_a_large_scale_decide():
    matrix = random_matrix(3, 6)
    scale = np.array([1000.0, 1, 1, 1, 1, 1])
    found = select_groups(scale[:, None] * matrix, 2)
    best_partner = np.where(np.eye(6, dtype=bool), -np.inf, matrix)[0].max()
    served = found.groups[found.serves[0]]
    assert score(matrix, list(served), 0) == pytest.approx(best_partner)


def test_a_task_may_be_trained_in_a_group_that_does_not_serve_it():
    matrix = np.zeros((4, 4))
    matrix[0, 1] = matrix[2, 1] = matrix[3, 1] = 1.0  # everybody needs task 1
    matrix[1, 3] = 5.0
    found = select_groups(matrix, 4, singletons="zero")
    assert found.overlaps
    assert found.objective == pytest.approx(8 / 4)


def test_singletons_as_in_the_sources():
    errors = np.array([[1.0, 3.0, 3.0], [2.0, 1.5, 2.0], [2.5, 2.5, 9.0]])
    found = select_groups(-errors, 3, singletons="diagonal")  # higher-order approximation: true single-task errors
    assert (0,) in found.groups
    assert found.objective == pytest.approx(-(1.0 + 1.5 + 2.5) / 3)
    assert select_groups(-errors, 3).n_groups <= 3
    assert all(len(group) > 1 for group in select_groups(-errors, 3).groups)
    forced = select_groups(-errors, 3, limit=1)
    assert forced.objective == pytest.approx(-1e6)
    assert select_groups(-errors, 3, singletons=-1.0, limit=1).objective == pytest.approx(-1.0)


def test_predicted_gains_and_the_matrix_they_come_from_agree():
    affinity = Affinity(np.where(np.eye(8, dtype=bool), 0.0, random_matrix(5, 8)), tuple("abcdefgh"))

    class Plain:
        """The same predictions without a matrix to look into."""

        tasks = affinity.tasks

        def predict(self, subsets):
            return PairwiseGainModel(affinity).predict(subsets)

        def pairwise(self):
            return affinity

    for budget in (1, 2, 3):
        one, other = select_groups(PairwiseGainModel(affinity), budget), select_groups(Plain(), budget)
        expected = best_of_matrix(affinity.values, budget, singles=np.zeros(8)) if budget < 3 else one.objective
        assert one.objective == pytest.approx(expected, abs=1e-12)
        assert other.objective == pytest.approx(one.objective, abs=1e-12)
        assert other.bound == other.objective


def test_results_are_groupings_that_can_be_kept(tmp_path):
    found = select_groups(random_matrix(1, 6), 3)
    found.save(tmp_path / "G.json")
    assert Grouping.load(tmp_path / "G.json") == found
    assert found.details["solver"] == "exact"
    assert found.details["cost"] <= 3


def test_data_frames_name_the_tasks():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(random_matrix(2, 4), index=list("abcd"), columns=list("abcd"))
    assert select_groups(frame.loc[list("dbca")], 2).groups == select_groups(frame, 2).groups


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"budget": 0}, "budget"),
        ({"budget": 2.5}, "budget"),
        ({"budget": True}, "budget"),
        ({"budget": "two"}, "budget"),
        ({"budget": 0.5, "costs": 1.0}, "budget"),
        ({"budget": 2, "costs": (1.0, 2.0)}, "costs"),
        ({"budget": 2, "costs": -1.0}, "costs"),
        ({"budget": 2, "costs": 0.0}, "costs"),
        ({"budget": 2, "limit": 0}, "limit"),
        ({"budget": 1, "limit": 2}, "limit"),
        ({"budget": 2, "limit": Limit(2, (1.0, np.nan, 1.0, 1.0))}, "limit"),
        ({"budget": 2, "singletons": "none"}, "singletons"),
        ({"budget": 2, "singletons": (1.0, 2.0)}, "singletons"),
        ({"budget": 2, "solver": "magic"}, "solver"),
        ({"budget": 2, "seed": -1}, "seed"),
        ({"budget": 2, "time_limit": 0}, "time_limit"),
    ],
)
def test_mistakes_name_the_parameter(arguments, word):
    with pytest.raises(SettingError, match=f"`{word}`"):
        select_groups(random_matrix(0, 4), **arguments)


def test_a_missing_diagonal_matters_only_where_it_is_read():
    matrix = random_matrix(0, 4)
    np.fill_diagonal(matrix, np.nan)
    assert select_groups(matrix, 2).n_groups <= 2
    with pytest.raises(SettingError, match="diagonal"):
        select_groups(matrix, 2, singletons="diagonal")
    matrix[0, 1] = np.nan
    with pytest.raises(SettingError, match="finite"):
        select_groups(matrix, 2)


def test_exact_has_a_limit_that_is_said():
    with pytest.raises(SettingError, match="at most 14 tasks"):
        select_groups(random_matrix(0, 15), 2, solver="exact")


def test_forced_companions_are_said():
    gains = np.array([[0, 0.5, -3], [0.5, 0, -3], [-3, -3, 0]])
    with pytest.warns(DataWarning, match="task 2"):
        select_groups(gains, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select_groups(gains, 2, singletons="zero").groups == ((0, 1), (2,))
        select_groups(gains + np.eye(3), 2)  # a diagonal that says something else


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_units_do_not_matter(scale):
    a = np.random.default_rng(0).standard_normal((9, 9))
    one, other = select_groups(a, 2), select_groups(a * scale, 2)
    assert one.groups == other.groups
    assert other.objective == pytest.approx(one.objective * scale, rel=1e-9)


def test_bound_of_small_affinities_beside_a_forced_singleton():
    limit = Limit(4.0, (4.0,) + (1.0,) * 15)
    a = np.random.default_rng(1).standard_normal((16, 16)) * 1e-6
    found = [select_groups(a, 5, context=Context(seed=seed), limit=limit, time_limit=3) for seed in range(3)]
    assert min(one.bound for one in found) >= max(one.objective for one in found) - 1e-9
