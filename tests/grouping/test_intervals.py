"""Contiguous intervals against all cuts, and their costs against plain sums."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.grouping import affinity_costs, best_intervals, group
from coterie.grouping.intervals.costs import centre_costs, function_costs
from coterie.grouping.intervals.programme import every_k
from reference.intervals import cuts, least_cost, paid_to, paid_to_best, sum_within

SEEDS = st.integers(0, 10_000)


def random_matrix(seed, n):
    return np.random.default_rng(seed).normal(size=(n, n))


def naive(kind, a):
    """The cost of an interval by loops."""
    return {
        "sum": lambda first, last: -sum_within(a, first, last),
        "density": lambda first, last: -sum_within(a, first, last) / (last - first + 1),
        "best": lambda first, last: paid_to_best(a, first, last),
        "middle": lambda first, last: paid_to(a, first, last, (first + last + 1) // 2),
    }[kind]


def table(kind, a):
    return affinity_costs(a, kind) if kind in ("sum", "density") else centre_costs(a, kind)


def test_there_are_binomially_many_cuts():
    assert [sum(1 for _ in cuts(6, k)) for k in range(1, 7)] == [1, 5, 10, 10, 5, 1]


@pytest.mark.parametrize("kind", ["sum", "density", "best", "middle"])
@pytest.mark.parametrize("n", [2, 7, 20])
def test_costs_equal_loops(kind, n):
    a = random_matrix(n, n)
    costs, plain = table(kind, a), naive(kind, a)
    for first in range(n):
        for last in range(first, n):
            assert costs[first, last] == pytest.approx(plain(first, last), abs=1e-12)


def test_costs_in_several_blocks_equal_those_in_one(monkeypatch):
    a = random_matrix(4, 30)
    whole, found = centre_costs(a), best_intervals(affinity_costs(a), 4)
    for module in ("intervals.costs", "intervals.programme"):
        monkeypatch.setattr(f"coterie.grouping.{module}._BLOCK", 70)
    assert np.array_equal(centre_costs(a), whole)
    assert best_intervals(affinity_costs(a), 4) == found


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 12), kind=st.sampled_from(["sum", "density", "best", "middle"]), data=st.data())
def test_intervals_equal_the_best_of_all_cuts(seed, n, kind, data):
    minimum = data.draw(st.integers(1, n))
    k = data.draw(st.integers(1, n // minimum))
    a = random_matrix(seed, n)
    found = best_intervals(table(kind, a), k, minimum=minimum)
    assert found.cost == pytest.approx(least_cost(naive(kind, a), n, k, minimum))
    assert found.cost == pytest.approx(sum(naive(kind, a)(first, last) for first, last in found.spans))
    assert found.k == k
    assert min(last - first + 1 for first, last in found.spans) >= minimum
    assert found.labels.tolist() == sorted(found.labels.tolist())


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 12), data=st.data())
def test_any_costs_and_all_numbers_at_once(seed, n, data):
    k_max = data.draw(st.integers(1, n))
    costs = random_matrix(seed, n)
    found = every_k(costs, k_max)
    assert [one.k for one in found] == list(range(1, k_max + 1))
    for one in found:
        assert one.cost == pytest.approx(least_cost(lambda first, last: costs[first, last], n, one.k))
        assert one == best_intervals(costs, one.k)


def test_time_and_distance_cut_equally_long_intervals():
    """Centres on a line: closed form of the published time-step criterion."""
    steps = np.arange(100.0)
    for centre in ("middle", "best"):
        found = best_intervals(centre_costs(np.abs(steps[:, None] - steps[None, :]), centre), 5)
        assert {last - first + 1 for first, last in found.spans} <= {19, 20, 21}
        assert found.cost == pytest.approx(5 * 100.0)


def test_forbidden_intervals_are_not_used():
    costs = np.zeros((6, 6))
    lengths = np.arange(6)[None, :] - np.arange(6)[:, None] + 1
    costs[lengths > 2] = np.inf
    assert [one.k for one in every_k(costs, 6)] == [3, 4, 5, 6]
    assert best_intervals(costs, 3).spans == ((0, 1), (2, 3), (4, 5))
    with pytest.raises(SettingError, match="leave a way"):
        best_intervals(costs, 2)


def test_a_large_constant_costs_no_digits():
    a = random_matrix(2, 60)
    plain, moved = affinity_costs(a), affinity_costs(a + 1e8)
    length = np.arange(60)[None, :] - np.arange(60)[:, None] + 1.0
    upper = np.triu_indices(60)
    assert moved[upper] + 1e8 * length[upper] == pytest.approx(plain[upper], abs=1e-5)
    assert best_intervals(moved, 6).starts == best_intervals(plain, 6).starts


def test_a_function_is_asked_once_for_all():
    calls = []

    def cost(first, last):
        calls.append(len(first))
        return (last - first) ** 2.0

    assert best_intervals(function_costs(cost, 8), 4).cost == 4.0
    assert calls == [36]
    with pytest.raises(SettingError, match="one cost for each"):
        function_costs(lambda first, last: 0.0, 4)


def test_planted_blocks_in_order_come_back_through_the_interface():
    truth = np.repeat([0, 1, 2], [12, 3, 7])
    a = (truth[:, None] == truth[None, :]) + 0.4 * random_matrix(3, 22)
    found = group(a, 3, method="intervals")
    assert found.labels.tolist() == truth.tolist()
    assert found.objective == pytest.approx(-best_intervals(affinity_costs(a), 3).cost)
    assert group(a, method="intervals", diagonal="zero").n_groups >= 3


def test_intervals_of_shuffled_tasks_are_other_groups():
    """The order means something here, unlike for the other methods."""
    a = np.kron(np.eye(2), np.ones((3, 3)))
    order = [0, 3, 1, 4, 2, 5]
    assert group(a[np.ix_(order, order)], 2, method="intervals").objective < 6.0
    assert group(a, 2, method="intervals").objective == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: best_intervals(np.zeros((2, 3)), 1), "square"),
        (lambda: best_intervals(np.zeros((3, 3)), 4), "`k`"),
        (lambda: best_intervals(np.zeros((3, 3)), 0), "`k`"),
        (lambda: every_k(np.zeros((3, 3)), 4), "`k_max`"),
        (lambda: best_intervals(np.zeros((3, 3)), 2, minimum=2), "smaller `minimum`"),
        (lambda: best_intervals(np.zeros((3, 3)), 1, minimum=0), "`minimum`"),
        (lambda: best_intervals(np.full((3, 3), np.nan), 1), "nan for the interval 0..0"),
        (lambda: best_intervals(np.full((3, 3), -np.inf), 1), "-inf for the interval"),
        (lambda: affinity_costs(np.zeros((3, 3)), "mean"), "`kind`"),
        (lambda: affinity_costs(np.full((3, 3), np.nan)), "finite"),
        (lambda: centre_costs(np.zeros((3, 3)), "median"), "`centre`"),
        (lambda: centre_costs(np.full((3, 3), np.inf)), "item 0 and centre 0"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(SettingError, match=words):
        call()


def test_what_lies_below_the_diagonal_is_not_read():
    costs = random_matrix(6, 9)
    spoiled = np.where(np.tri(9, k=-1, dtype=bool), np.nan, costs)
    assert best_intervals(spoiled, 3) == best_intervals(costs, 3)


def test_a_thousand_steps_take_well_under_a_second():
    a = random_matrix(0, 1000)
    start = time.process_time()
    best_intervals(affinity_costs(a), 5)
    best_intervals(centre_costs(a, "middle"), 5)
    assert time.process_time() - start < 0.5
