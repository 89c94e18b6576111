"""Leiden on signed graphs against brute force, against networkx, and its search for k groups."""

import sys

import networkx as nx
import numpy as np
import pytest

from coterie.errors import MissingDependencyError
from coterie.grouping import adjusted_rand, group
from coterie.grouping.peers.leiden import _Runner, leiden_partition
from reference.partitions import groups_of, set_partitions


def signed(seed, n):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return (a + a.T) / 2


def quality(a, groups, resolution):
    """Sum over pairs within groups of (A - resolution), by loops."""
    return sum(a[u][v] - resolution for members in groups for i, u in enumerate(members) for v in members[:i])


def blocks(seed, sizes, noise, inside=1.0, outside=-1.0):
    generator = np.random.default_rng(seed)
    truth = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    draw = noise * generator.normal(size=(len(truth), len(truth)))
    return np.where(truth[:, None] == truth[None, :], inside, outside) + (draw + draw.T) / 2, truth


def test_the_best_partition_of_small_signed_graphs_is_mostly_found():
    """Measured: 40 of 40."""
    hits = 0
    for seed in range(40):
        a, n = signed(seed, 7), 7
        best = max(quality(a, p, 0.05) for p in set_partitions(list(range(n))))
        found = quality(a, groups_of(leiden_partition(a, resolution=0.05).labels), 0.05)
        assert found <= best + 1e-9
        hits += found >= best - 1e-9
    assert hits >= 37


@pytest.mark.parametrize("seed", range(3))
def test_quality_is_that_of_networkx_on_a_graph_with_equal_degrees(seed):
    """There, modularity is the constant Potts quality at degree / nodes, so another library's optimum compares."""
    graph = nx.random_regular_graph(6, 60, seed=seed)
    a = nx.to_numpy_array(graph)
    resolution = 6 / 60
    theirs = max(
        quality(a, [sorted(c) for c in nx.community.louvain_communities(graph, seed=s)], resolution) for s in range(5)
    )
    ours = quality(a, groups_of(leiden_partition(a, resolution=resolution).labels), resolution)
    assert ours >= 0.98 * theirs


def test_negative_weights_push_apart():
    a = np.array([[0, 3, 1], [3, 0, -2], [1, -2, 0]], dtype=float)  # together: 2 in all; the first pair alone: 3
    assert groups_of(leiden_partition(a, resolution=0.0).labels) == [[0, 1], [2]]
    assert groups_of(leiden_partition(np.abs(a), resolution=0.0).labels) == [[0, 1, 2]]


def test_the_sum_that_the_runs_are_compared_by():
    a = signed(3, 9)
    labels = np.array([0, 0, 1, 2, 1, 0, 2, 2, 1])
    assert _Runner(a, 0).quality(labels, 0.3) == pytest.approx(2 * quality(a, groups_of(labels), 0.3))


@pytest.mark.parametrize("sizes", [(8, 8, 8), (20, 6, 4), (30, 30)])
def test_planted_groups_come_back_without_being_told_their_number(sizes):
    a, truth = blocks(1, sizes, noise=0.8)
    assert adjusted_rand(truth, leiden_partition(a, resolution=0.0).labels) == 1.0
    assert adjusted_rand(truth, leiden_partition(a).labels) == 1.0


def test_a_constant_and_a_scale_change_the_resolution_only():
    a = signed(5, 30)
    plain, moved = leiden_partition(a, 4), leiden_partition(1e3 * a + 1e5, 4)
    assert moved.labels.tolist() == plain.labels.tolist()
    assert moved.resolution == pytest.approx(1e3 * plain.resolution + 1e5, rel=1e-9)


@pytest.mark.parametrize("n", [3, 12, 40])
def test_every_number_of_groups_is_made(n):
    a = signed(n, n)
    for k in {1, 2, n // 2, n - 1, n}:
        found = leiden_partition(a, k)
        assert sorted(set(found.labels.tolist())) == list(range(k))


def test_more_resolution_more_groups():
    a = signed(8, 40)
    counts = [leiden_partition(a, resolution=r).communities for r in (-5.0, -0.1, 0.3, 1.0, 5.0)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 40)


def test_a_number_that_no_resolution_gives_is_reached_by_merging_or_taking_out():
    """Two blocks of equal entries: the graph falls from two groups to six tasks at one resolution."""
    a = np.kron(np.eye(2), np.ones((3, 3)))
    found = leiden_partition(a, 4)
    assert found.communities != 4
    assert len(set(found.labels.tolist())) == 4
    assert group(a, 4, method="leiden").details["communities"] == found.communities


def test_constant_and_tiny_matrices():
    assert leiden_partition(np.ones((4, 4)), 2).labels.max() == 1
    assert leiden_partition(np.array([[0.0, 1.0], [1.0, 0.0]]), resolution=0.5).labels.tolist() == [0, 0]


def test_same_seed_same_groups():
    a = signed(9, 50)
    assert leiden_partition(a, 5, seed=3).labels.tolist() == leiden_partition(a, 5, seed=3).labels.tolist()


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "graspologic_native", None)
    with pytest.raises(MissingDependencyError, match=r"coterie\[leiden\]"):
        group(signed(0, 5), 2, method="leiden")
