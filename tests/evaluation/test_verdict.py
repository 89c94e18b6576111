"""Yes, no and undecided: which verdict, with which words, and how often it is wrong."""

from __future__ import annotations

import importlib
from collections import Counter

import numpy as np
import pytest

from coterie.errors import SettingError
from coterie.evaluation import BASELINE, JOINT, Comparison, recommend
from coterie.evaluation.intervals import Interval, Noise, Spread
from coterie.evaluation.labels import LabelLosses, log_losses
from coterie.evaluation.recommend import Mixture, conclude, veto
from coterie.evaluation.verdict import DecisionRules
from coterie.grouping import Grouping
from reference.made_comparisons import between, made
from reference.verdict_bed import draw

TASKS = ("a", "b", "c", "d")
GROUPED = Grouping.from_labels(TASKS, [0, 0, 1, 1], method="test")


def by_seed(
    gains: dict[str, list[float]],
    test: dict[str, list[float]] | None = None,
    n_labels: int = 50,
    more: dict[str, Grouping] | None = None,
) -> Comparison:
    """Candidates with a stated gain over one model in each seed, the same for every task, without noise of examples."""
    groupings = between(TASKS, {"pairs": GROUPED, **(more or {})})
    seeds = len(next(iter(gains.values())))
    parts = {}
    for part, given in (("validation", gains), ("test", test or gains)):
        logs = np.array([np.log1p(-np.array(given.get(name, [0.0] * seeds))) for name in groupings])
        parts[part] = np.broadcast_to(np.exp(logs)[..., None], (len(groupings), seeds, 4 * n_labels))
    return made(TASKS, groupings, parts)


WORSE = [-0.5, -0.51, -0.49, -0.5]


@pytest.mark.parametrize(
    ("pairs", "verdict", "candidate"),
    [
        ([0.10, 0.11, 0.09, 0.10], "yes", "pairs"),
        ([0.30, -0.10, 0.25, 0.10], "undecided", "pairs"),
        ([0.30, -0.30, 0.25, -0.10], "undecided", JOINT),
        ([0.001, 0.002, 0.0, -0.001], "no", JOINT),
        ([0.005, 0.006, 0.005, 0.006], "no", JOINT),  # surely better, by less than what matters
        ([-0.10, -0.11, -0.09, -0.10], "no", JOINT),
    ],
)
def test_the_verdict_follows_the_interval(pairs: list[float], verdict: str, candidate: str) -> None:
    advice = conclude(by_seed({"pairs": pairs, BASELINE: WORSE}))[1]
    assert (advice.verdict, advice.candidate) == (verdict, candidate)
    assert advice.do_not_bother == (verdict == "no")
    assert advice.to_dict()["do_not_bother"] == advice.do_not_bother
    start = {"yes": "Train 2 models (pairs): mean gain +10.0 %", "no": "Do not bother", "undecided": "Undecided with 4"}
    assert advice.text.startswith(start[verdict])
    assert ("Best guess" in advice.text) == (verdict == "undecided")


def test_what_matters_can_be_set() -> None:
    comparison = by_seed({"pairs": [0.005, 0.006, 0.005, 0.006], BASELINE: WORSE})
    assert recommend(comparison, worthwhile=0.001).verdict == "yes"
    large = by_seed({"pairs": [0.10, 0.11, 0.09, 0.10], BASELINE: WORSE})
    assert recommend(large, worthwhile=0.2).verdict == "no"
    assert "20 % or more" in recommend(large, worthwhile=0.2).text
    for wrong in (-0.1, 1.0, 5, "1 %", True, float("nan")):
        with pytest.raises(SettingError, match="worthwhile"):
            recommend(large, worthwhile=wrong)  # type: ignore[arg-type]


def test_a_gain_that_is_sure_and_small_is_no_yes() -> None:
    """Else more seeds would make a no out of a yes: the interval shrinks around a gain that does not matter."""
    seeds = {2: "undecided", 4: "undecided", 16: "undecided", 120: "no"}
    found = {n: by_seed({"pairs": [0.06, 0.10] * (n // 2), BASELINE: [-0.5] * n}) for n in seeds}
    assert {n: recommend(one, worthwhile=0.085).verdict for n, one in found.items()} == seeds
    advice = recommend(found[16], worthwhile=0.085)
    assert "is better beyond the noise, but whether by 8.5 % or more is open" in advice.text
    assert advice.further_seeds is not None
    assert 16 + advice.further_seeds <= 120
    assert recommend(found[16], worthwhile=0.075).verdict == "yes"
    single = by_seed({"pairs": [-0.5] * 16, BASELINE: [0.06, 0.10] * 8})
    assert recommend(single, worthwhile=0.085).verdict == "undecided"
    assert recommend(single, worthwhile=0.075).verdict == "no"


def test_every_candidate_has_to_be_excluded_for_a_no() -> None:
    noisy = [0.3, -0.4, 0.2, -0.2]
    sure = [0.001, 0.002, 0.0, -0.001]
    assert recommend(by_seed({"pairs": noisy, BASELINE: sure})).verdict == "undecided"
    assert recommend(by_seed({"pairs": sure, BASELINE: noisy})).verdict == "undecided"
    # but not those that the budget excludes
    assert recommend(by_seed({"pairs": sure, BASELINE: noisy}), budget=2).verdict == "no"
    assert "nothing else" in recommend(by_seed({"pairs": noisy, BASELINE: noisy}), budget=1).text


def test_single_task_models_are_a_no_only_without_a_better_grouping() -> None:
    better = [0.50, 0.51, 0.49, 0.50]
    advice = recommend(by_seed({"pairs": WORSE, BASELINE: better}))
    assert (advice.verdict, advice.candidate) == ("no", BASELINE)
    assert "one model per task has a mean gain of +50.0 %" in advice.text
    open_ = recommend(by_seed({"pairs": [0.6, 0.2, 0.7, 0.3], BASELINE: better}))
    assert (open_.verdict, open_.candidate) == ("undecided", BASELINE)
    assert "whether groups do better still is open" in open_.text


def test_a_lucky_gain_is_no_better_guess_than_a_steady_one() -> None:
    """The mean gain of single-task models is larger, but two seeds disagree about it."""
    advice = recommend(by_seed({"pairs": [0.1, 0.2], BASELINE: [0.6, -0.2]}))
    assert (advice.verdict, advice.candidate) == ("undecided", "pairs")


SMALL = [0.004, 0.006, 0.005, 0.005]  # sure, and less than what matters
OPEN = [0.05, 0.004, 0.045, -0.02]  # mean above what matters, and its standard error, and not beyond the noise


@pytest.mark.parametrize(
    ("pairs", "single", "worthwhile", "candidate"),
    [
        (SMALL, [0.03, -0.03, 0.01, -0.01], 0.01, JOINT),  # a no to pairs, open for single tasks
        (SMALL, OPEN, 0.01, BASELINE),  # not the gain that is surest, since it does not matter
        (SMALL, OPEN, 0.003, "pairs"),
        (OPEN, SMALL, 0.01, "pairs"),
        (OPEN, WORSE, 0.03, JOINT),
        (OPEN, WORSE, 0.0, "pairs"),
    ],
)
def test_a_gain_that_does_not_matter_is_no_guess(
    pairs: list[float], single: list[float], worthwhile: float, candidate: str
) -> None:
    comparison = by_seed({"pairs": pairs, BASELINE: single})
    for advice in (recommend(comparison, worthwhile=worthwhile), conclude(comparison, worthwhile=worthwhile)[1]):
        assert advice.candidate == candidate
        assert advice.verdict == ("yes" if (pairs, worthwhile) == (SMALL, 0.003) else "undecided")
    # a budget says that so many models cost nothing: the lowest losses are served
    affordable = recommend(comparison, budget=4, worthwhile=worthwhile)
    assert affordable.candidate == max(("pairs", pairs), (BASELINE, single), key=lambda one: np.mean(one[1]))[0]


def test_a_sure_gain_that_does_not_matter_hides_none_that_does() -> None:
    """Single pairs would take the place of one model, and what is better than one model only would not be seen."""
    triple = Grouping.from_labels(TASKS, [0, 1, 2, 2], method="test")
    gains = {"pairs": SMALL + SMALL[:2], "triple": [0.011, 0.041] * 3, BASELINE: [-0.5] * 6}
    comparison = by_seed(gains, more={"triple": triple})
    against = comparison.total("triple", "validation", against="pairs", level=DecisionRules(comparison).level)
    assert against.low < 0 < against.mean
    advice = recommend(comparison, worthwhile=0.01)
    assert (advice.verdict, advice.candidate) == ("yes", "triple")


@pytest.mark.parametrize(("budget", "candidate"), [(None, JOINT), (4, "mixed (3)")])
def test_a_mixture_with_a_gain_that_does_not_matter_is_no_guess(
    monkeypatch: pytest.MonkeyPatch, budget: int | None, candidate: str
) -> None:
    comparison = by_seed({"pairs": WORSE, BASELINE: [0.05, -0.06, 0.04, -0.05]})
    better = {part: labels.values[0] * 0.995 for part, labels in comparison.labels.items()}
    grouping = Grouping.from_labels(TASKS, [0, 0, 1, 2], method="mixed")
    module = importlib.import_module("coterie.evaluation.recommend")
    monkeypatch.setattr(module, "mix", lambda c, name, budget: Mixture(grouping, better) if name == JOINT else None)
    advice = conclude(comparison, budget)[1]
    assert (advice.verdict, advice.candidate) == ("undecided", candidate)


def test_further_seeds_decide_when_they_come() -> None:
    few, many = [0.30, 0.05, 0.25], [0.30, 0.05, 0.25] * 9
    advice = recommend(by_seed({"pairs": few, BASELINE: WORSE[:3]}))
    assert advice.verdict == "undecided"
    wanted = advice.further_seeds
    assert wanted is not None
    assert f"About {wanted} further seed" in advice.text
    # the variance with Bessel's correction is that of repeated seeds up to a factor near one
    enough, short = (by_seed({"pairs": many[:n], BASELINE: (WORSE * 9)[:n]}) for n in (3 + wanted + 2, 4))
    assert recommend(enough).verdict == "yes"
    assert recommend(short).verdict == "undecided"


def test_where_examples_are_too_few_more_seeds_are_not_asked_for() -> None:
    comparison = draw(np.random.default_rng(1), 5, luck=1e-4, labels=20)
    advice = recommend(comparison)
    assert (advice.verdict, advice.further_seeds) == ("undecided", None)
    assert "More seeds alone would hardly decide" in advice.text


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_what_was_not_tried_is_named(seeds: int) -> None:
    advice = conclude(by_seed({"pairs": [0.3, -0.2, 0.25, 0.1][:seeds], BASELINE: WORSE[:seeds]}))[1]
    assert advice.verdict == "undecided"
    assert bool(advice.not_tried) == (seeds < 4)
    assert ("Not tried for lack of seeds: serving single tasks from simpler models" in advice.text) == (seeds < 4)
    if seeds < 4:
        assert advice.further_seeds is not None
        assert advice.further_seeds >= 4 - seeds
    assert advice.to_dict()["not_tried"] == list(advice.not_tried)


def test_test_data_take_back_a_no_only_beyond_the_noise() -> None:
    sure = {"pairs": [0.001, 0.002, 0.0, -0.001], BASELINE: WORSE}
    for on_test, verdict in (([0.2, 0.21, 0.19, 0.2], "undecided"), ([0.4, -0.1, 0.3, 0.0], "no")):
        comparison = by_seed(sure, {"pairs": on_test, BASELINE: WORSE})
        advice = veto(comparison, recommend(comparison))
        assert (advice.verdict, advice.candidate) == (verdict, JOINT)


def test_the_veto_looks_at_the_mean_and_not_at_the_ends() -> None:
    """Half of all true gains have a lower end below zero on test data: these stay; a mean below zero does not."""
    sure = {"pairs": [0.10, 0.11, 0.09, 0.10], BASELINE: WORSE}
    for on_test, verdict in (([0.3, -0.2, 0.3, 0.0], "yes"), ([0.1, -0.3, 0.2, -0.3], "undecided")):
        comparison = by_seed(sure, {"pairs": on_test, BASELINE: WORSE})
        interval = comparison.total("pairs", "test", against=JOINT)
        assert interval.low < 0 < interval.high
        advice = conclude(comparison)[1]
        assert advice.verdict == verdict
        assert advice.candidate == ("pairs" if verdict == "yes" else JOINT)


@pytest.mark.parametrize(("seeds", "tail"), [(2, "heavy"), (3, "failures"), (5, "normal"), (8, "heavy")])
def test_wrong_verdicts_are_rare(seeds: int, tail: str) -> None:
    """The whole procedure; ``benchmarks/verdicts.py`` counts more, for more numbers of seeds."""
    draws, found = 25, {0.0: Counter[str](), 0.05: Counter[str]()}
    for gain, counts in found.items():
        for number in range(draws):
            drawn = draw(
                np.random.default_rng((number, seeds)), seeds, gain=gain, tail=tail, luck=0.02, tasks=4, groups=(2,)
            )
            counts[conclude(drawn)[1].verdict] += 1
    assert found[0.0]["yes"] <= 0.1 * draws
    assert found[0.05]["no"] <= 0.1 * draws


def test_verdicts_are_reached() -> None:
    """With little noise, what is true is said: no verdict is undecided for ever."""
    for gain, verdict in ((0.0, "no"), (0.05, "yes")):
        drawn = [draw(np.random.default_rng(i), 8, gain=gain, luck=0.001, labels=2000) for i in range(5)]
        assert [conclude(one, worthwhile=0.02)[1].verdict for one in drawn].count(verdict) >= 4


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_intervals_hold_with_few_seeds(seeds: int) -> None:
    """Where seeds bring most of the noise, one t quantile for both parts misses in 12 % with two seeds."""
    rng, missed, draws = np.random.default_rng(0), 0, 2000
    for _ in range(draws):
        noise = Noise(float(rng.chisquare(40)) / 40, 40)
        samples = rng.standard_normal(seeds) * (20 * seeds) ** 0.5 + rng.standard_normal()
        missed += abs(Spread.of(samples, noise).mean) > Spread.of(samples, noise).reach()
    assert 0.03 <= missed / draws <= 0.06


def test_ends_that_luck_made_are_not_told_apart() -> None:
    assert str(Interval(-0.457, -30.42, 0.93)) == "-45.7 % (below -1000 to +93.0)"


def solved(losses: tuple[float, float], level: float = 0.69, labels: int = 100) -> Comparison:
    """One model is 10 % better than single tasks on b, c and d; a has all but no loss, as given for (one, single)."""
    groupings = between(TASKS)
    rng = np.random.default_rng(0)
    task, row = np.repeat(np.arange(4), labels), np.tile(np.arange(labels), 4)
    means = np.array([[losses[0], 0.45, 0.45, 0.45], [losses[1], 0.5, 0.5, 0.5]])
    noise = np.exp(0.3 * rng.standard_normal(len(task)) - 0.045) * np.exp(0.02 * rng.standard_normal((2, 5, len(task))))
    part = LabelLosses((means[:, None, task] * noise).astype(np.float32), task, row, np.full(4, level))
    drawn = part.means(4)
    return Comparison(
        TASKS,
        tuple(groupings),
        tuple(groupings.values()),
        tuple(range(5)),
        drawn,
        drawn,
        {"validation": part, "test": part},
    )


@pytest.mark.parametrize("losses", [(0.02, 2e-4), (0.0, 1e-3), (1e-3, 0.0), (0.0, 0.0), (1e-8, 1e-3)])
def test_a_nearly_solved_task_does_not_own_the_total(losses: tuple[float, float]) -> None:
    comparison = solved(losses)
    total = comparison.total(JOINT)
    expected = 1 - 0.9 ** (3 / 4)  # the solved task counts as a draw
    assert total.mean == pytest.approx(expected, abs=0.02)
    assert total.low > 0.03
    own = comparison.per_task(JOINT)[0]
    assert abs(own.mean) < 0.06
    assert np.isfinite(comparison.gains("test")).all()


def test_losses_well_above_their_noise_count_as_they_are() -> None:
    far = solved((0.2, 0.4), labels=400)
    assert far.per_task(JOINT)[0].mean == pytest.approx(0.5, abs=0.02)
    # the fewer labels, the less of a small loss is known
    gains = [solved((0.02, 0.04), labels=n).per_task(JOINT)[0].mean for n in (25, 400, 20_000)]
    assert gains[0] < 0.1 < gains[1] < 0.45 < gains[2]


def test_the_noise_of_small_losses_is_that_of_what_they_count_as() -> None:
    """Compared with a bootstrap over examples, of which the interval is a linear approximation."""
    comparison = solved((0.05, 0.02))
    values = comparison.labels["test"].values.mean(1).reshape(2, 4, 100).astype(float)
    rng, draws = np.random.default_rng(1), []
    for _ in range(1000):
        picked = values[:, :, rng.integers(0, 100, 100)].mean(-1)
        logs = log_losses(picked, comparison.labels["test"].floor(4))
        draws.append((logs[0] - logs[1])[0])
    noise = comparison.labels["test"].noise(0, 1, [0])
    assert noise.variance**0.5 == pytest.approx(np.std(draws), rel=0.15)


def test_the_level_is_saved_and_kept_by_parts(tmp_path) -> None:
    comparison = solved((0.02, 2e-4))
    again = Comparison.load(comparison.save(tmp_path / "c.safetensors"))
    assert again.to_dict() == comparison.to_dict()
    part = comparison.labels["test"].restricted(comparison.labels["test"].row < 50)
    assert part.floor(4) == pytest.approx(2**0.5 * comparison.labels["test"].floor(4))
