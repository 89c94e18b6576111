"""The relaxation: against other solvers, against closed forms, and its certificate."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import NumericsWarning, SettingError
from coterie.grouping import solve_sdp
from coterie.grouping.matrix import with_diagonal
from coterie.grouping.objective import certified_bound
from reference.clustering_sdp import bracket
from reference.partitions import best_partition
from reference.taskonomy import MATRICES, OPTIMA, PENALISED

CASES = [(name, diagonal, k) for name, diagonal in OPTIMA for k in range(1, 6)]


def random_matrix(seed, n):
    return np.random.default_rng(seed).normal(size=(n, n))


def blocks(*sizes):
    return np.array(
        [
            [float(i == j) for j in range(len(sizes)) for _ in range(sizes[j])]
            for i in range(len(sizes))
            for _ in range(sizes[i])
        ]
    )


@pytest.mark.parametrize(("name", "diagonal", "k"), CASES)
def test_taskonomy_optima_equal_those_of_an_interior_point_solver(name, diagonal, k):
    solution = solve_sdp(with_diagonal(MATRICES[name], diagonal), k)
    reference = OPTIMA[name, diagonal][k - 1]
    assert solution.value == pytest.approx(reference, rel=1e-4, abs=1e-6)
    assert solution.bound == pytest.approx(reference, rel=1e-5, abs=1e-6)
    assert solution.bound >= reference - 1e-8 * max(1, abs(reference))


@pytest.mark.parametrize(("name", "diagonal"), list(PENALISED))
def test_taskonomy_penalised_optima(name, diagonal):
    for price, reference in PENALISED[name, diagonal].items():
        solution = solve_sdp(with_diagonal(MATRICES[name], diagonal), penalty=price)
        assert solution.value == pytest.approx(reference, rel=1e-4)
        assert reference - 1e-7 <= solution.bound <= reference + 1e-4 * abs(reference)


@pytest.mark.parametrize(("name", "diagonal", "k"), [case for case in CASES if case[2] in (2, 3, 4)])
def test_taskonomy_optima_lie_between_the_ends_of_an_independent_bracket(name, diagonal, k):
    matrix = with_diagonal(MATRICES[name], diagonal)
    low, high = bracket(matrix, k)
    assert high - low < 1e-4 * abs(high), "the reference is not sharp enough to say anything"
    solution = solve_sdp(matrix, k)
    slack = 1e-5 * abs(high)
    assert low - slack <= solution.value <= high + slack
    assert solution.bound >= low


@pytest.mark.skipif("CLARABEL" not in cp.installed_solvers(), reason="clarabel is not installed")
@pytest.mark.parametrize("seed", range(4))
def test_random_matrices_against_an_interior_point_solver(seed):
    a = random_matrix(seed, 7)
    x = cp.Variable((7, 7), PSD=True)
    symmetric = (a + a.T) / 2
    problem = cp.Problem(cp.Maximize(cp.trace(symmetric @ x)), [x >= 0, x @ np.ones(7) == 1, cp.trace(x) == 3])
    reference = problem.solve(solver=cp.CLARABEL)
    solution = solve_sdp(a, 3)
    assert solution.value == pytest.approx(reference, rel=1e-5)
    assert solution.bound == pytest.approx(reference, rel=1e-5)


def test_two_blocks_of_three_have_value_six_and_a_third_inside():
    solution = solve_sdp(blocks(3, 3), 2)
    assert solution.value == pytest.approx(6, abs=1e-5)
    np.testing.assert_allclose(solution.X, blocks(3, 3) / 3, atol=1e-5)
    assert solution.bound == pytest.approx(6, abs=1e-5)
    assert solution.infeasibility < 1e-5


@pytest.mark.parametrize("sizes", [(2, 2), (2, 5), (10, 4), (4, 3, 6), (20, 7)])
def test_blocks_come_back_with_one_over_their_size(sizes):
    expected = np.array([[value / sizes[0] for value in row] for row in blocks(*sizes)])
    scale = np.repeat(sizes, sizes)
    expected = blocks(*sizes) / scale[:, None]
    np.testing.assert_allclose(solve_sdp(blocks(*sizes), len(sizes)).X, expected, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_authors_form_has_the_same_solution(seed):
    """min <max(T) - T, X> and max <T, X> differ by a constant on the feasible set."""
    a = random_matrix(seed, 8) + 3
    symmetric = (a + a.T) / 2
    x = cp.Variable((8, 8), PSD=True)
    cost = cp.sum(cp.multiply(symmetric.max() - symmetric, x))
    problem = cp.Problem(cp.Minimize(cost), [x >= 0, cp.sum(x, axis=1) == 1, cp.trace(x) == 3])
    problem.solve(solver=cp.SCS, eps_abs=1e-8, eps_rel=1e-8)
    np.testing.assert_allclose(solve_sdp(a, 3, eps=1e-8).X, x.value, atol=1e-4)
    np.testing.assert_allclose(solve_sdp(a - a.max(), 3, eps=1e-8).X, x.value, atol=1e-4)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_one_group_and_singletons_are_closed_forms(n):
    a = random_matrix(n, n)
    one, all_apart = solve_sdp(a, 1), solve_sdp(a, n)
    np.testing.assert_array_equal(one.X, np.full((n, n), 1 / n))
    np.testing.assert_array_equal(all_apart.X, np.eye(n))
    assert one.value == pytest.approx(a.sum() / n)
    assert one.bound == pytest.approx(a.sum() / n)
    assert all_apart.value == pytest.approx(np.trace(a))
    assert all_apart.bound == pytest.approx(np.trace(a))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 7), data=st.data())
def test_the_bound_holds_for_any_nonnegative_multiplier(seed, n, data):
    k = data.draw(st.integers(1, n))
    generator = np.random.default_rng(seed)
    a = generator.normal(size=(n, n))
    a = (a + a.T) / 2
    noise = np.abs(generator.normal(size=(n, n))) * generator.choice([0, 0.1, 1.0])
    best, _ = best_partition(a, k)
    assert certified_bound(a, noise + noise.T, k) >= best - 1e-9
    price = float(generator.normal())
    free = max(best_partition(a, groups)[0] - price * groups for groups in range(1, n + 1))
    assert certified_bound(a, noise + noise.T, None, price) >= free - 1e-9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 7))
def test_relaxation_lies_between_the_best_partition_and_its_bound(seed, n):
    a = random_matrix(seed, n)
    for k in range(2, n):
        solution, (best, _) = solve_sdp(a, k), best_partition(a, k)
        assert best - 1e-4 <= solution.value <= solution.bound + 1e-4
        assert solution.bound >= best - 1e-9
        assert solution.bound - solution.value < 1e-3
        assert solution.trace == pytest.approx(k, abs=1e-4)
        assert solution.infeasibility < 1e-4


@pytest.mark.parametrize(("shift", "scale"), [(1e4, 1.0), (0.0, 1e-6), (-50.0, 1e5)])
def test_value_and_bound_keep_their_digits_under_shift_and_scale(shift, scale):
    a = random_matrix(3, 9)
    plain, moved = solve_sdp(a, 3), solve_sdp(scale * a + shift, 3)
    for before, after in ((plain.value, moved.value), (plain.bound, moved.bound)):
        assert (after - 9 * shift) / scale == pytest.approx(before, abs=1e-5)


def test_an_early_stop_is_said_and_the_bound_stays_valid():
    a = random_matrix(0, 12)
    good = solve_sdp(a, 4)
    with pytest.warns(NumericsWarning, match="stopped after 5 steps"):
        rough = solve_sdp(a, 4, max_iters=5)
    assert rough.status == "optimal_inaccurate"
    assert rough.bound >= good.value - 1e-5


def test_a_good_solve_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve_sdp(random_matrix(1, 14), 3)


def test_a_constant_matrix_is_no_trouble():
    solution = solve_sdp(np.full((4, 4), 2.0), 2)
    assert solution.value == pytest.approx(8)
    assert solution.bound == pytest.approx(8)


@pytest.mark.parametrize(
    "settings_",
    [{}, {"k": 2, "penalty": 1.0}, {"k": 0}, {"k": 6}, {"k": 2.0}, {"k": True}, {"penalty": float("nan")}],
)
def test_wrong_settings(settings_):
    with pytest.raises(SettingError, match=r"`k`|`penalty`"):
        solve_sdp(np.eye(5), **settings_)
