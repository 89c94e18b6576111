"""What estimates say and do when there are far more tasks than a budget of trainings can look at."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from coterie import Context
from coterie.affinity import get_estimator
from coterie.affinity.grad_tae import SECANTS
from coterie.affinity.linear import at
from coterie.affinity.surrogates.foresight import expected_skill, warn_of_little
from coterie.errors import DataWarning
from coterie.workload import Recipe, Workload, from_arrays


def workload(n_tasks: int) -> Workload:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4))
    y = (x @ rng.normal(size=(4, n_tasks)) + rng.logistic(size=(120, n_tasks)) > 0).astype(float)
    return from_arrays(x, y, recipe=Recipe(epochs=1, batch_size=40, check_every=2), hidden=(4,))


def test_a_budget_without_base_models_says_how_few_pairs_it_has_seen() -> None:
    """60 tasks, 3 trainings of 5 tasks: at most 3 * 20 of the 60 * 59 ordered pairs, 2 %."""
    with pytest.warns(DataWarning, match="of little use"):
        estimate = get_estimator("fused", trainings=3).estimate(workload(60), subset_size=5)
    assert estimate.facts["base models"] == 0
    (said,) = [note for note in estimate.notes if note.startswith("no base model")]
    runs = int(estimate.facts["real runs"])
    assert f"{runs} real runs, in which {runs * 20 / (60 * 59):.0%} of the pairs" in said
    assert "60 tasks" in said
    assert "budget of 3 trainings" in said


class _TrainsNothing:
    def unit(self, name, key, compute):
        raise AssertionError(f"{name} was asked for before the warning")


def test_that_an_estimate_will_be_of_little_use_is_said_before_anything_is_trained() -> None:
    """500 tasks: the shortest forks alone take 1 + 500 * 0.05 = 26 trainings; 15 runs of 25 show 3.6 % of the pairs."""
    text = r"takes 26 trainings .* 15 real runs of 25 tasks show 3\.6%"
    with pytest.warns(DataWarning, match=text) as said, pytest.raises(AssertionError, match="before the warning"):
        get_estimator("fused").estimate(workload(500), subset_size=25, context=Context(store=_TrainsNothing()))
    assert "about 0.06" in str(said[0].message)


@pytest.mark.parametrize(
    ("tasks", "trainings", "size"), [(13, 15.0, 4), (60, 15.0, 5), (500, 60.0, 25), (60, 20.0, 20)]
)
def test_nothing_is_said_where_a_base_model_may_fit_or_runs_tell(tasks: int, trainings: float, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_little(tasks, trainings, size, SECANTS)


def test_expected_skill_is_near_that_of_a_linear_surrogate_with_50_runs() -> None:
    """Correlations of docs/benchmark.md: tasks, size of subsets, what 50 runs have."""
    measured = [(13, 4, 0.48), (20, 4, 0.27), (37, 5, 0.28), (45, 5, 0.11), (73, 5, 0.14), (50, 5, 0.05)]
    for tasks, size, found in measured:
        assert expected_skill(tasks, 50, size) == pytest.approx(found, abs=0.15)
    assert expected_skill(500, 10_000, 25) > 0.7


def test_nothing_of_the_kind_is_said_where_base_models_are_asked_for() -> None:
    estimate = get_estimator("fused", bases=1, runs=2).estimate(workload(4))
    assert not [note for note in estimate.notes if note.startswith("no base model")]


def test_a_fit_that_went_astray_does_not_make_losses_negative() -> None:
    """Gains are relative to the loss of a task alone; one at zero would rule the whole matrix of affinities."""
    along = np.array([0.2, 0.1, 0.2, 30.0, np.nan])[:, None, None] * np.ones((1, 1, 2))
    parabola = 0.2 * (1 - 0.3**2) + 30.0 * (0.3**2 - 0.3) / 2 + 0.1 * (0.3**2 + 0.3) / 2
    assert parabola < 0
    np.testing.assert_allclose(at(along, np.array([1.7])), 0.05)
    np.testing.assert_allclose(at(along, np.array([1.0])), 0.1)
    np.testing.assert_allclose(at(along, np.array([1.25])), 0.1 + 0.1 * 0.25**2)


def test_losses_that_may_be_negative_are_interpolated_too() -> None:
    """Registered losses may be log densities, whose values lie on both sides of zero."""
    along = np.array([-1.0, -2.0, -1.0])[:, None, None] * np.ones((1, 1, 2))
    np.testing.assert_allclose(at(along, np.array([1.0])), -2.0)
    np.testing.assert_allclose(at(along, np.array([1.25])), -2.0 + 0.25**2)
