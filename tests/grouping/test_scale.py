"""A constant added to every entry and a positive factor change neither groups nor time, also where entries tie."""

import time
import warnings
from fractions import Fraction

import numpy as np
import pytest

from coterie.grouping import group, solve_sdp
from coterie.grouping.matrix import canonical_order, on_grid, with_diagonal
from coterie.grouping.objective import sum_of_densities
from coterie.grouping.sdp.scaling import scale
from reference.partitions import best_partition

#: factor and constant; the last digits of most entries change
MOVED = [(7.0, 0.0), (1e-9, 0.0), (3e5, -0.3), (1.0, 0.7), (0.1, 1e4), (1.0, 3e8), (1.0, -1e9), (1e-8, 1.0)]
TIED = {
    "whole numbers": lambda g, n: np.round(g.normal(size=(n, n))),
    "yes or no": lambda g, n: (g.random((n, n)) < 0.4).astype(float),
    "thirds": lambda g, n: g.integers(0, 4, (n, n)) / 3,
    "one outlier": lambda g, n: np.where(np.arange(n * n).reshape(n, n) == 1, -1e6, g.integers(0, 3, (n, n))),
}


def groups(a, k, method):
    return {frozenset(members) for members in group(a, k, method=method, diagonal="mean").groups}


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize("method", ["leiden", "agglomerative", "intervals", "spectral"])
def test_ties_stay_ties(method, kind):
    for seed in range(6):
        a = TIED[kind](np.random.default_rng(seed), 9)
        plain = {k: groups(a, k, method) for k in (None, 3)}
        for factor, constant in MOVED:
            constant = 0.0 if method == "spectral" else constant  # reads the signs
            for k, there in plain.items():
                assert groups(factor * a + constant, k, method) == there, (seed, factor, constant, k)


def test_equal_cuts_into_intervals_stay_equal():
    a = (np.random.default_rng(15).random((6, 6)) > 0.5) * 1.0
    for factor, constant in [*MOVED, (3.0, 0.0), (7e20, 0.0), (1e-3, 0.0)]:
        for k in (2, 3):
            assert groups(factor * a + constant, k, "intervals") == groups(a, k, "intervals")


@pytest.mark.parametrize("method", ["sdp", "sdp-penalty", "exhaustive"])
def test_groups_are_worth_the_same_where_equals_may_change_places(method):
    a = TIED["whole numbers"](np.random.default_rng(0), 7)
    set_diagonal = with_diagonal(a, "mean")
    plain = sum_of_densities(set_diagonal, group(a, method=method, diagonal="mean").labels)
    for factor, constant in MOVED:
        moved = group(factor * a + constant, method=method, diagonal="mean")
        assert sum_of_densities(set_diagonal, moved.labels) == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize("offset", [1e9, -3e10, 1e12])
@pytest.mark.parametrize(("method", "k"), [("sdp", None), ("sdp-penalty", 2), ("exhaustive", None)])
def test_a_large_constant_takes_no_longer_and_keeps_the_best_partition(offset, method, k):
    a = np.random.default_rng(3).normal(size=(4, 4))
    best, _ = best_partition(a, k)
    start = time.process_time()
    found = group(a + offset, k, method=method)
    assert time.process_time() - start < 2  # 14 s when the constant took the digits of the gap
    assert sum_of_densities(a, found.labels) == pytest.approx(best, abs=1e-9)
    assert found.bound is None or found.bound >= found.objective


@pytest.mark.parametrize("offset", [1e6, 1e9, -1e11])
def test_the_solver_sees_the_matrix_without_its_constant(offset):
    a = np.round(np.random.default_rng(8).normal(size=(12, 12)) * 64) / 64  # exact with any of the constants
    plain, moved = solve_sdp(a, 3), solve_sdp(a + offset, 3)
    assert (moved.iterations, moved.status) == (plain.iterations, "optimal")
    assert moved.gap == pytest.approx(plain.gap, rel=1e-6)
    assert moved.bound >= moved.value >= 12 * offset + plain.value - 1e-14 * abs(offset) * 12
    assert moved.bound - 12 * offset >= plain.value


def test_adding_the_constant_rounds_no_bound_down():
    problem = scale(np.random.default_rng(2).normal(size=(6, 6)) + 1e9, 3, 0.0)
    for value in np.random.default_rng(3).normal(size=50):
        exact = Fraction(problem.factor) * (Fraction(value) + Fraction(problem.shift) * 6)
        assert Fraction(problem.bound_in_units_of_given(value)) >= exact


def test_the_bound_for_any_number_of_groups_of_many_tasks_keeps_its_digits():
    a = np.random.default_rng(1).normal(size=(510, 510)) + 40 * np.kron(np.eye(2), np.ones((255, 255)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, moved = group(a, k_max=2), group(a + 1e9, k_max=2)
    assert moved.groups == plain.groups
    assert moved.bound - 510e9 == pytest.approx(plain.bound, rel=1e-6)


def test_whole_numbers_of_a_typical_difference():
    a = np.array([[5.0, 0.0, 2.0], [0.0, 5.0, 1e6], [2.0, 1e6, 5.0]])
    found = on_grid(a)
    assert (found.unit, found.origin) == (2 * 2.0**-18, 2.0)  # the outlier has no say
    np.testing.assert_array_equal(found.whole * found.unit + found.origin, a)
    assert on_grid(-a, signed=True).whole[0, 1] == 0
    constant = on_grid(np.full((3, 3), 0.3) + 1e-17)
    assert not constant.whole.any()
    assert canonical_order(on_grid(np.diag([3.0, 1.0, 2.0])).whole).tolist() == [1, 2, 0]
