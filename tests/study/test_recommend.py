"""What a study recommends: the best models, and "yes" only on fresh seeds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError, WorkloadError
from coterie.evaluation import BASELINE, JOINT
from coterie.evaluation.verdict import NO, UNDECIDED, WORTHWHILE, YES
from coterie.study import serving_plan, study_view
from coterie.study.confirmation import Confirmation
from coterie.study.recommend import recommend
from coterie.study.results import Results
from coterie.study.subset_rules import SubsetRules, all_subsets
from reference.additive_values import AdditiveValues
from reference.served_models import least_totals
from reference.small_study import TASKS, made, study


def test_words_and_numbers_are_those_of_a_comparison():
    assert (serving_plan.ALL_IN_ONE, serving_plan.SINGLE_TASK) == (JOINT, BASELINE)
    assert (study_view.YES, study_view.NO, study_view.UNDECIDED) == (YES, NO, UNDECIDED)
    assert study_view.MATTERS == WORTHWHILE


@pytest.mark.parametrize("seed", range(3))
def test_observed_values_give_the_best_that_was_measured(seed):
    rng = np.random.default_rng(seed)
    trained = all_subsets(4)[rng.permutation(15)[:12]]
    trained = np.concatenate([trained, np.ones((2, 4), dtype=bool), np.eye(4, dtype=bool)])
    variants = ("",) * 14 + ("half",) * 4
    losses = np.where(trained, rng.normal(1, 0.2, size=trained.shape), np.nan)
    results = replace(Results.of(TASKS, trained, losses), variants=variants, costs=np.r_[np.ones(14), np.full(4, 0.5)])
    table = {}
    for row, variant, loss in zip(trained.tolist(), variants, losses, strict=True):
        table.setdefault((tuple(row), variant), []).append(loss)
    values = [np.mean(found, axis=0).tolist() for found in table.values()]
    costs = [0.5 if variant else 1.0 for _, variant in table]
    limits = [(1, None), (2, None), (3, None), (None, 1.0), (None, 2.0), (None, 2.5)]
    for (models, cost), least in zip(limits, least_totals(values, costs, limits), strict=True):
        found = recommend(results, models=models, costs=cost, values="observed")
        assert found.objective == pytest.approx(least)
        assert found.exact
        served = [
            np.mean([loss[t] for loss in table[tuple(n in found.groups[g] for n in TASKS), found.plan.variants[g]]])
            for t, g in enumerate(found.serves.values())
        ]
        assert sum(served) == pytest.approx(least)


def test_the_predictor_finds_the_groups():
    results = study(all_subsets(4)[2:])
    found = recommend(results, models=2, predictor=AdditiveValues(0.1, 0.01))
    assert found.groups == (("a", "b"), ("c", "d"))
    assert found.serves == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert found.recommended == "groups"
    one, single, groups = found.candidates
    assert (one.name, single.name, groups.name) == ("all-in-one", "single-task", "groups")
    assert one.predicted.mean == 0
    assert found.objective == groups.objective == pytest.approx(0.2 / 1.1, abs=0.03)
    assert groups.predicted.low < 0.2 / 1.1 < groups.predicted.high


def test_yes_is_said_on_fresh_seeds_only():
    results = study(all_subsets(4))
    first = recommend(results, models=2, predictor=AdditiveValues(0.1, 0.01))
    assert first.verdict == "undecided"
    assert {run.seed for run in first.confirm} == {1, 2, 3, 4}
    assert len(first.confirm) == 12
    confirmed = made(results, first.confirm)
    assert recommend(confirmed, models=2, predictor=AdditiveValues(0.1, 0.01)).verdict == "undecided"
    stored = Confirmation.from_dict(json.loads(json.dumps(first.confirmation.to_dict())))
    found = recommend(confirmed, models=2, predictor=AdditiveValues(0.1, 0.01), confirmation=stored)
    assert (found.verdict, found.recommended, found.confirm) == ("yes", "groups", ())
    assert "on 4 fresh seeds" in found.text
    assert found.confirmation == first.confirmation


def test_a_choice_that_was_confirmed_is_none_within_smaller_limits():
    results = study(all_subsets(4))
    first = recommend(results, models=2, predictor=AdditiveValues(0.1, 0.01))
    confirmed = made(results, first.confirm)
    found = recommend(confirmed, models=1, predictor=AdditiveValues(0.1, 0.01), confirmation=first.confirmation)
    assert len(found.groups) == 1
    assert (found.verdict != "yes", found.confirm) == (True, ())
    assert found.confirmation == first.confirmation  # what was spent stays spent


def test_a_choice_that_was_written_down_is_not_exchanged_for_what_looks_best_afterwards():
    results = study(all_subsets(4), harm=0.0, noise=0.05)
    first = recommend(results, models=3, values="observed")
    more = made(results, first.confirm[:5], harm=0.0, noise=0.05)
    found = recommend(more, models=3, predictor=AdditiveValues(0.05, 0.05), confirmation=first.confirmation)
    assert found.confirmation == first.confirmation
    assert {run.key for run in found.confirm} == {run.key for run in first.confirm[5:]}


def test_a_better_choice_is_another_attempt_with_seeds_of_its_own():
    results = study(all_subsets(4))
    good = recommend(results, models=2, predictor=AdditiveValues(0.1, 0.01)).confirmation
    poor = replace(good, plan=replace(good.plan, groups=(("a", "c"), ("b", "d")), serves=(0, 1, 0, 1)))
    more = made(results, poor.wanted(results))
    found = recommend(more, models=2, predictor=AdditiveValues(0.1, 0.01), confirmation=poor)
    assert (found.confirmation.plan, found.confirmation.attempt) == (good.plan, 2)
    assert found.confirmation.first_seed == 5
    untouched = recommend(results, models=2, predictor=AdditiveValues(0.1, 0.01), confirmation=poor)
    assert (untouched.confirmation.plan, untouched.confirmation.attempt) == (good.plan, 1)


def test_do_not_bother_needs_that_a_gain_is_excluded():
    unsure = study(all_subsets(4), harm=0.0, noise=0.02)
    assert recommend(unsure, models=2, predictor=AdditiveValues(0.05, 0.02)).verdict == "undecided"
    sure = study(np.repeat(all_subsets(4), 30, axis=0), harm=0.0, noise=0.01)
    found = recommend(sure, models=2, predictor=AdditiveValues(0.05, 0.01))
    assert (found.verdict, found.recommended) == ("no", "all-in-one")
    assert found.text.startswith("Do not bother")


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_tasks_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    results, order = study(all_subsets(4), seed % 1000, harm=0.05), rng.permutation(4)
    moved = replace(
        results,
        sources=tuple(TASKS[i] for i in order),
        targets=tuple(TASKS[i] for i in order),
        trained=results.trained[:, order],
        losses=results.losses[:, order],
    )
    one, other = (recommend(found, models=2, predictor=AdditiveValues(0.1, 0.01)) for found in (results, moved))
    assert {frozenset(group) for group in one.groups} == {frozenset(group) for group in other.groups}
    assert one.objective == pytest.approx(other.objective)
    assert one.verdict == other.verdict
    louder = recommend(replace(results, losses=8 * results.losses), models=2, predictor=AdditiveValues(0.8, 0.08))
    assert (louder.groups, louder.objective) == (one.groups, pytest.approx(one.objective))


def test_rules_hold():
    results, rules = study(all_subsets(4)), SubsetRules(sizes=(1, 2), apart=[("a", "b")], together=[("c", "d")])
    found = recommend(results, models=3, predictor=AdditiveValues(0.1, 0.01), rules=rules)
    assert found.groups == (("a",), ("b",), ("c", "d"))
    assert found.recommended == "groups"
    listed = SubsetRules(among=[("a", "b", "c"), ("d",)])
    assert recommend(results, models=2, values="observed", rules=listed).groups == (("a", "b", "c"), ("d",))


def test_more_than_ten_tasks_are_searched():
    tasks = tuple(f"t{i}" for i in range(12))
    rng = np.random.default_rng(0)
    same = np.kron(np.eye(3), np.ones((4, 4))) > 0
    trained = rng.random((60, 12)) < 0.5
    values = 1 + np.where(same, -0.02, 0.02) @ trained.T
    losses = np.where(trained, values.T + 0.005 * rng.normal(size=trained.shape), np.nan)
    found = recommend(Results.of(tasks, trained, losses), models=3, predictor=AdditiveValues(0.03, 0.005))
    assert found.groups == (tasks[:4], tasks[4:8], tasks[8:])
    assert not found.exact


def test_targets_that_are_no_sources_are_served_by_any_model():
    trained = np.array([[True, False], [False, True], [True, True]])
    losses = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    results = replace(Results.of(("x", "y"), trained, losses), targets=("u", "v"))
    found = recommend(results, models=2, values="observed")
    assert found.serves == {"u": 0, "v": 1}
    assert found.objective == pytest.approx(0.3)
    assert [one.name for one in found.candidates] == ["all-in-one", "groups"]
    assert found.to_dict(results.sources)["confirm"][0]["tasks"] == ["x", "y"]


def test_it_is_shown_and_written():
    pytest.importorskip("pandas")
    found = recommend(study(all_subsets(4)), models=2, predictor=AdditiveValues(0.1, 0.01))
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["groups"] == [["a", "b"], ["c", "d"]]
    assert {"groups", "serves", "objective", "recommended", "text"} <= set(data)
    assert list(found.to_frame().candidate) == ["all-in-one", "single-task", "groups"]
    assert "a + b; c + d" in found._repr_html_()
    assert "groups" in repr(found)


def test_what_cannot_be_decided_is_refused():
    results = study(all_subsets(4))
    with pytest.raises(WorkloadError, match="no finished run"):
        recommend(study(np.zeros((0, 4))), values="observed")
    with pytest.raises(WorkloadError, match="No run has measured d"):
        recommend(study([[True, True, True, False]]), values="observed")
    with pytest.raises(SettingError, match="values"):
        recommend(results, values="guessed")
    with pytest.raises(SettingError, match="models"):
        recommend(results, models=0)
    with pytest.raises(SettingError, match="matters"):
        recommend(results, matters=5)
    with pytest.raises(SettingError, match="costs"):
        recommend(results, costs=0.5, values="observed")
    with pytest.raises(SettingError, match="Did you mean"):
        recommend(results, values="observed", rules=SubsetRules(apart=[("a", "bb")]))
    with pytest.raises(SettingError, match="stored confirmation"):
        Confirmation.from_dict({"plan": None})
