"""Comparison, intervals, recommendation and mixing on made-up losses with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coterie.errors import SettingError
from coterie.evaluation import (
    Comparison,
    LabelLosses,
    all_in_one,
    helped_and_harmed,
    mix,
    recommend,
    single_task,
    t_interval,
)
from coterie.grouping import Grouping

TASKS = ("a", "b", "c", "d")
PAIRS = Grouping.from_labels(TASKS, [0, 0, 1, 1], method="test")


EXAMPLES = 200


def make(
    joint: float,
    pairs: float,
    single: float,
    *,
    noise: float = 0.01,
    seeds: int = 5,
    special: dict[tuple[int, int], float] | None = None,
    example_noise: float = 0.0,
) -> Comparison:
    """Three candidates with given mean losses (`special`: (candidate, task) -> mean) and noise by seed and label."""
    rng = np.random.default_rng(0)
    means = np.repeat(np.array([joint, pairs, single])[:, None], 4, 1)
    for (candidate, task), mean in (special or {}).items():
        means[candidate, task] = mean
    task, row = np.repeat(np.arange(4), EXAMPLES), np.tile(np.arange(EXAMPLES), 4)
    labels = {}
    for part in ("validation", "test"):
        by_seed = means[:, None] + noise * rng.standard_normal((3, seeds, 4))
        by_label = example_noise * rng.standard_normal((3, 1, 4 * EXAMPLES))
        labels[part] = LabelLosses((by_seed[..., task] + by_label).astype(np.float32), task, row)
    groupings = (all_in_one(TASKS), PAIRS, single_task(TASKS))
    return Comparison(
        TASKS, ("all-in-one", "pairs", "single-task"), groupings, tuple(range(seeds)),
        labels["validation"].means(4), labels["test"].means(4), labels,
    )  # fmt: skip


def test_t_interval_agrees_with_scipy() -> None:
    x = np.random.default_rng(1).normal(size=7)
    low, high = stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    interval = t_interval(x)
    assert interval.low == pytest.approx(low)
    assert interval.high == pytest.approx(high)


def test_one_seed_has_no_interval() -> None:
    interval = t_interval(np.array([2.0]))
    assert interval.mean == 2.0
    assert np.isnan(interval.low)
    assert interval.to_dict() == {"mean": 2.0, "low": None, "high": None}


def test_gain_is_positive_when_the_loss_is_lower() -> None:
    comparison = make(joint=0.5, pairs=0.25, single=1.0, noise=0.0)
    assert comparison.gains("test")[0] == pytest.approx(0.5)
    assert comparison.gains("test")[1] == pytest.approx(0.75)
    assert comparison.gains("test")[2] == pytest.approx(0.0)
    assert comparison.total("pairs", against="all-in-one").mean == pytest.approx(0.5)


def test_better_groups_are_recommended() -> None:
    advice = recommend(make(joint=1.0, pairs=0.5, single=0.9))
    assert advice.candidate == "pairs"
    assert advice.models == 2
    assert not advice.do_not_bother


def test_do_not_bother_when_nothing_beats_one_model() -> None:
    advice = recommend(make(joint=0.9, pairs=0.9, single=0.95))
    assert advice.candidate == "all-in-one"
    assert advice.do_not_bother
    assert advice.text.startswith("Do not bother")


def test_the_first_line_says_when_test_data_contradict() -> None:
    comparison = make(joint=1.0, pairs=1.0, single=1.0, noise=0.02)
    comparison.labels["test"].values[2] -= 0.3  # on test data only, one model per task is far better
    labels = comparison.labels
    contradicted = Comparison(
        TASKS, comparison.candidates, comparison.groupings, comparison.seeds,
        comparison.validation, labels["test"].means(4), labels,
    )  # fmt: skip
    advice = recommend(contradicted)
    assert advice.candidate == "all-in-one"
    assert "on test data one model per task is" in advice.text


def test_single_task_wins_only_within_the_budget() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=0.5)
    assert recommend(comparison).candidate == "single-task"
    assert recommend(comparison, budget=2).candidate == "pairs"
    assert recommend(comparison, budget=1).candidate == "all-in-one"
    with pytest.raises(SettingError, match="budget"):
        recommend(comparison, budget=0)


def test_one_seed_recommends_the_fewest_models() -> None:
    assert recommend(make(joint=1.0, pairs=0.5, single=0.9, seeds=1)).candidate == "all-in-one"


@given(scale=st.floats(0.1, 10))
def test_the_choice_does_not_depend_on_the_unit_of_the_losses(scale: float) -> None:
    comparison = make(joint=1.0, pairs=0.9, single=0.95, example_noise=0.05)
    labels = {part: LabelLosses(np.float32(scale) * x.values, x.task, x.row) for part, x in comparison.labels.items()}
    scaled = Comparison(
        TASKS, comparison.candidates, comparison.groupings, comparison.seeds,
        labels["validation"].means(4), labels["test"].means(4), labels,
    )  # fmt: skip
    assert recommend(scaled).candidate == recommend(comparison).candidate
    assert scaled.total("pairs").low == pytest.approx(comparison.total("pairs").low, rel=1e-4)


def test_interval_covers_the_noise_of_the_examples() -> None:
    """Without noise over seeds, the interval is that of a ratio of means over examples: compared with a bootstrap."""
    comparison = make(joint=1.0, pairs=0.9, single=1.0, noise=1e-9, example_noise=0.3)
    interval = comparison.total("pairs")
    x = comparison.labels["test"].values.mean(1).reshape(3, 4, EXAMPLES).astype(float)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(2000):
        rows = rng.integers(0, EXAMPLES, EXAMPLES)
        draws.append(float(np.mean(1 - x[1][:, rows].mean(1) / x[2][:, rows].mean(1))))
    assert interval.mean == pytest.approx(1 - np.mean(x[1].mean(1) / x[2].mean(1)), abs=1e-6)
    assert (interval.high - interval.low) / 3.92 == pytest.approx(np.std(draws), rel=0.1)


def test_a_difference_that_only_a_few_examples_make_is_noise() -> None:
    quiet = make(joint=1.0, pairs=0.97, single=1.0, noise=1e-4)
    assert recommend(quiet).candidate == "pairs"
    assert recommend(make(joint=1.0, pairs=0.97, single=1.0, noise=1e-4, example_noise=2.0)).candidate == "all-in-one"


def test_influences_sum_to_zero_and_follow_the_examples() -> None:
    labels = make(joint=1.0, pairs=0.9, single=1.0, example_noise=0.3).labels["test"]
    moves = labels.influences(1, 2, range(4))
    assert len(moves) == EXAMPLES
    assert moves.sum() == pytest.approx(0, abs=1e-9)


def test_mix_moves_only_tasks_that_are_surely_better_elsewhere() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=1.0, special={(2, 3): 0.1})  # task d alone is far better
    mixed = mix(comparison, "pairs")
    assert mixed is not None
    assert mixed.groups[mixed.serves[3]] == (3,)
    assert [mixed.groups[mixed.serves[t]] for t in range(3)] == [(0, 1), (0, 1), (2, 3)]
    assert mix(comparison, "pairs", budget=2) is None


def test_mix_returns_none_when_nothing_moves() -> None:
    assert mix(make(joint=1.0, pairs=0.5, single=1.0), "pairs") is None


def test_mix_does_not_believe_what_one_half_of_the_examples_says() -> None:
    """A task is better elsewhere on a few examples only, by chance: no mixture is returned."""
    rng = np.random.default_rng(1)
    kept = 0
    for _ in range(20):
        comparison = make(joint=1.0, pairs=1.0, single=1.0, noise=1e-6)
        values = comparison.labels["validation"].values
        values += rng.standard_normal((3, 1, values.shape[2])).astype(np.float32)
        labels = comparison.labels["validation"]
        noisy = Comparison(
            TASKS, comparison.candidates, comparison.groupings, comparison.seeds,
            labels.means(4), comparison.test, comparison.labels,
        )  # fmt: skip
        kept += mix(noisy, "all-in-one") is not None
    assert kept <= 2


def test_mix_drops_groups_without_tasks() -> None:
    # c and d are better in the joint model
    comparison = make(joint=1.0, pairs=0.9, single=1.0, special={(0, 2): 0.1, (0, 3): 0.1})
    mixed = mix(comparison, "pairs", budget=2)
    assert mixed is not None
    assert set(mixed.groups) == {(0, 1), (0, 1, 2, 3)}


def test_helped_and_harmed() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=1.0, noise=1e-6, special={(1, 0): 2.0})
    assert helped_and_harmed(comparison, "pairs") == (3, 1)


def test_save_and_load(tmp_path) -> None:
    comparison = make(joint=1.0, pairs=0.9, single=0.95)
    again = Comparison.load(comparison.save(tmp_path / "comparison.safetensors"))
    assert again.candidates == comparison.candidates
    assert np.array_equal(again.validation, comparison.validation)
    assert again.groupings[1].groups == PAIRS.groups
    assert again.to_dict() == comparison.to_dict()


def test_unknown_candidate_and_part_are_named() -> None:
    comparison = make(1, 1, 1)
    with pytest.raises(SettingError, match="candidate"):
        comparison.total("nope")
    with pytest.raises(SettingError, match="part"):
        comparison.gains("train")


def test_to_frame() -> None:
    pytest.importorskip("pandas")
    frame = make(1.0, 0.9, 0.95).to_frame()
    assert len(frame) == 3 * 5 * 4
    assert set(frame.candidate) == {"all-in-one", "pairs", "single-task"}
