"""What surrounds the relaxation when there are many tasks: against the plain way, on sizes where both can run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from coterie.grouping import adjusted_rand, solve_sdp
from coterie.grouping.grid import grid
from coterie.grouping.group import PATH, penalty_path
from coterie.grouping.matrix import as_symmetric, canonical_order, centred, symmetrise, with_diagonal
from coterie.grouping.objective import EXCHANGES, as_labels, group_sums, improve, membership, sum_of_densities
from coterie.grouping.rounding import round_solution
from coterie.grouping.spectral import ALL, cluster_rows, leading_pairs
from reference.partitions import groups_of, worth

SEEDS = st.integers(0, 10_000)


def planted(seed, n, k, noise):
    generator = np.random.default_rng(seed)
    truth = generator.permutation(np.arange(n) % k)
    return (truth[:, None] == truth[None, :]) + noise * symmetrise(generator.normal(size=(n, n))), truth


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 60), d=st.integers(1, 6), data=st.data())
def test_kmeans_fills_every_cluster_and_is_about_as_good_as_another_implementation(seed, n, d, data):
    k = data.draw(st.integers(1, min(n, 8)))
    points = np.random.default_rng(seed).normal(size=(n, d))
    labels = cluster_rows(points, k, seed)
    assert sorted(set(labels.tolist())) == list(range(k))
    spread = sum(((points[labels == c] - points[labels == c].mean(axis=0)) ** 2).sum() for c in range(k))
    assert spread <= 1.1 * KMeans(k, n_init=10, random_state=0).fit(points).inertia_ + 1e-9


def test_kmeans_finds_well_separated_clusters_and_does_not_see_a_shift():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 6, 300)
    points = 20 * generator.normal(size=(6, 4))[truth] + generator.normal(size=(300, 4))
    assert adjusted_rand(cluster_rows(points, 6, 1), truth) == 1
    assert adjusted_rand(cluster_rows(points + 1e6, 6, 1), truth) == 1


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 40))
def test_order_is_that_of_the_plain_sort_and_does_not_depend_on_the_order(seed, n):
    generator = np.random.default_rng(seed)
    a = symmetrise(generator.integers(0, 3, size=(n, n)).astype(float))  # many ties
    keys = np.column_stack([np.diag(a), np.sort(a, axis=1)])
    order = canonical_order(a)
    assert order.tolist() == np.lexsort(keys.T[::-1]).tolist()
    a = symmetrise(generator.normal(size=(n, n)))
    shuffled = generator.permutation(n)
    np.testing.assert_array_equal(shuffled[canonical_order(a[np.ix_(shuffled, shuffled)])], canonical_order(a))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 40))
def test_matrices_are_read_as_by_the_formulas(seed, n):
    a = np.random.default_rng(seed).normal(size=(n, n))
    np.testing.assert_array_equal(symmetrise(a), a / 2 + a.T / 2)
    off = ~np.eye(n, dtype=bool)
    np.testing.assert_allclose(centred(a), a - a[off].mean(), atol=1e-12)
    both = symmetrise(a)
    expected = np.where(off, a, np.where(off, both, 0).sum(axis=1)[:, None] / (n - 1))
    np.testing.assert_allclose(with_diagonal(a, "mean"), expected, atol=1e-12)
    assert as_symmetric(both) is both
    assert as_symmetric(a) is not a


def test_symmetrising_a_large_matrix_by_blocks():
    a = np.random.default_rng(0).normal(size=(1_500, 1_500))
    np.testing.assert_array_equal(symmetrise(a), a / 2 + a.T / 2)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(70, 90), k=st.sampled_from([2, 66, 69]))
def test_sums_over_groups(seed, n, k):
    generator = np.random.default_rng(seed)
    a, labels = generator.normal(size=(n, n)), generator.permutation(np.arange(n) % k)
    np.testing.assert_allclose(group_sums(a, labels, k), a @ membership(labels), atol=1e-12)
    assert sum_of_densities(a, labels) == pytest.approx(worth(a, groups_of(labels)))


def plain_moves(a, labels):
    """Best move of one task, everything computed anew each time."""
    labels, k = labels.copy(), labels.max() + 1
    while True:
        now, best, change = sum_of_densities(a, labels), 1e-9, None
        for task in range(len(a)):
            for target in range(k):
                tried = labels.copy()
                tried[task] = target
                if len(set(tried)) == k and sum_of_densities(a, tried) - now > best:
                    best, change = sum_of_densities(a, tried) - now, tried
        if change is None:
            return labels
        labels = change


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 10), data=st.data())
def test_moves_are_those_of_the_plain_search(seed, n, data):
    generator = np.random.default_rng(seed)
    a, k = symmetrise(generator.normal(size=(n, n))), data.draw(st.integers(2, n - 1))
    start = as_labels(generator.permutation(np.arange(n) % k), n)
    found = improve(a, start, exchanges=False)
    assert sum_of_densities(a, found) == pytest.approx(sum_of_densities(a, plain_moves(a, start)))


def test_many_moves_end_where_no_move_helps():
    a, _ = planted(0, EXCHANGES + 100, 4, 4.0)
    start = np.arange(len(a)) % 7
    final = improve(a, start)
    member = membership(final)
    sums, sizes = a @ member, member.sum(axis=0)
    inner, own, diagonal = np.diag(member.T @ sums), sums[np.arange(len(a)), final], np.diag(a)
    leaving = (inner[final] - 2 * own + diagonal) / (sizes[final] - 1) - inner[final] / sizes[final]
    joining = (inner + 2 * sums + diagonal[:, None]) / (sizes + 1) - inner / sizes
    joining[np.arange(len(a)), final] = -np.inf
    assert (leaving[:, None] + joining).max() < 1e-8
    assert sum_of_densities(a, final) > sum_of_densities(a, start)


def test_leading_eigenvectors_of_a_large_matrix():
    a, _ = planted(0, ALL + 50, 5, 1.0)
    vectors, values = leading_pairs(a, 8)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a)[-8:], rtol=1e-6)
    np.testing.assert_allclose(a @ vectors, vectors * values, atol=1e-3 * values[-1])
    np.testing.assert_allclose(leading_pairs(a[:40, :40], 3)[1], np.linalg.eigvalsh(a[:40, :40])[-3:])


@pytest.mark.slow
def test_many_tasks_from_the_matrix_to_groups():
    n = ALL + 40
    a, truth = planted(1, n, 6, 1.5)
    solution = solve_sdp(a, 6)
    labels = round_solution(solution.X, a, 6)
    assert adjusted_rand(labels, truth) == 1
    assert sum_of_densities(a, labels) <= solution.bound
    assert solution.gap < 2e-3


@pytest.mark.slow
def test_number_of_groups_of_many_tasks():
    n = PATH + 20
    a, truth = planted(1, n, 6, 0.02)
    candidates, bound = penalty_path(with_diagonal(a, "zero"), n)
    scores = [sum_of_densities(with_diagonal(a, "zero"), candidate.labels) for candidate in candidates]
    best = candidates[int(np.argmax(scores))]
    assert adjusted_rand(best.labels, truth) == 1
    assert max(scores) <= bound
    assert {candidate.k for candidate in candidates} >= {1, 2, 3, 4, 6, n}


def test_grid_of_numbers_of_groups():
    assert grid(1) == []
    assert grid(50) == [2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
