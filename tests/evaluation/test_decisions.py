"""Single lines that decide: each of these tests fails when one of them says something else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from coterie.evaluation import BASELINE, JOINT, Comparison, mix, recommend
from coterie.evaluation.labels import TINY, LabelLosses
from coterie.evaluation.recommend import conclude, veto
from coterie.evaluation.verdict import DecisionRules
from coterie.grouping import Grouping
from reference.made_comparisons import between, made, table

TASKS = tuple("abcd")
PAIRS = Grouping.from_labels(TASKS, [0, 0, 1, 1], method="test")
CROSSED = Grouping.from_labels(TASKS, [0, 1, 0, 1], method="test")
LABELS = 30


def comparison_of(
    losses: dict[str, Any], seeds: int = 8, test: dict[str, Any] | None = None, jitter: float = 0.0
) -> Comparison:
    """Candidates whose losses, (seeds, tasks) or what can be broadcast to it, are the same for every example."""
    known = between(TASKS, {"pairs": PAIRS, "crossed": CROSSED})
    groupings = {name: known[name] for name in known if name in losses}
    task, _ = table(4, LABELS)
    rng, parts = np.random.default_rng(0), {}
    for part, given in (("validation", losses), ("test", test or losses)):
        values = np.stack([np.broadcast_to(np.asarray(given[name], float), (seeds, 4)) for name in groupings])
        parts[part] = values[..., task] * (1 + jitter * rng.standard_normal((len(groupings), seeds, len(task))))
    return made(TASKS, groupings, parts)


def spread_out(gains: list[float], seeds: int = 8, width: float = 0.01) -> NDArray[np.float64]:
    """(seeds, tasks) losses around 1 - gain, a bit apart from seed to seed."""
    return 1 - np.array(gains) + width * (np.arange(seeds) % 4 - 1.5)[:, None]


def test_a_mixture_is_judged_with_other_seeds_than_chose_it() -> None:
    """Tasks a to c are always better alone, d with every other seed only: chosen there, it loses with the others."""
    seeds = np.arange(8)
    alone = spread_out([0.5, 0.5, 0.5, 0.0])
    alone[:, 3] = np.where(seeds % 2 == 0, 0.8, 1.3)
    comparison = comparison_of({JOINT: 1.0, BASELINE: alone}, jitter=1e-3)
    found = mix(comparison, JOINT)
    assert found is not None
    # with all seeds, the last task does not move
    assert [found.grouping.groups[server] for server in found.grouping.serves] == [(0,), (1,), (2,), (0, 1, 2, 3)]
    for part, losses in found.losses.items():
        assert losses.shape == (8, 4 * LABELS)
        of_last = losses[:, -LABELS:].mean(1)
        np.testing.assert_allclose(of_last, np.where(seeds % 2 == 0, 1.0, 1.3), rtol=1e-2, err_msg=part)
        of_first = losses[:, :LABELS].mean(1)
        np.testing.assert_allclose(of_first, alone[:, 0], rtol=1e-2, err_msg=part)


def test_mixtures_of_lucky_seeds_are_rare() -> None:
    """Luck of trainings alone: judged with the seeds that chose, most of these draws would have a mixture."""
    found = 0
    names = tuple(f"t{t}" for t in range(40))
    task, _ = table(40, 4)
    for number in range(10):
        rng = np.random.default_rng(number)
        values = 3 + 0.3 * rng.standard_normal((2, 12, 40))[..., task]
        parts = {part: values + 1e-3 * rng.standard_normal(values.shape) for part in ("validation", "test")}
        found += mix(made(names, between(names), parts), JOINT) is not None
    assert found <= 1


@pytest.mark.parametrize(("seeds", "mixed"), [(3, False), (4, True)])
def test_four_seeds_are_enough_to_mix(seeds: int, mixed: bool) -> None:
    alone = spread_out([0.5, -0.5, -0.5, -0.5], seeds, 1e-3)
    comparison = comparison_of({JOINT: 1.0, BASELINE: alone}, seeds, jitter=1e-3)
    assert (mix(comparison, JOINT) is not None) == mixed


def test_within_a_budget_the_largest_gain_moves() -> None:
    """Room for one more model, and three tasks that are better alone."""
    alone = spread_out([0.2, 0.5, 0.3, -0.5])
    comparison = comparison_of({JOINT: 1.0, BASELINE: alone}, jitter=1e-3)
    for budget, moved in ((2, {1}), (3, {1, 2}), (4, {0, 1, 2})):
        found = mix(comparison, JOINT, budget)
        assert found is not None
        assert {group[0] for group in found.grouping.groups if len(group) == 1} == moved
        assert len(found.grouping.groups) == budget
    assert mix(comparison, JOINT, 1) is None


def test_all_tasks_that_one_model_serves_better_share_it() -> None:
    """Beside pairs, one model of all tasks is one more model, however many tasks it takes."""
    pairs, alone = spread_out([0.0, 0.4, 0.0, 0.4]), spread_out([-0.5, -0.5, -0.5, -0.5])
    losses = {JOINT: spread_out([0.2, 0.0, 0.3, 0.0]), "pairs": pairs, BASELINE: alone}
    found = mix(comparison_of(losses, jitter=1e-3), "pairs", 3)
    assert found is not None
    assert [len(found.grouping.groups[server]) for server in found.grouping.serves] == [4, 2, 4, 2]


def test_more_models_take_over_only_beyond_the_noise_of_what_is_chosen_by_then() -> None:
    joint, pairs = spread_out([0.0] * 4), spread_out([0.3] * 4)
    noisy = 0.69 + 0.1 * np.array([1, -1, 1, -1, 1, -1, 1, -1])[:, None] * np.ones(4)
    losses = {JOINT: joint, "pairs": pairs, BASELINE: noisy}
    assert recommend(comparison_of(losses)).candidate == "pairs"
    assert recommend(comparison_of({**losses, BASELINE: spread_out([0.5] * 4)})).candidate == BASELINE
    # of two groupings with as many models the better one, in whatever order they come
    for better, worse in (("pairs", "crossed"), ("crossed", "pairs")):
        both = {JOINT: joint, better: spread_out([0.4] * 4), worse: spread_out([0.3] * 4), BASELINE: joint + 0.5}
        assert recommend(comparison_of(both)).candidate == better


def test_fewer_models_among_equals() -> None:
    same = spread_out([0.0] * 4)
    comparison = comparison_of({JOINT: same, "pairs": same, BASELINE: same})
    assert DecisionRules(comparison).lowest() == JOINT
    assert DecisionRules(comparison).lowest([BASELINE, "pairs"]) == "pairs"
    assert recommend(comparison, budget=4).candidate == JOINT
    assert DecisionRules(comparison).allowed == (JOINT, "pairs", BASELINE)


def test_the_level_counts_everything_that_was_tried() -> None:
    losses = {JOINT: spread_out([0.0] * 4), "pairs": spread_out([0.1] * 4), BASELINE: spread_out([-0.1] * 4)}
    comparison = comparison_of(losses)
    assert DecisionRules(comparison).level == pytest.approx(1 - 0.05 / 2)
    assert DecisionRules(comparison, budget=2).level == pytest.approx(1 - 0.05)
    assert DecisionRules(comparison, budget=1).level == pytest.approx(1 - 0.05)
    left = cast(Any, SimpleNamespace(eliminated=("x", "y", "z")))
    assert DecisionRules(replace(comparison, halving=left)).level == pytest.approx(1 - 0.05 / 5)
    # a gain that is beyond the noise with one rival, and not with sixty
    close = {**losses, "pairs": spread_out([0.1] * 4, width=0.08)}
    assert DecisionRules(comparison_of(close)).better("pairs", JOINT) > 0
    many = cast(Any, SimpleNamespace(eliminated=tuple(map(str, range(60)))))
    assert DecisionRules(replace(comparison_of(close), halving=many)).better("pairs", JOINT) == 0


def test_the_veto_knows_the_budget_and_what_matters() -> None:
    nothing, gain = spread_out([0.0] * 4, width=1e-4), spread_out([0.2] * 4, width=1e-4)
    losses = {JOINT: 1.0, "pairs": nothing, BASELINE: nothing}
    comparison = comparison_of(losses, test={**losses, BASELINE: gain})
    advice = recommend(comparison)
    assert advice.verdict == "no"
    assert veto(comparison, advice).verdict == "undecided"
    assert veto(comparison, advice, worthwhile=0.3).verdict == "no"
    assert veto(comparison, advice, budget=2).verdict == "no"
    assert conclude(comparison)[1].verdict == "undecided"
    assert conclude(comparison, worthwhile=0.3)[1].verdict == "no"
    assert conclude(comparison, budget=2)[1].verdict == "no"


def test_a_mean_gain_of_nothing_on_test_data_is_sent_back() -> None:
    losses = {JOINT: 1.0, "pairs": spread_out([0.2] * 4, width=1e-3), BASELINE: 2.0}
    comparison = comparison_of(losses, test={**losses, "pairs": 1.0})
    advice = veto(comparison, recommend(comparison))
    assert (advice.verdict, advice.candidate, advice.models, advice.further_seeds) == ("undecided", JOINT, 1, None)


@pytest.mark.parametrize("width", [0.022, 0.1])
def test_seeds_that_are_wanted_are_the_fewest_that_decide(width: float) -> None:
    losses = {JOINT: 1.0, "pairs": spread_out([0.05] * 4, 4, width), BASELINE: 2.0}
    judge = DecisionRules(comparison_of(losses, 4))
    wanted, spread = judge.more_seeds(), judge.comparison.spread("pairs")
    assert wanted is not None
    assert (wanted == 1) == (width < 0.1)
    reach = {n: spread.reach(judge.level, 4 + n) for n in (wanted - 1, wanted)}
    assert reach[wanted] < -spread.mean <= reach[wanted - 1]


def test_noise_of_examples_is_that_of_the_mean_log_ratio() -> None:
    """Against a jackknife over examples, some of which have labels of two tasks."""
    rng = np.random.default_rng(0)
    task, row = np.repeat([0, 1], [60, 40]), np.r_[np.arange(60), np.arange(20, 60)]
    values = rng.gamma(3.0, size=(2, 3, 100)).astype(np.float32)
    level = np.array([4.0, 20.0])

    def log_ratio(keep: NDArray[np.bool_]) -> float:
        means = np.array([[values[c][:, keep & (task == t)].mean() for t in (0, 1)] for c in (0, 1)], dtype=float)
        floor = level / np.sqrt([60, 40])
        logs = 0.5 * np.log(means**2 + floor**2)
        return float((logs[0] - logs[1]).mean())

    left_out = np.array([log_ratio(row != example) for example in range(60)])
    variance = 59 / 60 * np.square(left_out - left_out.mean()).sum()
    losses = LabelLosses(values, task, row, level)
    noise = losses.noise(0, 1, [0, 1])
    assert noise.variance == pytest.approx(variance, rel=0.05)
    assert 40 < noise.freedom < 120
    np.testing.assert_allclose(losses.floor(2), level / np.sqrt([60, 40]))
    assert TINY < 1e-9
