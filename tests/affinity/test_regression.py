"""The batched offset regression against plain references."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.affinity.blocks import Layout, Penalty, Statistics, TaskBlock, compute_statistics
from coterie.affinity.conjugate import ConjugateSolver, Shifts
from coterie.affinity.newton import solve, values
from coterie.affinity.refine import Stopping, iterate
from coterie.errors import NumericsWarning, SettingError, WorkloadError
from coterie.workload.losses import get_loss
from reference import offset_regression as reference

BINARY, MULTI, SQUARED = (get_loss(kind) for kind in ("binary", "multiclass", "regression"))
KINDS = [BINARY, SQUARED, BINARY, MULTI]
MASK = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0]], dtype=bool)
METHODS = ("cholesky", "conjugate")


def blocks(seed: int = 0, d: int = 6, dtype: torch.dtype = torch.float64) -> list[TaskBlock]:
    return reference.make_blocks(seed, [30, 50, 1, 40], d, [3, 0, 2, 5], KINDS, dtype)


def tasks_of(row: np.ndarray) -> list[int]:
    return np.flatnonzero(row).tolist()


@pytest.mark.parametrize("ridge", [1e-6, 0.01, 3.0])
def test_one_step_is_a_dense_newton_step(ridge: float) -> None:
    sums = compute_statistics(blocks(), chunk_rows=7)
    penalty = Penalty(0.5, 2.0)
    solution = solve(sums, MASK, ridge, penalty=penalty)
    for number, row in enumerate(MASK):
        u, theta = reference.newton(blocks(), tasks_of(row), ridge, penalty=(0.5, 2.0))
        np.testing.assert_allclose(solution.trunk[number].numpy(), u, rtol=1e-6, atol=1e-9)
        heads = [solution.head(t)[1][solution.head(t)[0] == number][0].numpy() for t in tasks_of(row)]
        np.testing.assert_allclose(np.concatenate(heads), theta[6:], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("ridge", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_iterated_reaches_the_optimum(offset: bool, ridge: float, method: str) -> None:
    train, check = blocks(), blocks(1)
    sums = compute_statistics(train, offset=offset)
    penalty = sums.penalty()
    solution = iterate(sums, train, MASK, ridge, penalty=penalty, stopping=Stopping(1e-9), method=method)
    found = values(solution, check)
    assert np.array_equal(np.isnan(found), ~MASK)
    for number, row in enumerate(MASK):
        weights = (penalty.trunk, penalty.heads)
        best = reference.fit(train, tasks_of(row), ridge, penalty=weights, offset=offset)
        distance = float(solution.objective[number]) - best.objective
        assert -1e-12 < distance < 1e-8
        assert distance <= float(solution.bound[number]) + 1e-12
        truth = reference.values(check, tasks_of(row), best.u, best.w)
        for task in tasks_of(row):
            assert found[number, task] == pytest.approx(truth[task], abs=1e-3)


def test_float32_comes_within_the_tolerance_too() -> None:
    train = reference.make_blocks(3, [200] * 4, 120, [4] * 4, [BINARY] * 4, torch.float32, scale=0.2)
    mask = np.random.default_rng(0).random((100, 4)) < 0.6
    mask[~mask.any(1), 0] = True
    sums = compute_statistics(train)
    solution = iterate(sums, train, mask, 0.01)  # enough subsets and directions for conjugate gradients
    for number in range(0, 100, 10):
        best = reference.fit(train, tasks_of(mask[number]), 0.01)
        assert float(solution.objective[number]) - best.objective < 1e-6
    exact = solve(sums, mask, 0.01, method="cholesky").trunk
    assert torch.linalg.norm(solve(sums, mask, 0.01, method="conjugate").trunk - exact) < 1e-4 * torch.linalg.norm(
        exact
    )


def test_a_tiny_ridge_is_left_to_cholesky() -> None:
    train = reference.make_blocks(3, [40] * 4, 120, [4] * 4, [BINARY] * 4)
    sums, mask = compute_statistics(train), np.tile(MASK, (20, 1))
    for ridge, same in ((1e-9, True), (0.01, False)):
        chosen, exact = (solve(sums, mask, ridge, method=method).trunk for method in ("auto", "cholesky"))
        assert torch.equal(chosen, exact) == same
        torch.testing.assert_close(chosen, exact, rtol=1e-3, atol=1e-4)


def many_tasks(rows: list[int], d: int = 100) -> Statistics:
    return compute_statistics(reference.make_blocks(1, rows, d, [8] * len(rows), [BINARY] * len(rows), scale=0.3))


@pytest.mark.parametrize("rows", [[40] * 24, list(range(30, 54))])
def test_the_faster_way_is_taken_and_agrees(rows: list[int]) -> None:
    """Head blocks that differ from subset to subset are dear to eliminate one by one, also for a few subsets."""
    sums, mask = many_tasks(rows), np.random.default_rng(0).random((40, 24)).argsort(1) < 20
    fast, exact, other = (solve(sums, mask, 0.1, method=m).trunk for m in ("auto", "cholesky", "conjugate"))
    assert torch.equal(fast, exact if len(set(rows)) == 1 else other)
    torch.testing.assert_close(other, exact, rtol=1e-3, atol=1e-5)


def test_each_strength_of_the_ridge_has_its_own_preconditioner() -> None:
    """Strengths that are a thousand times apart are solved in one call."""
    sums, mask = many_tasks(list(range(30, 54))), np.random.default_rng(0).random((30, 24)) < 0.5
    ridges = np.logspace(1, -2, 4)
    layout = Layout.from_mask(np.tile(mask, (4, 1)), sums.trunk.device)
    lambdas = torch.as_tensor(np.repeat(ridges, 30))
    solver = ConjugateSolver.of(sums, layout, Shifts.of(sums, layout, lambdas, Penalty()))
    assert solver.precondition.shape[0] == 4
    assert torch.equal(solver.levels.unique(return_counts=True)[1], torch.tensor([30] * 4))
    together = solve(sums, np.tile(mask, (4, 1)), np.repeat(ridges, 30), method="conjugate").trunk.view(4, 30, -1)
    for own, ridge in zip(together, ridges, strict=True):
        exact = solve(sums, mask, float(ridge), method="cholesky").trunk
        torch.testing.assert_close(own, exact, rtol=1e-3, atol=1e-5)


def test_conjugate_gradients_hand_over_what_they_cannot_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.affinity.conjugate._LIMIT", 1)
    sums = compute_statistics(blocks())
    exact, other = (solve(sums, MASK, 0.01, method=method).trunk for method in METHODS)
    torch.testing.assert_close(other, exact)


def test_extremes_of_the_ridge() -> None:
    train = blocks()
    sums = compute_statistics(train)
    assert float(iterate(sums, train, MASK, 1e9).trunk.abs().max()) < 1e-7
    tiny = iterate(sums, train, MASK, 1e-7, stopping=Stopping(max_steps=300))
    assert bool(torch.isfinite(tiny.objective).all())
    start = torch.from_numpy(MASK).double() @ sums.loss / (torch.from_numpy(MASK).double() @ sums.counts.double())
    assert bool((tiny.objective < 0.99 * start).all())
    with pytest.raises(SettingError, match="ridge"):
        solve(sums, MASK, 0.0)
    with pytest.raises(SettingError, match="ridge"):
        solve(sums, MASK, [0.1, 0.2])


def test_collinear_float32_features_survive_a_tiny_ridge() -> None:
    block = reference.make_blocks(0, [400], 1, [0], [BINARY], torch.float32)[0]
    wide = TaskBlock(block.g.repeat(1, 40) * 30, block.head, block.offset, block.targets, block.loss)
    sums = compute_statistics([wide])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericsWarning)
        solution = solve(sums, np.array([[True]]), 1e-14)
    u, _ = reference.newton([block], [0], 1e-12)
    assert float(solution.trunk.sum()) * 30 == pytest.approx(float(u[0]), rel=1e-2)


@pytest.mark.parametrize(("d", "widths"), [(0, [2, 3]), (3, [0, 0]), (0, [0, 0])])
def test_empty_blocks(d: int, widths: list[int]) -> None:
    train = reference.make_blocks(0, [20, 30], d, widths, [BINARY, SQUARED])
    sums = compute_statistics(train)
    mask = np.array([[True, False], [True, True]])
    found = values(iterate(sums, train, mask, 0.1, penalty=sums.penalty(), stopping=Stopping(1e-9)), train)
    for number, row in enumerate(mask):
        penalty = sums.penalty()
        best = reference.fit(train, tasks_of(row), 0.1, penalty=(penalty.trunk, penalty.heads))
        truth = reference.values(train, tasks_of(row), best.u, best.w)
        for task in tasks_of(row):
            assert found[number, task] == pytest.approx(truth[task], abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), method=st.sampled_from(METHODS))
def test_permuting_tasks_permutes_values(seed: int, method: str) -> None:
    order = np.random.default_rng(seed).permutation(4)
    train = blocks(seed)
    sums, turned = compute_statistics(train), compute_statistics([train[t] for t in order])
    straight = values(solve(sums, MASK, 0.02, method=method), train)
    other = values(solve(turned, MASK[:, order], 0.02, method=method), [train[t] for t in order])
    np.testing.assert_allclose(other, straight[:, order], rtol=1e-4 if method == "conjugate" else 1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), ridge=st.floats(1e-4, 10))
def test_repeating_all_rows_changes_nothing(seed: int, ridge: float) -> None:
    train = blocks(seed)
    twice = [TaskBlock(*(torch.cat([p, p]) for p in (b.g, b.head, b.offset, b.targets)), b.loss) for b in train]
    once = iterate(compute_statistics(train), train, MASK, ridge, stopping=Stopping(1e-9))
    again = iterate(compute_statistics(twice), twice, MASK, ridge, stopping=Stopping(1e-9))
    torch.testing.assert_close(once.trunk, again.trunk, rtol=1e-4, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 100), head=st.floats(0.01, 100))
def test_the_penalty_undoes_any_scale_of_the_features(seed: int, factor: float, head: float) -> None:
    train = blocks(seed)
    scaled = [TaskBlock(factor * b.g, head * b.head, b.offset, b.targets, b.loss) for b in train]
    plain, other = (compute_statistics(part) for part in (train, scaled))
    first = solve(plain, MASK, 0.01, penalty=plain.penalty())
    second = solve(other, MASK, 0.01, penalty=other.penalty())
    torch.testing.assert_close(factor * second.trunk, first.trunk, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(values(second, scaled), values(first, train), rtol=1e-7)


def test_chunks_of_subsets_and_ridges_of_each_subset() -> None:
    train = blocks()
    sums = compute_statistics(train)
    whole, parts = solve(sums, MASK, 0.01), solve(sums, MASK, 0.01, memory=1)
    torch.testing.assert_close(parts.trunk, whole.trunk)
    ends = iterate(sums, train, MASK, 0.01), iterate(sums, train, MASK, 0.01, memory=1)
    torch.testing.assert_close(ends[0].objective, ends[1].objective, rtol=0, atol=1e-6)
    mixed = solve(sums, MASK, [0.01, 0.1, 1.0, 0.01, 0.1])
    path = [solve(sums, MASK, ridge) for ridge in (0.01, 0.1, 1.0)]
    for number, which in enumerate([0, 1, 2, 0, 1]):
        torch.testing.assert_close(mixed.trunk[number], path[which].trunk[number])


def test_statistics_survive_a_round_trip_and_float32_is_accurate() -> None:
    train = blocks()
    sums = compute_statistics(train)
    again = Statistics.from_tensors(sums.to_tensors())
    torch.testing.assert_close(solve(again, MASK, 0.1).trunk, solve(sums, MASK, 0.1).trunk, rtol=0, atol=0)
    coarse = compute_statistics(blocks(dtype=torch.float32), chunk_rows=16)
    error = (coarse.trunk - sums.trunk).abs().max() / sums.trunk.abs().max()
    assert float(error) < 1e-6


def test_too_few_steps_are_said() -> None:
    train = blocks()
    with pytest.warns(NumericsWarning, match="did not come within"):
        iterate(compute_statistics(train), train, MASK, 1e-6, stopping=Stopping(1e-10, 2))


def test_bad_blocks_are_refused() -> None:
    good = blocks()[0]
    with pytest.raises(SettingError, match="g \\(n, d\\)"):
        TaskBlock(good.g[:5], good.head, good.offset, good.targets, good.loss)
    with pytest.raises(SettingError, match="one type"):
        TaskBlock(good.g.float(), good.head, good.offset, good.targets, good.loss)
    with pytest.raises(WorkloadError, match="no labelled training example"):
        compute_statistics([good, TaskBlock(good.g[:0], good.head[:0], good.offset[:0], good.targets[:0], good.loss)])
    bad = TaskBlock(good.g * torch.inf, good.head, good.offset, good.targets, good.loss)
    with pytest.raises(WorkloadError, match="NaN or infinite"):
        compute_statistics([bad])
    with pytest.raises(SettingError, match="method"):
        solve(compute_statistics([good]), np.array([[True]]), 0.1, method="magic")
    with pytest.raises(SettingError, match="empty"):
        solve(compute_statistics([good]), np.array([[False]]), 0.1)


def test_layout_sorts_pairs_by_task() -> None:
    layout = Layout.from_mask(MASK, torch.device("cpu"))
    assert [layout.subsets_of(task).tolist() for task in range(4)] == [[0, 1, 3], [0, 3, 4], [1, 2, 3], [1, 3]]
    assert layout.sum_pairs(torch.ones(layout.starts[-1])).tolist() == MASK.sum(1).tolist()
