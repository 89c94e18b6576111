"""Comparison, intervals, recommendation and mixing on made-up losses with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coterie.errors import SettingError
from coterie.evaluation import Comparison, all_in_one, helped_and_harmed, mix, recommend, single_task, t_interval
from coterie.grouping import Grouping

TASKS = ("a", "b", "c", "d")
PAIRS = Grouping.from_labels(TASKS, [0, 0, 1, 1], method="test")


def make(joint: float, pairs: float, single: float, *, noise: float = 0.01, seeds: int = 5) -> Comparison:
    """Three candidates whose mean losses are given; independent noise a seed and task."""
    rng = np.random.default_rng(0)
    means = np.array([joint, pairs, single])[:, None, None]
    validation = means + noise * rng.standard_normal((3, seeds, 4))
    test = means + noise * rng.standard_normal((3, seeds, 4))
    groupings = (all_in_one(TASKS), PAIRS, single_task(TASKS))
    return Comparison(TASKS, ("all-in-one", "pairs", "single-task"), groupings, tuple(range(seeds)), validation, test)


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


def test_single_task_wins_only_within_the_budget() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=0.5)
    assert recommend(comparison).candidate == "single-task"
    assert recommend(comparison, budget=2).candidate == "pairs"
    assert recommend(comparison, budget=1).candidate == "all-in-one"
    with pytest.raises(SettingError, match="budget"):
        recommend(comparison, budget=0)


def test_one_seed_recommends_the_fewest_models() -> None:
    assert recommend(make(joint=1.0, pairs=0.5, single=0.9, seeds=1)).candidate == "all-in-one"


@given(shift=st.floats(0.1, 10))
def test_the_choice_does_not_depend_on_the_unit_of_the_losses(shift: float) -> None:
    comparison = make(joint=1.0, pairs=0.9, single=0.95)
    scaled = Comparison(
        TASKS, comparison.candidates, comparison.groupings, comparison.seeds,
        shift * comparison.validation, shift * comparison.test,
    )  # fmt: skip
    assert recommend(scaled).candidate == recommend(comparison).candidate


def test_mix_moves_only_tasks_that_are_surely_better_elsewhere() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=1.0)
    comparison.validation[2, :, 3] = 0.1  # task d alone is far better
    mixed = mix(comparison, "pairs")
    assert mixed is not None
    assert mixed.groups[mixed.serves[3]] == (3,)
    assert [mixed.groups[mixed.serves[t]] for t in range(3)] == [(0, 1), (0, 1), (2, 3)]
    assert mix(comparison, "pairs", budget=2) is None


def test_mix_returns_none_when_nothing_moves() -> None:
    assert mix(make(joint=1.0, pairs=0.5, single=1.0), "pairs") is None


def test_mix_drops_groups_without_tasks() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=1.0)
    comparison.validation[0, :, 2:] = 0.1  # c and d are better in the joint model
    mixed = mix(comparison, "pairs", budget=2)
    assert mixed is not None
    assert set(mixed.groups) == {(0, 1), (0, 1, 2, 3)}


def test_helped_and_harmed() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=1.0, noise=1e-6)
    comparison.test[1, :, 0] = 2.0
    assert helped_and_harmed(comparison, "pairs") == (3, 1)


def test_save_and_load(tmp_path) -> None:
    comparison = make(joint=1.0, pairs=0.9, single=0.95)
    again = Comparison.load(comparison.save(tmp_path / "comparison.json"))
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
