"""Methods to compare with: average linkage, random groups, the two trivial groupings, and reaching exactly k groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.grouping import METHODS, group
from coterie.grouping.objective import sum_of_densities
from coterie.grouping.peers.agglomerative import agglomerative_labels, cut, merge_tree
from coterie.grouping.peers.random_groups import random_partition
from coterie.grouping.rounding import merge_once, split_once, to_k_groups
from reference.linkage import average_linkage
from reference.partitions import groups_of, worth

SEEDS = st.integers(0, 10_000)
PEERS = ("spectral", "agglomerative", "leiden", "random")


def random_matrix(seed, n):
    return np.random.default_rng(seed).normal(size=(n, n))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 12), data=st.data())
def test_agglomerative_equals_joining_the_best_pair(seed, n, data):
    a, k = random_matrix(seed, n), data.draw(st.integers(1, n))
    assert groups_of(agglomerative_labels(a, k)) == average_linkage(a, k)


@pytest.mark.parametrize("k", [2, 5, 20])
def test_agglomerative_equals_scikit_learn(k):
    from sklearn.cluster import AgglomerativeClustering

    a = random_matrix(k, 60)
    symmetric = a + a.T
    distance = symmetric.max() - symmetric
    np.fill_diagonal(distance, 0.0)
    theirs = AgglomerativeClustering(k, metric="precomputed", linkage="average").fit_predict(distance)
    assert groups_of(agglomerative_labels(a, k)) == groups_of(theirs)


def test_a_tree_has_exactly_k_groups_at_every_cut_also_with_ties():
    for a in (np.ones((7, 7)), np.kron(np.eye(3), np.ones((3, 3))), random_matrix(1, 9)):
        tree = merge_tree(a)
        assert [len(set(cut(tree, k).tolist())) for k in range(1, len(a) + 1)] == list(range(1, len(a) + 1))


def test_the_diagonal_is_not_read_by_agglomerative():
    a = random_matrix(3, 8)
    assert agglomerative_labels(a + 100 * np.eye(8), 3).tolist() == agglomerative_labels(a, 3).tolist()


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 30), data=st.data())
def test_random_groups_are_even_and_complete(seed, n, data):
    k = data.draw(st.integers(1, n))
    sizes = np.bincount(random_partition(n, k, seed=seed))
    assert len(sizes) == k
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1


def test_random_groups_differ_with_the_seed_and_their_number_is_drawn():
    assert len({tuple(random_partition(12, 3, seed=seed)) for seed in range(20)}) > 15
    counts = {int(random_partition(6, k_max=4, seed=seed).max()) + 1 for seed in range(60)}
    assert counts == {1, 2, 3, 4}


def test_every_pair_is_together_equally_often():
    together = np.zeros((6, 6))
    for seed in range(600):
        labels = random_partition(6, 3, seed=seed)
        together += labels[:, None] == labels[None, :]
    share = together[np.triu_indices(6, 1)] / 600
    assert share == pytest.approx(np.full(15, 0.2), abs=0.07)  # 5 standard errors


@pytest.mark.parametrize("method", [*PEERS, "intervals"])
@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_every_peer_makes_exactly_k_groups_and_reports_their_worth(method, k):
    a = random_matrix(7, 9)
    found = group(a, k, method=method)
    assert found.n_groups == k
    assert found.objective == pytest.approx(worth(a, found.groups))
    assert found.bound is None


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 10), shift=st.floats(-20, 20), scale=st.floats(1e-2, 1e2), data=st.data())
def test_peers_do_not_depend_on_order_shift_or_scale(seed, n, shift, scale, data):
    k, method = data.draw(st.none() | st.integers(1, n)), data.draw(st.sampled_from(PEERS))
    a, order = random_matrix(seed, n), np.random.default_rng(seed + 1).permutation(n)
    plain = group(a, k, method=method)
    if method == "spectral":
        shift = 0.0  # the signed Laplacian reads the sign of every entry
    assert group(scale * a + shift, k, method=method).groups == plain.groups
    shuffled = group(a[np.ix_(order, order)], k, method=method)
    assert {frozenset(order[list(m)].tolist()) for m in shuffled.groups} == {frozenset(m) for m in plain.groups}


@pytest.mark.parametrize("method", PEERS)
def test_peers_keep_to_the_largest_number_of_groups(method):
    for seed in range(5):
        assert group(random_matrix(seed, 12), method=method, k_max=2).n_groups <= 2


def test_peers_group_by_a_gain_model():
    class Model:
        tasks = tuple("abcd")

        def predict(self, subsets):
            chosen = np.asarray(subsets, dtype=bool)
            good = chosen[:, :2].all(axis=1) & ~chosen[:, 2:].any(axis=1)
            return np.where(chosen, np.where(good, 1.0, 0.0)[:, None], np.nan)

        def pairwise(self):
            values = np.full((4, 4), -1.0)
            values[0, 1] = values[1, 0] = values[2, 3] = values[3, 2] = 1.0
            return values

    for method in ("agglomerative", "leiden", "spectral"):
        found = group(Model(), 2, method=method)
        assert found.names == (("a", "b"), ("c", "d"))
        assert found.objective == pytest.approx(0.5)
        assert found.details["sum_of_densities"] == pytest.approx(0.0)


def test_an_unknown_method_names_all():
    with pytest.raises(SettingError, match="agglomerative"):
        group(random_matrix(0, 4), method="average")
    assert {*PEERS, "intervals", "all-in-one", "single-task", "exhaustive"} <= set(METHODS)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 8), data=st.data())
def test_one_merge_and_one_departure_are_the_best_there_are(seed, n, data):
    a = random_matrix(seed, n)
    a = a + a.T
    labels = np.array(data.draw(st.lists(st.integers(0, n), min_size=n, max_size=n)))
    groups = groups_of(labels)
    k = len(groups)
    if k > 1:
        pairs = [(one, two) for one in groups for two in groups if one < two]
        rest = [[*(g for g in groups if g not in pair), pair[0] + pair[1]] for pair in pairs]
        assert sum_of_densities(a, merge_once(a, _clean(labels))) == pytest.approx(max(worth(a, p) for p in rest))
    if k < n:
        apart = [[[t], *[[u for u in g if u != t] for g in groups if g != [t]]] for t in range(n) if [t] not in groups]
        assert sum_of_densities(a, split_once(a, _clean(labels))) == pytest.approx(max(worth(a, p) for p in apart))
    assert len(set(to_k_groups(a, labels, 2).tolist())) == 2


def _clean(labels):
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
