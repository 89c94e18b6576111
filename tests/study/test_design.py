"""What a study runs next: the first design, the worth of a run, rules, confirmation, and the end."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from coterie.errors import SettingError
from coterie.study.confirmation import WantedRun
from coterie.study.decision_draws import DecisionDraws, decision_draws, run_noise
from coterie.study.design import design_size, next_runs
from coterie.study.menu import ModelMenu
from coterie.study.recommend import recommend
from coterie.study.results import Results
from coterie.study.study_view import Aim, StudyView
from coterie.study.subset_rules import SubsetRules, all_subsets, run_costs
from reference.additive_values import AdditiveValues
from reference.small_study import TASKS, joined, made, study

PREDICTOR = AdditiveValues(0.1, 0.01)


def nothing(tasks):
    return Results.of(tasks, np.zeros((0, len(tasks)), dtype=bool), np.zeros((0, len(tasks))))


def test_the_first_design_has_all_tasks_and_every_pair():
    tasks = tuple("abcdef")
    size = design_size(6)
    found = next_runs(nothing(tasks), 50)
    assert len(found.runs) == size
    assert found.runs[0].trained.all()
    trained = np.array([run.trained for run in found.runs])
    assert len(np.unique(trained, axis=0)) == size
    assert ((trained.T.astype(int) @ trained) > 0).all()  # every pair was together,
    assert ((trained.T.astype(int) @ ~trained) > 0).sum() == 30  # and each task without each other one
    assert {run.seed for run in found.runs} == {0}
    assert not found.enough
    again = next_runs(nothing(tasks), 50)
    assert [run.key for run in again.runs] == [run.key for run in found.runs]


def test_runs_one_by_one_are_those_of_a_batch():
    batch = next_runs(nothing(TASKS), 6).runs
    taken = ()
    for run in batch:
        (one,) = next_runs(nothing(TASKS), 1, taken=taken).runs
        assert one.key == run.key
        taken = (*taken, one)


def test_dear_runs_are_rarer():
    trained = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]], dtype=bool)
    results = Results.of(tuple("abcdef"), trained, np.ones((2, 6)))
    even, dear = (
        sum(run.trained.sum() for run in next_runs(replace(results, costs=np.array(costs)), 4).runs)
        for costs in ([1.0, 1.0], [50.0, 1.0])
    )
    assert dear < even


def test_costs_of_other_subsets_lie_on_a_line():
    trained = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    results = replace(Results.of(TASKS, trained, np.ones((3, 4))), costs=np.array([1.0, 2.0, 3.0]))
    assert run_costs(results, np.ones((1, 4), dtype=bool), "").tolist() == [4.0]
    assert run_costs(results, trained[:1], "").tolist() == [1.0]
    assert run_costs(nothing(TASKS), trained, "").tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("told", [0, 15])
def test_rules_hold(told):
    rules = SubsetRules(sizes=(2, 3), apart=[("a", "c")])
    found = next_runs(
        study(all_subsets(4)[:told], harm=0.02, noise=0.05), 4, aim=Aim(2, rules=rules), predictor=PREDICTOR
    )
    assert found.runs
    for run in found.runs:
        assert 2 <= run.trained.sum() <= 3
        assert not (run.trained[0] and run.trained[2])
    with pytest.raises(SettingError, match="rules"):
        next_runs(nothing(TASKS), aim=Aim(rules=SubsetRules(sizes=(3, 4), apart=[TASKS])))


def small_draws(seed=0, draws=4000):
    """Two models of two targets each, drawn jointly; one plan for each."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 4)) / 10
    covariance = root @ root.T
    values = np.array([[1.0, 1.0], [1.02, 0.99]])
    drawn = rng.multivariate_normal(values.ravel(), covariance, draws).reshape(draws, 2, 2)
    trained = np.array([[True, True], [True, True]])
    menu = ModelMenu(trained, ("", "half"), values, np.ones(2), np.zeros((2, 2)))
    serves = np.array([[0, 0], [1, 1]])
    shares = np.array([0.5, 0.5])
    noise = np.array([0.05, 0.1])
    return DecisionDraws(menu, drawn, noise, np.ones((2, 2), dtype=bool), shares, serves), covariance


def test_worth_of_a_run_is_the_gain_of_deciding_after_it():
    draws, covariance = small_draws()
    # two plans: the difference of their gains is normal, and E max(0, d) has a closed form
    weights = np.array([0.5, 0.5, -0.5, -0.5])
    mean, best = weights @ draws.menu.values.ravel(), int(draws.expected.argmax())
    for row in range(2):
        seen = slice(2 * row, 2 * row + 2)
        moved = covariance[seen] @ weights
        spread = np.sqrt(moved @ np.linalg.solve(covariance[seen, seen] + np.diag(draws.noise**2), moved))
        exact = spread * norm.pdf(mean / spread) + mean * norm.cdf(mean / spread) - max(mean, 0)
        assert draws.worths(row)[0] == pytest.approx(exact, rel=0.1)
        assert draws.worths(row)[1] == pytest.approx(draws.probability[1 - best] * spread**2, rel=0.1)
    spread = np.sqrt(weights @ covariance @ weights)
    exact = spread * norm.pdf(mean / spread) + mean * norm.cdf(mean / spread) - max(mean, 0)
    assert draws.regret() == pytest.approx(exact, rel=0.1)
    assert max(draws.worths(row)[0] for row in range(2)) < draws.regret()
    assert draws.probability.sum() == 1
    assert draws.worth().max() <= 2


def test_a_run_that_is_under_way_leaves_less_to_learn():
    draws, covariance = small_draws()
    after = draws.after(0)
    seen = covariance[:, :2]
    left = covariance - seen @ np.linalg.solve(covariance[:2, :2] + np.diag(draws.noise**2), seen.T)
    assert np.cov(after.draws.reshape(-1, 4).T) == pytest.approx(left, abs=0.1 * np.abs(covariance).max())
    assert after.draws.mean(axis=0) == pytest.approx(draws.draws.mean(axis=0), abs=0.005)
    assert after.regret() < draws.regret()
    assert after.worths(0)[0] < draws.worths(0)[0]


def test_noise_of_a_run_is_found():
    results = study(np.repeat(all_subsets(4), 8, axis=0), noise=0.03)
    view = StudyView.of(results, Aim(2), AdditiveValues(0.1, 0.03).fit(results))
    assert run_noise(view) == pytest.approx(np.full(4, 0.03), rel=0.2)


def test_what_decides_is_run_and_what_is_known_is_not():
    """Whether a and b belong together is open; c and d are known to."""
    rng = np.random.default_rng(0)
    trained = np.concatenate(
        [np.ones((1, 4), dtype=bool), np.repeat([[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]], 20, 0) > 0]
    )
    trained = np.concatenate([trained, [[True, False, False, False], [False, True, False, False]]])
    losses = np.where(
        trained, 1 - 0.3 * (trained.sum(axis=1) == 2)[:, None] + 0.01 * rng.normal(size=trained.shape), np.nan
    )
    found = next_runs(Results.of(TASKS, trained, losses), aim=Aim(2), predictor=AdditiveValues(0.3, 0.05))
    assert found.runs[0].trained[:2].any()


def test_runs_that_were_taken_are_not_proposed_again():
    results = study(all_subsets(4), harm=0.02, noise=0.05)
    predictor = AdditiveValues(0.05, 0.05)
    first = next_runs(results, 3, aim=Aim(2), predictor=predictor)
    assert len({run.key for run in first.runs}) == 3
    second = next_runs(results, 3, aim=Aim(2), predictor=predictor, taken=first.runs)
    assert not {run.key for run in first.runs} & {run.key for run in second.runs}
    bad = first.runs[0]
    lost = [WantedRun(bad.trained, seed, "", bad.variant) for seed in (0, 1)]
    others = all_subsets(4)[~(all_subsets(4) == bad.trained).all(axis=1)]
    kept = study(others, harm=0.02, noise=0.05)
    runs = next_runs(kept, 5, aim=Aim(2), predictor=predictor, taken=lost).runs
    assert not any((run.trained == bad.trained).all() for run in runs)


def test_a_choice_is_confirmed_and_then_there_are_enough():
    results = study(np.repeat(all_subsets(4), 2, axis=0))
    found = next_runs(results, 20, aim=Aim(2), predictor=PREDICTOR)
    assert found.reason.startswith("Confirm")
    assert found.confirmation.plan.groups == (("a", "b"), ("c", "d"))
    assert [run.key for run in found.runs] == [run.key for run in found.confirmation.wanted(results)]
    half = made(results, found.runs[:7])
    more = next_runs(half, 20, aim=Aim(2), predictor=PREDICTOR, confirmation=found.confirmation, taken=found.runs[7:9])
    assert {run.seed for run in more.runs} >= {4, 5}
    told = made(results, found.runs)
    last = next_runs(told, 1, aim=Aim(2), predictor=PREDICTOR, confirmation=found.confirmation)
    assert (last.enough, len(last.runs)) == (True, 1)
    assert recommend(told, models=2, predictor=PREDICTOR, confirmation=last.confirmation).verdict == "yes"


def test_there_are_enough_when_nothing_can_be_gained():
    results = study(np.repeat(all_subsets(4), 30, axis=0), harm=0.0, noise=0.01)
    found = next_runs(results, 3, aim=Aim(2), predictor=AdditiveValues(0.05, 0.01))
    assert (found.enough, len(found.runs), found.confirmation) == (True, 3, None)
    assert found.regret < 0.0025
    unsure = study(all_subsets(4), harm=0.0, noise=0.1)
    found = next_runs(unsure, 3, aim=Aim(2), predictor=AdditiveValues(0.1, 0.1))
    assert (found.enough, len(found.runs)) == (False, 3)


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingError, match="count"):
        next_runs(nothing(TASKS), 0)
    with pytest.raises(SettingError, match="seed"):
        next_runs(nothing(TASKS), seed=-1)


def test_draws_hold_what_was_measured_apart_from_luck():
    results = joined(study(all_subsets(4)), study(all_subsets(4), seed=1, seeds=np.ones(15)))
    view = StudyView.of(results, Aim(2), PREDICTOR.fit(results))
    draws = decision_draws(view, all_subsets(4), 0)
    assert draws.draws.mean(axis=0) == pytest.approx(draws.menu.values, abs=0.01, nan_ok=True)
