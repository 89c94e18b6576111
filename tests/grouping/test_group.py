"""The whole way from an affinity to groups."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import CoterieError, SettingError
from coterie.grouping import METHODS, Grouping, group
from reference.partitions import best_partition, groups_of, worth
from reference.taskonomy import CS, TAG, TASKS

SEEDS = st.integers(0, 10_000)


@dataclass
class FakeAffinity:
    values: np.ndarray
    tasks: tuple[str, ...]


def random_matrix(seed, n):
    return np.random.default_rng(seed).normal(size=(n, n))


def planted(seed, sizes, noise):
    """A noisy block matrix in random order, and its blocks."""
    generator = np.random.default_rng(seed)
    truth = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(truth)
    return (truth[:, None] == truth[None, :]) + noise * generator.normal(size=(n, n)), groups_of(truth)


def as_sets(found):
    return {frozenset(members) for members in found}


@pytest.mark.parametrize("method", ["sdp", "sdp-penalty", "spectral"])
@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (10, 4), (12, 15), (4, 4, 4), (6, 3, 2)])
def test_shuffled_blocks_come_back_exactly(method, sizes):
    a, truth = planted(len(sizes) + sum(sizes), sizes, noise=0.0)
    found = group(a, len(sizes), method=method)
    assert as_sets(found.groups) == as_sets(truth)
    assert found.objective == pytest.approx(sum(sizes))
    if method == "sdp":
        assert found.bound == pytest.approx(found.objective, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_noisy_blocks_come_back(seed):
    a, truth = planted(seed, (9, 7, 5), noise=0.25)
    assert as_sets(group(a, 3).groups) == as_sets(truth)


def test_number_of_blocks_is_chosen_when_the_diagonal_is_set_on_purpose():
    for seed in range(3):
        a, truth = planted(seed, (6, 5, 4), noise=0.1)
        assert as_sets(group(a, diagonal="mean").groups) == as_sets(truth)
        assert as_sets(group(a, diagonal="zero").groups) == as_sets(truth)


def test_the_diagonal_decides_between_blocks_and_singletons():
    a = np.kron(np.eye(2), np.ones((3, 3)))
    assert group(a + np.eye(6), diagonal="keep").n_groups == 6
    assert group(a - np.eye(6), diagonal="keep").n_groups == 2
    assert group(a + np.eye(6), 2).groups == group(a - np.eye(6), 2).groups == ((0, 1, 2), (3, 4, 5))


def test_taskonomy_groups():
    expected = {frozenset({"segmentation", "normals", "depth"}), frozenset({"keypoints", "edges"})}
    for values in (TAG, CS):
        found = group(FakeAffinity(values, TASKS), 2, diagonal="zero")
        assert as_sets(found.names) == expected
        assert as_sets(group(FakeAffinity(values, TASKS), diagonal="zero").names) == expected


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 8), data=st.data())
def test_order_of_the_tasks_does_not_matter(seed, n, data):
    a, order = random_matrix(seed, n), np.random.default_rng(seed + 1).permutation(n)
    k = data.draw(st.none() | st.integers(1, n))
    method = data.draw(st.sampled_from(["sdp", "sdp-penalty", "spectral"]))
    plain, shuffled = group(a, k, method=method), group(a[np.ix_(order, order)], k, method=method)
    assert as_sets([order[list(members)].tolist() for members in shuffled.groups]) == as_sets(plain.groups)
    assert shuffled.objective == pytest.approx(plain.objective, abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 8), shift=st.floats(-20, 20), scale=st.floats(1e-3, 1e3), data=st.data())
def test_shift_and_scale_do_not_matter(seed, n, shift, scale, data):
    k = data.draw(st.none() | st.integers(1, n))
    a = random_matrix(seed, n)
    plain, moved = group(a, k), group(scale * a + shift, k)
    assert moved.objective == pytest.approx(scale * plain.objective + n * shift, abs=1e-7 * (1 + scale + abs(shift)))
    if k is not None:
        assert moved.groups == plain.groups


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 7), data=st.data())
def test_bound_is_never_below_the_best_partition_and_the_groups_never_above(seed, n, data):
    k = data.draw(st.none() | st.integers(1, n))
    method = data.draw(st.sampled_from(["sdp", "sdp-penalty"]))
    a = random_matrix(seed, n)
    best, _ = best_partition(a, k)
    found = group(a, k, method=method)
    assert found.objective == pytest.approx(worth(a, found.groups))
    assert found.objective <= best + 1e-9 <= found.bound + 2e-9


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 6), data=st.data())
def test_exhaustive_equals_the_enumeration_of_partitions(seed, n, data):
    k = data.draw(st.none() | st.integers(1, n))
    a = random_matrix(seed, n)
    best, partition = best_partition(a, k)
    found = group(a, k, method="exhaustive")
    assert found.objective == pytest.approx(best)
    assert as_sets(found.groups) == as_sets(partition)


def test_chosen_number_of_groups_mostly_reaches_the_best_partition():
    """Measured: 150 of 150 such matrices."""
    hits = 0
    for seed in range(12):
        a = random_matrix(seed, 3 + seed % 5)
        hits += group(a).objective >= best_partition(a)[0] - 1e-9
    assert hits >= 11


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_gives_a_partition(method):
    found = group(random_matrix(0, 6), method=method)
    assert sorted(task for members in found.groups for task in members) == list(range(6))
    assert found.method == method
    json.dumps(found.to_dict(), allow_nan=False)


def test_extreme_numbers_of_groups():
    a = random_matrix(2, 5)
    assert group(a, 1).groups == group(a, method="all-in-one").groups == ((0, 1, 2, 3, 4),)
    assert group(a, 5).groups == group(a, method="single-task").groups == ((0,), (1,), (2,), (3,), (4,))
    assert group(a, k_max=2).n_groups <= 2


def test_same_seed_same_groups():
    a = random_matrix(5, 14)
    assert group(a, 4, seed=3) == group(a, 4, seed=3)


def test_identical_tasks_can_be_split_into_any_number_of_groups():
    for k in range(1, 6):
        assert group(np.full((5, 5), 0.3), k).n_groups == k
    assert group(np.full((5, 5), 0.3)).n_groups == 1, "among equals, fewer models"


def test_a_price_of_a_group_lowers_their_number():
    a, _ = planted(0, (4, 4, 4), noise=0.1)
    counts = [group(a, method="sdp-penalty", penalty=price, diagonal="mean").n_groups for price in (0.0, 3.0, 10.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1


def test_progress_is_told():
    said = []
    group(random_matrix(1, 5), progress=lambda *what: said.append(what))
    assert said
    assert said[-1][1] == said[-1][2]


BAD = [
    ({"affinity": np.eye(4), "k": 5}, "`k`.*4.*5"),
    ({"affinity": np.eye(4), "k": 0}, "`k`"),
    ({"affinity": np.eye(4), "k": -1}, "`k`"),
    ({"affinity": np.eye(4), "k": 1.5}, "`k`"),
    ({"affinity": np.eye(4), "k": True}, "`k`"),
    ({"affinity": np.eye(4), "k_max": 9}, "`k_max`"),
    ({"affinity": np.where(np.arange(16).reshape(4, 4) == 6, np.nan, 1.0)}, "1 that are not.*'task 1'.*'task 2'"),
    ({"affinity": np.diag([1.0, np.nan, 1.0])}, "diagonal='mean'"),
    ({"affinity": np.full((3, 3), np.inf)}, "finite"),
    ({"affinity": np.ones((3, 4))}, r"square.*\(3, 4\)"),
    ({"affinity": np.ones(3)}, "square"),
    ({"affinity": [["a", "b"], ["c", "d"]]}, "numbers"),
    ({"affinity": [[1.0]]}, "at least two tasks"),
    ({"affinity": np.eye(4), "method": "kmeans"}, "`method`.*'sdp'.*'kmeans'"),
    ({"affinity": np.eye(4), "diagonal": "one"}, "`diagonal`"),
    ({"affinity": np.eye(13), "method": "exhaustive"}, "at most 12"),
    ({"affinity": np.eye(4), "method": "all-in-one", "k": 2}, "Leave `k` out"),
    ({"affinity": np.eye(4), "penalty": 1.0}, "`penalty`"),
    ({"affinity": np.eye(4), "method": "sdp-penalty", "penalty": float("nan")}, "`penalty`"),
    ({"affinity": FakeAffinity(np.eye(2), ("a", "a"))}, "once"),
    ({"affinity": FakeAffinity(np.eye(2), ("a", "b", "c"))}, "3 names"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(SettingError, match=f"(?s){message}") as caught:
        group(**arguments)
    assert isinstance(caught.value, CoterieError)
    assert isinstance(caught.value, ValueError)


def test_a_missing_diagonal_is_no_trouble_where_it_is_not_read():
    a = np.array([[np.nan, 1.0, 0.0], [1.0, np.nan, 0.0], [0.0, 0.0, np.nan]])
    assert group(a, diagonal="zero").groups == group(a, 2, diagonal="mean").groups == ((0, 1), (2,))


def test_result_is_a_grouping():
    assert isinstance(group(np.eye(3), 2), Grouping)


BLOCKS = np.kron(np.eye(2), np.ones((2, 2)))


def test_a_data_frame_brings_its_names():
    pandas = pytest.importorskip("pandas")
    names = ["w", "x", "y", "z"]
    frame = pandas.DataFrame(BLOCKS, index=names, columns=names)
    expected = (("w", "x"), ("y", "z"))
    assert group(frame, k=2).names == expected
    assert group(frame.loc[["z", "x", "w", "y"]], k=2).names == expected
    assert group(pandas.DataFrame(BLOCKS, columns=names), k=2).names == expected
    named = ["tasks", "values", "y", "z"]
    assert group(pandas.DataFrame(BLOCKS, index=named, columns=named), k=2).tasks == tuple(named)
    for index in (["w", "x", "y", "other"], ["w", "x", "y", "y"], [5, 6, 7, 8]):
        with pytest.raises(SettingError, match=r"index .* and columns"):
            group(pandas.DataFrame(BLOCKS, index=index, columns=names), k=2)
    with pytest.raises(SettingError, match="square"):
        group(pandas.DataFrame(BLOCKS[:3], columns=names), k=2)


@pytest.mark.parametrize("values", [BLOCKS * 1j, (BLOCKS * 1j).tolist()])
def test_complex_numbers_are_refused(values):
    with pytest.raises(SettingError, match="real numbers"):
        group(values, k=2)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0", 2**32, None])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(SettingError, match="`seed`"):
        group(BLOCKS, k=2, seed=seed)


def test_huge_entries_are_named_and_large_ones_work():
    names = ("w", "x", "y", "z")
    huge = BLOCKS.copy()
    huge[1, 2] = 1e308
    for diagonal in ("keep", "zero", "mean"):
        with pytest.raises(SettingError, match=r"1e\+308 for target 'x' and source 'y'"):
            group(FakeAffinity(huge, names), k=2, diagonal=diagonal)
    assert group(BLOCKS * 1e149, k=2).groups == ((0, 1), (2, 3))


def test_details_have_the_types_of_json():
    written = json.loads(json.dumps(group(BLOCKS, k=2).to_dict()))
    details = written["details"]
    assert Grouping.from_dict(written).details == details  # truth values, too
    assert details["k_given"] is True
    assert type(details["sdp_iterations"]) is int
    assert group(BLOCKS).to_dict()["details"]["k_given"] is False


def test_many_groups_are_found_where_few_are_worth_less_than_none():
    n, groups = 600, 40
    labels = np.arange(n) % groups
    a = np.where(labels[:, None] == labels[None, :], 0.2, -0.1) + 0.02 * np.random.default_rng(0).normal(size=(n, n))
    np.fill_diagonal(a, 0)
    found = group(a)
    planted = sum(a[np.ix_(labels == c, labels == c)].sum() / (labels == c).sum() for c in range(groups))
    assert found.objective > 0.9 * planted


def test_bound_of_a_price_covers_all_numbers_of_groups():
    found = group(np.kron(np.eye(2), np.ones((3, 3))), method="sdp-penalty", penalty=10.0)
    assert found.bound >= 6.0 - 1e-6


def test_k_beyond_k_max_is_refused():
    with pytest.raises(SettingError, match="k_max"):
        group(np.eye(5), 3, k_max=2)
