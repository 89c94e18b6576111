"""The solver of the relaxation: its parts, and what holds for every solution."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import NumericsWarning, SettingError
from coterie.grouping import solve_sdp
from coterie.grouping.group import penalty_for, penalty_path
from coterie.grouping.sdp.admm import POLISH, Iteration, threshold, weights
from coterie.grouping.sdp.eigen import BlockEigenStep, DenseEigenStep, orthonormal
from coterie.grouping.sdp.scaling import _ALL, bound_of_state, lacking, nearest_partition, scale
from coterie.grouping.sdp.solve import feasible, inner
from reference.clustering_sdp import by_scs
from reference.partitions import best_partition, groups_of, worth

SEEDS = st.integers(0, 10_000)


def random_matrix(seed, n):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return (a + a.T) / 2


def planted(seed, n, k, noise):
    truth = np.random.default_rng(seed).permutation(np.arange(n) % k)
    return (truth[:, None] == truth[None, :]) + noise * random_matrix(seed + 1, n), truth


def family(name, n, seed=0):
    generator = np.random.default_rng(seed)
    if name == "kernel":
        points = generator.normal(size=(n, 3))
        return np.exp(-np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)))
    if name == "factor":
        loads = generator.normal(size=(n, 10))
        return np.corrcoef(loads @ loads.T + 5 * np.eye(n))
    return planted(seed, n, 5, {"planted": 2.0, "noise": 100.0}[name])[0]


def check_feasible(x, trace, tolerance=1e-10):
    np.testing.assert_allclose(x.sum(axis=1), 1, atol=tolerance)
    np.testing.assert_allclose(x, x.T, atol=tolerance)
    assert x.min() >= -tolerance
    assert np.linalg.eigvalsh(x)[0] >= -tolerance
    assert np.trace(x) == pytest.approx(trace, abs=tolerance * len(x))


# ---------------------------------------------------------------- against another solver


@pytest.mark.parametrize("seed", range(3))
def test_both_forms_equal_scs(seed):
    a = random_matrix(seed, 12)
    for k in (2, 4, 7):
        ours, (x, value) = solve_sdp(a, k), by_scs(a, k)
        assert ours.value == pytest.approx(value, abs=1e-5 * ours.range)
        np.testing.assert_allclose(ours.X, x, atol=5e-3)
    for price in (-1.0, 0.0, 0.7):
        assert solve_sdp(a, penalty=price).value == pytest.approx(by_scs(a, None, price)[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["planted", "kernel", "factor"])
def test_sixty_tasks_equal_scs(name):
    a = family(name, 60)
    ours = solve_sdp(a, 5, eps=1e-5)
    assert ours.value == pytest.approx(by_scs(a, 5, eps=1e-6)[1], abs=1e-4 * ours.range)


# ---------------------------------------------------------------- what holds for every solution


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 8), steps=st.sampled_from([1, 3, 30, 3000]), data=st.data())
def test_no_partition_beats_the_bound_wherever_the_solver_stops(seed, n, steps, data):
    k = data.draw(st.integers(1, n))
    price = data.draw(st.floats(-2, 2))
    a = random_matrix(seed, n) * 10.0 ** data.draw(st.integers(-8, 8))
    price *= float(np.abs(a).max())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericsWarning)
        fixed, free = solve_sdp(a, k, max_iters=steps), solve_sdp(a, penalty=price, max_iters=steps)
    slack = 1e-12 * float(np.abs(a).max())
    assert fixed.bound >= best_partition(a, k)[0] - slack
    assert free.bound >= max(best_partition(a, g)[0] - price * g for g in range(1, n + 1)) - slack
    for solution, trace in ((fixed, k), (free, free.trace)):
        check_feasible(solution.X, trace)
        assert solution.value <= solution.bound
        paid = price * solution.trace if solution is free else 0.0
        assert solution.value == pytest.approx(float((a * solution.X).sum()) - paid, abs=100 * slack)


@pytest.mark.parametrize("name", ["planted", "noise", "kernel", "factor"])
def test_the_float32_state_gives_a_float64_certificate(name):
    """Above 150 tasks: feasible to 1e-10, the gap that was promised, and no partition at hand beats the bound."""
    n = 200
    a = family(name, n)
    solution = solve_sdp(a, 5)
    assert solution.start.state.dtype == np.float32
    assert solution.status == "optimal"
    assert solution.gap <= 1e-3
    check_feasible(solution.X, 5)
    generator = np.random.default_rng(0)
    for labels in [planted(0, n, 5, 0.0)[1], *(generator.integers(0, 5, n) for _ in range(5))]:
        assert worth(a, groups_of(labels)) <= solution.bound
    exact = solve_sdp(a, 5, eps=1.9e-4)
    assert exact.start.state.dtype == np.float64
    assert exact.value <= solution.bound
    assert solution.value <= exact.bound
    assert abs(exact.value - solution.value) <= 1e-3 * solution.range


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n=st.integers(4, 20), data=st.data())
def test_the_order_of_the_tasks_does_not_matter(seed, n, data):
    a, k = random_matrix(seed, n), data.draw(st.integers(2, n - 1))
    order = np.random.default_rng(seed).permutation(n)
    plain, other = solve_sdp(a, k), solve_sdp(a[np.ix_(order, order)], k)
    assert other.value == pytest.approx(plain.value, abs=3e-6 * plain.range)
    assert other.bound == pytest.approx(plain.bound, abs=3e-6 * plain.range)


@pytest.mark.parametrize(("shift", "scaling"), [(1e3, 1.0), (0.0, 1e-100), (-3.0, 1e100)])
def test_shift_and_scale_change_nothing_else(shift, scaling):
    a = random_matrix(5, 20)
    plain, moved = solve_sdp(a, 4), solve_sdp(scaling * (a + shift), 4)
    assert moved.iterations == plain.iterations
    assert moved.value / scaling - 20 * shift == pytest.approx(plain.value, abs=1e-6)
    assert moved.bound / scaling - 20 * shift == pytest.approx(plain.bound, abs=1e-6)
    assert moved.gap == pytest.approx(plain.gap, abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_forms_agree(seed):
    """With price p, <A, X> of a free solution is the optimum of the trace form at its trace."""
    a = random_matrix(seed, 15)
    for price in (0.2, 0.8):
        free = solve_sdp(a, penalty=price)
        below, above = solve_sdp(a, int(np.floor(free.trace))), solve_sdp(a, int(np.ceil(free.trace)))
        for fixed in (below, above):
            assert fixed.value - price * fixed.trace <= free.bound
        share = free.trace - below.trace
        # The optimum is concave in the trace.
        assert free.value + price * free.trace >= (1 - share) * below.value + share * above.value - 1e-4


def test_two_blocks_have_the_same_solution_in_both_forms():
    a, truth = planted(3, 20, 2, 0.1)
    fixed, free = solve_sdp(a, 2), solve_sdp(a, penalty=3.0)
    together = (truth[:, None] == truth[None, :]) / 10
    np.testing.assert_allclose(fixed.X, together, atol=1e-12)  # tight: the partition itself is returned
    np.testing.assert_allclose(free.X, together, atol=1e-12)
    assert free.value == pytest.approx(fixed.value - 6.0, abs=1e-9)
    assert free.trace == pytest.approx(2)


@pytest.mark.parametrize("n", [30, 200])
def test_a_warm_start_gives_the_same_answer_sooner(n):
    a, _ = planted(1, n, 5, 0.15 * np.sqrt(n))
    cold = solve_sdp(a, 6)
    for before in (solve_sdp(a, 5), solve_sdp(a, penalty=float(np.sqrt(n)))):
        warm = solve_sdp(a, 6, start=before)
        assert warm.value <= cold.bound
        assert cold.value <= warm.bound
        assert warm.status == "optimal"
    again = solve_sdp(a, 6, start=cold)
    assert again.iterations <= cold.iterations
    closed = solve_sdp(a, 1)
    assert closed.start is None
    assert solve_sdp(a, 6, start=closed).iterations == cold.iterations


MATRICES = {
    "zeros": np.zeros((9, 9)),
    "constant": np.full((9, 9), -7.0),
    "identity": np.eye(40),
    "negative diagonal": random_matrix(0, 9) - 50 * np.eye(9),
    "rank one": np.outer(np.arange(9.0), np.arange(9.0)),
    "signs": np.outer(np.sign(np.arange(8) - 3.5), np.sign(np.arange(8) - 3.5)),
    "one large entry": np.where(np.arange(81).reshape(9, 9) == 10, 1e9, random_matrix(1, 9)),
    "tiny": 1e-300 * random_matrix(2, 9),
    "huge": 1e149 * random_matrix(2, 9),
    "nearly constant": 1.0 + 1e-14 * random_matrix(2, 9),
    "asymmetric": np.triu(np.ones((9, 9))),
}


@pytest.mark.parametrize("name", list(MATRICES))
def test_degenerate_matrices(name):
    a = MATRICES[name]
    largest = float(np.abs(a).max())
    for form in ({"k": 2}, {"k": len(a) - 1}, {"penalty": 0.0}, {"penalty": largest}, {"penalty": -largest}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solution = solve_sdp(a, **form)
        check_feasible(solution.X, solution.trace)
        assert solution.value <= solution.bound
        assert np.isfinite([solution.value, solution.bound, solution.gap]).all()
        assert solution.bound - solution.value <= (1e-4 * largest * len(a) if largest else 1e-10)


def test_gap_is_relative_to_what_can_be_gained():
    a = random_matrix(0, 10)
    with pytest.warns(NumericsWarning):
        rough = solve_sdp(a + 1e3, 3, max_iters=10)
    uniform = (np.full((10, 10), 1 / 10) * (1 - 2 / 9)) + 2 / 9 * np.eye(10)
    assert rough.range == pytest.approx(rough.bound - float(((a + 1e3) * uniform).sum()), rel=1e-6)
    assert rough.gap == pytest.approx((rough.bound - rough.value) / rough.range)
    assert solve_sdp(a, 1).gap == solve_sdp(a, 10).gap == 0


def test_time_limit_progress_and_wrong_settings():
    a, said = family("kernel", 300), []
    began = time.monotonic()
    with pytest.warns(NumericsWarning, match="certified gap"):
        solution = solve_sdp(a, 5, eps=1e-9, time_limit=0.2, progress=lambda *what: said.append(what))
    assert time.monotonic() - began < 20
    assert solution.status == "optimal_inaccurate"
    assert said[-1] == ("grouping: SDP", solution.iterations, solution.iterations)
    check_feasible(solution.X, 5)
    with pytest.raises(SettingError, match="`start`"):
        solve_sdp(np.eye(4), 2, start=solution)
    with pytest.raises(SettingError, match="`eps`"):
        solve_sdp(np.eye(4), 2, eps=0.0)
    with pytest.raises(SettingError, match="finite"):
        solve_sdp(np.diag([1.0, np.nan, 2.0]), 2)


def test_the_matrix_is_left_alone():
    a = random_matrix(0, 30)
    before = a.copy()
    solve_sdp(a, 3)
    np.testing.assert_array_equal(a, before)


# ---------------------------------------------------------------- the parts


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=12), share=st.floats(0, 1))
def test_threshold_gives_the_trace(values, share):
    values = np.array(values)
    trace = share * len(values)
    theta = threshold(values, trace)
    assert np.clip(values - theta, 0, 1).sum() == pytest.approx(trace, abs=1e-9)


def test_weights_are_the_nearest_in_the_fantope():
    values = np.array([1.4, 0.9, 0.5, -0.2])
    found, theta = weights(values, 3, 0.0)
    assert found.sum() == pytest.approx(2)
    generator = np.random.default_rng(0)
    for _ in range(200):
        other = generator.dirichlet(np.ones(4)) * 2
        if other.max() <= 1:
            assert ((values - other) ** 2).sum() >= ((values - found) ** 2).sum() - 1e-12
    assert weights(values, None, 0.5)[0].tolist() == pytest.approx([0.9, 0.4, 0, 0])
    assert 0 < theta < 1


def test_block_follows_the_leading_eigenvectors_of_a_moving_matrix():
    n, generator = 150, np.random.default_rng(0)
    basis = orthonormal(generator.normal(size=(20, n)) @ (np.eye(n) - 1 / n))
    block, a = BlockEigenStep(basis), family("planted", n)
    for step in range(25):
        matrix = a + 0.02 * step * random_matrix(7, n)
        values, rows = block(matrix, 8)
        exact, vectors = DenseEigenStep(n)(matrix, 8)
    np.testing.assert_allclose(values[:4], exact[:4], rtol=1e-3)
    np.testing.assert_allclose(np.abs(np.einsum("ij,ij->i", rows[:4], vectors[:4])), 1, atol=5e-3)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-9)
    np.testing.assert_allclose(rows.sum(axis=1), 0, atol=1e-9)
    centre = np.eye(n) - 1 / n
    np.testing.assert_allclose(exact, np.sort(np.linalg.eigvalsh(centre @ matrix @ centre + 99 / n))[-2::-1], atol=1e-9)


def test_orthonormal_leaves_out_what_depends_on_the_rest():
    rows = np.random.default_rng(0).normal(size=(4, 30))
    found = orthonormal(np.concatenate([rows, rows[:2] + rows[2:], np.zeros((1, 30))]))
    assert len(found) == 4
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-10)
    np.testing.assert_allclose((rows @ found.T) @ found, rows, atol=1e-8)


@pytest.mark.parametrize("n", [50, _ALL + 20])
def test_what_is_lacking_makes_it_semidefinite(n):
    a = random_matrix(0, n) / n
    delta = lacking(a)
    lowest = np.linalg.eigvalsh(a)[0]
    assert -lowest <= delta <= -1.3 * lowest


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(4, 12), free=st.booleans())
def test_feasible_solutions_from_any_point_of_the_spectral_set(seed, n, free):
    generator = np.random.default_rng(seed)
    a, k = random_matrix(seed, n), int(generator.integers(2, n))
    problem = scale(a, None if free else k, 0.3 if free else 0.0)
    rows = orthonormal(generator.normal(size=(n - 1, n)) @ (np.eye(n) - 1 / n))
    share = np.full(len(rows), (k - 1) / len(rows)) if generator.random() < 0.3 else np.zeros(len(rows))
    share[: k - 1] = share[: k - 1] if share.any() else 1.0
    primal = feasible(problem, rows, share)
    check_feasible(primal.X, primal.trace)
    assert free or primal.trace == pytest.approx(k)
    assert primal.value == pytest.approx(inner(problem, primal.X) - problem.price * primal.trace, abs=1e-10)
    assert primal.value <= bound_of_state(problem, None, 0.0)


def advanced(problem, steps):
    iteration = Iteration(problem, np.float64)
    for _ in range(steps):
        iteration.step(measure=False)
    return iteration


@pytest.mark.parametrize("free", [False, True])
def test_mirroring_negative_entries_makes_a_better_feasible_solution(free):
    a = family("kernel", 60)
    problem = scale(a, None, 1.0) if free else scale(a, 4, 0.0)
    iteration = advanced(problem, 40)
    shifted = iteration.shifted.copy()
    plain = feasible(problem, iteration.vectors, iteration.weights)
    rows, share, worth_of_it = iteration.polished(None)
    np.testing.assert_allclose(iteration.shifted, shifted, atol=1e-12)  # the next step is what it would have been
    x = (rows.T * share) @ rows + 1 / 60
    assert worth_of_it == pytest.approx(inner(problem, x) - problem.price * (1 + share.sum()), rel=1e-9)
    made = feasible(problem, rows, share, lifting=False)
    check_feasible(made.X, made.trace)
    if not free:
        later = advanced(problem, 150)
        top = bound_of_state(problem, later.state, later.weight)
        assert top - made.value < 0.5 * (top - plain.value)


def test_mirroring_stops_where_the_goal_is_reached_or_out_of_reach(monkeypatch):
    problem = scale(family("kernel", 60), 4, 0.0)
    iteration = advanced(problem, 40)
    calls = []
    step = DenseEigenStep.__call__
    monkeypatch.setattr(DenseEigenStep, "__call__", lambda *given: calls.append(1) or step(*given))

    def took(goal):
        calls.clear()
        iteration.polished(goal)
        return len(calls)

    everything = iteration.polished(None)[2]
    spread = everything - problem.uniform(4.0)
    assert took(everything + spread) == 0  # out of reach
    assert 0 < took(everything - 0.003 * spread) < took(None) <= POLISH


def test_a_smooth_kernel_takes_few_eigendecompositions(monkeypatch):
    calls = []
    step = DenseEigenStep.__call__
    monkeypatch.setattr(DenseEigenStep, "__call__", lambda *given: calls.append(1) or step(*given))
    found = solve_sdp(family("kernel", 100), 5)
    assert found.gap <= 1e-4
    assert len(calls) < 400  # more than 600 without mirroring


def test_clusters_of_rows_are_found_or_refused():
    a, truth = planted(0, 12, 3, 0.0)
    values, vectors = np.linalg.eigh(a / 4)
    root = vectors[:, -3:].T
    labels = nearest_partition(root, 3)
    assert {frozenset(group) for group in groups_of(labels)} == {frozenset(group) for group in groups_of(truth)}
    assert nearest_partition(vectors.T, 2) is None, "far more rows than clusters"
    assert nearest_partition(root, 1) is None
    assert values[-1] == pytest.approx(1)


# ---------------------------------------------------------------- along prices


def test_the_path_of_prices_and_the_price_of_k():
    a, _ = planted(2, 24, 4, 0.4)
    np.fill_diagonal(a, 0.0)
    candidates, bound = penalty_path(a, 24)
    assert {candidate.k for candidate in candidates} >= {1, 24}
    assert max(worth(a, groups_of(candidate.labels)) for candidate in candidates) <= bound
    solution, price = penalty_for(a, 4)
    assert solution.trace == pytest.approx(4, abs=1e-2)
    assert solution.value == pytest.approx(solve_sdp(a, 4).value - 4 * price, rel=1e-3)
