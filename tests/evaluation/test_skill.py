"""Skill, reliability and bootstrap: against plain loops, and on simulated data with known answers."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.evaluation import regret
from coterie.evaluation.intervals import Figure, resample, weighted_mean
from coterie.evaluation.skill import (
    by_task,
    ceiling,
    constant_distance,
    gains,
    inside,
    mean_by_task,
    moments,
    one_common_run,
    one_run,
    over_subsets,
    relative_distance,
    within_task,
)
from reference import skill as plain


def example(seed: int, m: int = 20, tasks: int = 6, share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Estimate and truth with different levels a task; some entries of the estimate are missing."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(m, tasks)) * rng.uniform(0.1, 2, tasks) + rng.uniform(2, 9, tasks)
    estimate = 0.5 * truth + rng.normal(size=(m, tasks))
    truth[rng.random((m, tasks)) > share] = np.nan
    estimate[rng.random((m, tasks)) > 0.9] = np.nan
    return estimate, truth


@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_plain_loops_in_every_resample(seed: int) -> None:
    estimate, truth = example(seed)
    weights = resample(len(truth), 6, seed)
    for fast, slow in (
        (within_task, plain.within_task),
        (mean_by_task, plain.mean_by_task),
        (relative_distance, plain.relative_distance),
    ):
        assert fast(estimate, truth, weights) == pytest.approx([slow(estimate, truth, w) for w in weights], abs=1e-10)
        assert fast(estimate, truth) == pytest.approx([slow(estimate, truth)])
    assert constant_distance(truth, weights) == pytest.approx([plain.constant_distance(truth, w) for w in weights])


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_correlation_knows_neither_level_nor_order_nor_scale(seed: int, scale: float, level: float) -> None:
    estimate, truth = example(seed)
    rng = np.random.default_rng(seed)
    rows, tasks = rng.permutation(len(truth)), rng.permutation(truth.shape[1])
    moved = (scale * estimate + level + rng.normal(size=truth.shape[1]))[np.ix_(rows, tasks)]
    other = truth[np.ix_(rows, tasks)]
    for measure in (within_task, mean_by_task):
        assert measure(moved, other) == pytest.approx(measure(estimate, truth), abs=1e-8)
        assert measure(-estimate, truth) == pytest.approx(-measure(estimate, truth), abs=1e-12)
        assert measure(truth, truth) == pytest.approx([1.0])


def test_limits() -> None:
    _, truth = example(0)
    level = np.nanmean(truth, 0)
    constant = np.broadcast_to(level, truth.shape)
    assert within_task(constant, truth)[0] == 0
    assert mean_by_task(constant, truth)[0] == 0
    assert relative_distance(constant, truth) == pytest.approx(constant_distance(truth))
    assert math.isnan(within_task(truth, constant)[0])
    assert math.isnan(within_task(np.full_like(truth, np.nan), truth)[0])
    few = truth.copy()
    few[3:] = np.nan
    assert np.isnan(by_task(few, few)).all()
    # a constant far from zero has a spread of rounding only
    assert moments(constant + 1e9 / 3, truth).estimate.sum() == 0


def test_gains_and_means() -> None:
    truth, alone = np.array([[0.5, np.nan], [2.0, 3.0]]), np.array([1.0, 4.0])
    found = gains(truth, alone)
    assert found[0, 0] == 0.5
    assert found[1].tolist() == [-1.0, 0.25]
    assert over_subsets(found, np.array([[1.0, 1.0], [2.0, 0.0]])) == pytest.approx([-0.25 / 3, 0.5])


def test_share_inside_the_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 3))
    error, noise = np.full_like(truth, 0.3), np.full_like(truth, 0.4)
    estimate = truth + 0.5 * rng.normal(size=truth.shape)
    assert np.mean(inside(estimate, error, truth, noise)) == pytest.approx(0.9, abs=0.01)
    assert np.mean(inside(estimate, error, truth, 0 * noise)) < 0.75
    assert np.isnan(inside(estimate, np.full_like(error, np.nan), truth, noise)).all()


SIGNAL, NOISE = 1.0, 1.5


def simulate(seed: int, replicates: int = 8, m: int = 120, tasks: int = 10) -> np.ndarray:
    """(replicates, m, tasks) values with known variance between subsets and between trainings."""
    rng = np.random.default_rng(seed)
    values = SIGNAL * rng.normal(size=(m, tasks)) + NOISE * rng.normal(size=(replicates, m, tasks))
    values += 100 * rng.normal(size=tasks)
    return np.where(rng.random((m, tasks)) < 0.6, values, np.nan)


@pytest.mark.parametrize("replicates", [4, 7, 8])
@pytest.mark.parametrize("per_task", [False, True])
def test_ceiling_and_r1_of_known_signal_and_noise(replicates: int, per_task: bool) -> None:
    draws = [simulate(seed, replicates) for seed in range(12)]
    found = np.mean([ceiling(values, per_task=per_task).value for values in draws])
    expected = math.sqrt(SIGNAL**2 / (SIGNAL**2 + NOISE**2 / replicates))
    assert found == pytest.approx(expected, abs=0.015)
    single = np.mean([one_run(values, per_task=per_task).value for values in draws])
    rest = SIGNAL**2 + NOISE**2 / (replicates - 1)
    assert single == pytest.approx(SIGNAL**2 / math.sqrt((SIGNAL**2 + NOISE**2) * rest), abs=0.02)


def test_r1_equals_plain_loops() -> None:
    values = simulate(3, 4, 15, 4)
    assert one_run(values).value == pytest.approx(plain.one_run(values))
    common = one_common_run(values[:2], values[2:].mean(0))
    expected = np.mean([plain.within_task(run, values[2:].mean(0)) for run in values[:2]])
    assert common.value == pytest.approx(expected)


def test_limits_of_reliability() -> None:
    rng = np.random.default_rng(0)
    clean = np.broadcast_to(rng.normal(size=(1, 30, 3)), (4, 30, 3))
    assert ceiling(clean).value == pytest.approx(1)
    assert one_run(clean).value == pytest.approx(1)
    noise = ceiling(rng.normal(size=(4, 400, 5)), resample(400, 50, 0))
    assert noise.value < 0.35
    assert noise.interval().low >= 0
    for nothing in (ceiling(clean[:1]), one_run(clean[:1]), one_common_run(clean[:0], clean[0])):
        assert math.isnan(nothing.value)


def test_intervals_cover_what_another_draw_would_give() -> None:
    """Correlation with a known population value; R1 and ceiling with fresh trainings, too."""
    rng = np.random.default_rng(0)
    inside_of = {"correlation": 0, "one_run": 0, "ceiling": 0}
    truths = {
        "correlation": 0.6,
        "one_run": SIGNAL**2 / math.sqrt((SIGNAL**2 + NOISE**2) * (SIGNAL**2 + NOISE**2 / 5)),
        "ceiling": math.sqrt(SIGNAL**2 / (SIGNAL**2 + NOISE**2 / 6)),
    }
    rounds = 120
    for seed in range(rounds):
        weights = resample(60, 200, seed)
        x = rng.normal(size=(60, 4))
        y = 0.6 * x + 0.8 * rng.normal(size=(60, 4)) + 10 * rng.normal(size=4)
        values = simulate(seed, 6, 60, 4)
        for name, figure in (
            ("correlation", Figure(within_task(x, y, weights))),
            ("one_run", one_run(values, weights, seed=seed)),
            ("ceiling", ceiling(values, weights, seed=seed)),
        ):
            interval = figure.interval()
            inside_of[name] += interval.low <= truths[name] <= interval.high
    assert all(count / rounds > 0.88 for count in inside_of.values()), inside_of
    assert inside_of["correlation"] < rounds  # not by being endless


def test_figures() -> None:
    a, b = Figure(np.array([0.5, 0.4, 0.6])), Figure(np.array([1.0, 0.8, 0.01]))
    assert (a / b).draws[:2].tolist() == [0.5, 0.5]
    assert math.isnan((a / b).draws[2])
    assert (a - b).value == -0.5
    assert math.isnan(Figure(np.array([1.0])).interval().low)
    assert math.isnan(Figure(np.array([1.0, np.nan, np.nan, 2.0])).interval().low)
    weights = resample(5, 400, 1)
    assert weights[0].tolist() == [1] * 5
    assert (weights.sum(1) == 5).all()
    assert weights[1:].mean(0) == pytest.approx([1] * 5, abs=0.2)
    assert weighted_mean(np.array([1.0, np.nan, 3.0]), np.array([[1.0, 5.0, 1.0], [0.0, 1.0, 0.0]]))[0] == 2
    with pytest.raises(SettingError, match="resamples"):
        resample(3, -1, 0)


def test_trainings_of_a_bank_of_groups_have_seeds_of_their_own_that_every_library_takes() -> None:
    """Beyond those of subsets and below 2^31; the same in every process."""
    seeds = [regret._seed(group, replicate) for group in ((0, 1), (0, 1, 2), (3,)) for replicate in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert all(10**8 <= seed < 2**31 for seed in seeds)
    assert regret._seed((0, 1), 2) == regret._seed((0, 1), 2) == 10**8 + zlib.crc32(b"((0, 1), 2)") % 2**30
