"""Comparison, intervals, recommendation and mixing on made-up losses with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coterie.errors import SettingError
from coterie.evaluation import Comparison, mix, recommend
from coterie.evaluation.compare import all_in_one, single_task
from coterie.evaluation.intervals import t_interval
from coterie.evaluation.labels import LabelLosses
from coterie.evaluation.recommend import advise, helped_and_harmed, veto
from coterie.grouping import Grouping
from reference.made_comparisons import between, made, table

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
    parts = {}
    for part in ("validation", "test"):
        by_seed = means[:, None] + noise * rng.standard_normal((3, seeds, 4))
        by_label = example_noise * rng.standard_normal((3, 1, 4 * EXAMPLES))
        parts[part] = by_seed[..., table(4, EXAMPLES)[0]] + by_label
    return made(TASKS, between(TASKS, {"pairs": PAIRS}), parts)


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
    assert advice.verdict == "yes"
    assert not advice.do_not_bother


def test_do_not_bother_when_nothing_beats_one_model() -> None:
    advice = recommend(make(joint=0.9, pairs=0.9, single=0.95))
    assert advice.candidate == "all-in-one"
    assert advice.do_not_bother
    assert advice.text.startswith("Do not bother")


def test_the_first_line_says_when_test_data_contradict() -> None:
    comparison = make(joint=1.0, pairs=1.0, single=1.0, noise=0.002)
    comparison.labels["test"].values[2] -= 0.3  # on test data only, one model per task is far better
    labels = comparison.labels
    contradicted = Comparison(
        TASKS, comparison.candidates, comparison.groupings, comparison.seeds,
        comparison.validation, labels["test"].means(4), labels,
    )  # fmt: skip
    assert recommend(contradicted).verdict == "no"
    advice = veto(contradicted, recommend(contradicted))
    assert advice.candidate == "all-in-one"
    assert advice.verdict == "undecided"
    assert "on test data one model per task would have" in advice.text


def test_test_data_can_only_send_the_choice_back_to_one_model() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=1.0)
    advice = recommend(comparison)
    assert advice.candidate == "pairs"
    assert veto(comparison, advice) == advice
    comparison.test[1] += 0.5
    sent_back = veto(comparison, advice)
    assert sent_back.candidate == "all-in-one"
    assert sent_back.verdict == "undecided"
    assert "validation data favoured 2 models (pairs)" in sent_back.text
    assert veto(comparison, sent_back) == sent_back


def test_single_task_wins_only_within_the_budget() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=0.5)
    assert recommend(comparison).candidate == "single-task"
    assert recommend(comparison, budget=2).candidate == "pairs"
    assert recommend(comparison, budget=1).candidate == "all-in-one"
    with pytest.raises(SettingError, match="budget"):
        recommend(comparison, budget=0)


def test_a_budget_takes_the_best_guess_and_says_that_it_is_one() -> None:
    close = make(joint=1.0, pairs=0.97, single=1.2, noise=0.05)
    assert close.total("pairs", "validation", against="all-in-one").low < 0  # within the noise
    assert close.total("pairs", "validation", against="all-in-one").mean > 0  # and yet the best guess
    assert recommend(close).verdict == "undecided"
    advice = recommend(close, budget=2)
    assert advice.candidate == "pairs"
    assert advice.verdict == "undecided"
    assert "Best guess: 2 models (pairs)" in advice.text
    assert "beyond the noise (95 %" not in advice.reason
    equal = make(joint=1.0, pairs=1.0, single=1.0, noise=0.0)
    assert recommend(equal, budget=4).candidate == "all-in-one"  # fewer models among equals


def test_single_tasks_within_the_noise_are_no_certainty() -> None:
    comparison = make(joint=1.0, pairs=1.2, single=0.999, noise=0.05)
    advice = advise(comparison, "single-task", budget=4)
    assert advice.verdict == "undecided"
    assert "Best guess: one model per task" in advice.text
    sure = advise(make(joint=1.0, pairs=1.2, single=0.5), "single-task", budget=4)
    assert sure.verdict == "no"
    assert sure.text.startswith("Do not bother with joint training")


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
        draws.append(1 - float(np.exp(np.mean(np.log(x[1][:, rows].mean(1) / x[2][:, rows].mean(1))))))
    assert interval.mean == pytest.approx(1 - np.exp(np.mean(np.log(x[1].mean(1) / x[2].mean(1)))), abs=1e-6)
    assert (interval.high - interval.low) / 3.92 == pytest.approx(np.std(draws), rel=0.1)


def test_a_difference_that_only_a_few_examples_make_is_noise() -> None:
    quiet = make(joint=1.0, pairs=0.97, single=1.0, noise=1e-4)
    assert recommend(quiet).candidate == "pairs"
    assert recommend(make(joint=1.0, pairs=0.97, single=1.0, noise=1e-4, example_noise=2.0)).candidate == "all-in-one"


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_intervals_of_tasks_with_few_labels_cover_the_truth(count: int) -> None:
    """Two candidates that are equal in expectation: the interval misses 0 in about 5 % of draws, few labels or many."""
    rng = np.random.default_rng(count)
    task, row = np.zeros(count, dtype=int), np.arange(count)
    missed, draws = 0, 400
    for _ in range(draws):
        values = 5 + rng.standard_normal((2, 1, count)) + 1e-3 * rng.standard_normal((2, 5, count))
        labels = LabelLosses(values.astype(np.float32), task, row)
        interval = t_interval(1e-6 * rng.standard_normal(5) + _gain(labels), labels.noise(0, 1, [0]))
        missed += not interval.low <= 0 <= interval.high
    assert missed / draws < 0.09


def _gain(labels: LabelLosses) -> float:
    c, b = labels.values.mean(1).mean(1)
    return float(np.log(c / b))


def test_one_task_with_a_tiny_loss_does_not_own_the_total() -> None:
    """Twice as bad on one task and twice as good on another is no gain; no gain exceeds 100 %."""
    comparison = make(joint=1.0, pairs=1.0, single=1.0, noise=1e-9, special={(1, 0): 2.0, (1, 1): 0.5})
    assert comparison.total("pairs").mean == pytest.approx(0.0, abs=1e-6)
    wild = make(joint=1.0, pairs=0.01, single=1.0, noise=0.004, seeds=3, special={(1, 0): 100.0})
    assert all(interval.high <= 1 for interval in wild.per_task("pairs"))


def test_one_label_gives_no_interval() -> None:
    labels = LabelLosses(np.ones((2, 5, 1), np.float32), np.zeros(1, int), np.zeros(1, int))
    assert np.isnan(t_interval(np.arange(5.0), labels.noise(0, 1, [0])).low)


def test_a_budget_that_excludes_the_better_says_so() -> None:
    advice = recommend(make(joint=1.0, pairs=0.9, single=0.5), budget=1)
    assert advice.candidate == "all-in-one"
    assert "Beyond the budget of 1: single-task (4 models) would do better" in advice.text


def test_one_seed_is_called_undecided() -> None:
    assert recommend(make(joint=1.0, pairs=0.5, single=0.9, seeds=1)).text.startswith("Undecided")


def test_mix_does_not_believe_lucky_seeds() -> None:
    """All candidates are equal in expectation, but every training has its luck: mixtures of the lucky are rare."""
    kept = 0
    for number in range(40):
        rng = np.random.default_rng(number)
        task, row = np.repeat(np.arange(8), 100), np.tile(np.arange(100), 8)
        names, n = tuple("abcdefgh"), 8
        luck = 0.02 * rng.standard_normal((3, 6, 8))[..., task]
        examples = 0.3 * rng.standard_normal((1, 1, 800))
        labels = {
            part: LabelLosses((1 + luck + examples).astype(np.float32), task, row) for part in ("validation", "test")
        }
        groupings = (
            all_in_one(names),
            Grouping.from_labels(names, [0] * 4 + [1] * 4, method="test"),
            single_task(names),
        )
        comparison = Comparison(
            names, ("all-in-one", "pairs", "single-task"), groupings, tuple(range(6)),
            labels["validation"].means(n), labels["test"].means(n), labels,
        )  # fmt: skip
        kept += mix(comparison, "all-in-one") is not None
    assert kept <= 4


def test_mix_moves_only_tasks_that_are_surely_better_elsewhere() -> None:
    comparison = make(joint=1.0, pairs=0.9, single=1.0, special={(2, 3): 0.1})  # task d alone is far better
    mixed = mix(comparison, "pairs")
    assert mixed is not None
    found = mixed.grouping
    assert found.groups[found.serves[3]] == (3,)
    assert [found.groups[found.serves[t]] for t in range(3)] == [(0, 1), (0, 1), (2, 3)]
    assert mix(comparison, "pairs", budget=2) is None


def test_mix_returns_none_when_nothing_moves() -> None:
    assert mix(make(joint=1.0, pairs=0.5, single=1.0), "pairs") is None


def test_mix_drops_groups_without_tasks() -> None:
    # c and d are better in the joint model
    comparison = make(joint=1.0, pairs=0.9, single=1.0, special={(0, 2): 0.1, (0, 3): 0.1})
    mixed = mix(comparison, "pairs", budget=2)
    assert mixed is not None
    assert set(mixed.grouping.groups) == {(0, 1), (0, 1, 2, 3)}


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
