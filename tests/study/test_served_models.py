"""Which models to serve: against every way to serve the targets, and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.study.served_models import ServingLimits, choose_models, served_sets
from reference.served_models import least_totals

#: every number of models, every budget, and both
LIMITS = [(1, None), (2, None), (3, None), (None, None), (None, 1.0), (None, 1.5), (None, 2.5), (2, 2.5), (3, 3.0)]


def table(seed, models=9, targets=4):
    """Values with gaps, some of them equal, and costs of two kinds; the first model serves all targets."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, size=(models, targets)) / 8 + rng.choice([0.0, 1.0]) * rng.normal(
        size=(models, targets)
    )
    values[1:][rng.random((models - 1, targets)) < 0.4] = np.nan
    costs = rng.choice([0.5, 1.0], size=models)
    costs[0] = 1.0
    return values, costs


def check_choice(found, values, costs, limits):
    """The choice is within the limits, and gives each target what it says."""
    assert set(found.serves) == set(found.models)
    assert found.total == pytest.approx(sum(values[m, t] for t, m in enumerate(found.serves)), abs=1e-12)
    assert limits.models is None or len(found.models) <= limits.models
    assert limits.cost is None or costs[list(found.models)].sum() <= limits.cost + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_the_best_of_all(seed):
    values, costs = table(seed)
    for (models, cost), least in zip(LIMITS, least_totals(values.tolist(), costs.tolist(), LIMITS), strict=True):
        limits = ServingLimits(models, cost)
        found = choose_models(values, costs, limits)
        check_choice(found, values, costs, limits)
        assert found.exact
        assert found.total == pytest.approx(least, abs=1e-9), (models, cost)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(2, None), (3, None)]))
def test_order_shift_and_scale_change_nothing(seed, limit):
    values, costs = table(seed, targets=5)
    rng, limits = np.random.default_rng(seed), ServingLimits(*limit)
    found = choose_models(values, costs, limits)
    rows, columns = rng.permutation(len(values)), rng.permutation(values.shape[1])
    moved = choose_models(2 * values[rows][:, columns] + 3, costs[rows], limits)
    assert moved.total == pytest.approx(2 * found.total + 3 * values.shape[1])


@pytest.mark.parametrize("seed", range(4))
def test_a_search_is_allowed_and_not_better_than_the_best(seed):
    values, costs = table(seed, models=30, targets=6)
    for models, cost in LIMITS[1:]:
        limits = ServingLimits(models, cost)
        found, best = choose_models(values, costs, limits, search=True), choose_models(values, costs, limits)
        check_choice(found, values, costs, limits)
        assert not found.exact
        assert found.total >= best.total - 1e-12
    free = ServingLimits(None)
    assert choose_models(values, costs, free, search=True).total == pytest.approx(np.nanmin(values, axis=0).sum())


def test_no_more_models_than_are_of_use():
    values = np.array([[0.5, 0.5, 0.5], [0.5, np.nan, np.nan], [np.nan, 0.5, 0.5]])
    assert choose_models(values, np.ones(3), ServingLimits(3)).models == (0,)
    assert choose_models(values, np.ones(3), ServingLimits(None, 3.0)).models == (0,)
    assert choose_models(values, np.ones(3), ServingLimits(3), search=True).models == (0,)


def test_many_targets_are_searched():
    values = np.full((8, 16), 2.0)
    for row in range(8):
        values[row, 2 * row : 2 * row + 2] = 1.0
    found = choose_models(values, np.ones(8), ServingLimits(3))
    assert not found.exact
    assert found.total == 16 * 2 - 3 * 2


def test_served_sets_are_sums_of_one_model():
    values = np.array([[1.0, 2.0], [0.5, np.inf]])
    worth, model = served_sets(values)
    assert worth.tolist() == [0.0, -0.5, -2.0, -3.0]
    assert model.tolist() == [-1, 1, 0, 0]


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([[1.0, np.nan]], ServingLimits(1)),
        ([[1.0, np.nan], [np.nan, 1.0]], ServingLimits(1)),
        ([[1.0, np.nan], [np.nan, 1.0]], ServingLimits(None, 1.5)),
        (np.empty((0, 2)), ServingLimits(1)),
    ],
)
def test_targets_that_cannot_all_be_served_are_refused(values, limits):
    values = np.array(values)
    with pytest.raises(SettingError, match="Parameters `models` and `costs`"):
        choose_models(values, np.ones(len(values)), limits)
