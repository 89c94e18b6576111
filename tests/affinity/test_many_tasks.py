"""What estimates say and do when there are far more tasks than a budget of trainings can look at."""

from __future__ import annotations

import numpy as np

from coterie.affinity import get_estimator
from coterie.affinity.linear import at
from coterie.workload import Recipe, Workload, from_arrays


def workload(n_tasks: int) -> Workload:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4))
    y = (x @ rng.normal(size=(4, n_tasks)) + rng.logistic(size=(120, n_tasks)) > 0).astype(float)
    return from_arrays(x, y, recipe=Recipe(epochs=1, batch_size=40, check_every=2), hidden=(4,))


def test_a_budget_without_base_models_says_how_few_pairs_it_has_seen() -> None:
    """60 tasks, 4 trainings of 5 tasks: at most 4 * 20 of the 60 * 59 ordered pairs, 2 %."""
    estimate = get_estimator("fused", trainings=4).estimate(workload(60), subset_size=5)
    assert estimate.facts["base models"] == 0
    (said,) = [note for note in estimate.notes if note.startswith("no base model")]
    runs = int(estimate.facts["real runs"])
    assert f"{runs} real runs, in which {runs * 20 / (60 * 59):.0%} of the pairs" in said
    assert "60 tasks" in said
    assert "budget of 4 trainings" in said


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
