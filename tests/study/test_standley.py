"""The best models of published tables of all 31 subsets of five tasks, within a number of models or a cost."""

from itertools import combinations

import numpy as np
import pytest

import coterie.truth
from coterie.study.recommend import recommend

SETTINGS = [name for name in coterie.truth.names() if name.startswith("standley")]


def least_total(losses, costs, *, models=5, cost=np.inf):
    """The smallest sum of losses over all sets of at most `models` models within a cost; five serve five targets."""
    best = np.inf
    for count in range(1, models + 1):
        sets = np.array(list(combinations(range(len(losses)), count)))
        sets = sets[costs[sets].sum(axis=1) <= cost + 1e-9]
        totals = losses[sets].min(axis=1).sum(axis=1)
        best = min(best, totals.min(initial=np.inf))
    return best


@pytest.mark.parametrize("name", SETTINGS)
def test_the_best_within_a_number_of_models_or_a_cost(name):
    results = coterie.truth.load(name)
    assert results.losses.shape == (36, 5)
    losses = np.where(np.isnan(results.losses), np.inf, results.losses)
    for models in range(1, 6):
        found = recommend(results, models=models, values="observed")
        assert found.exact
        assert found.objective == pytest.approx(least_total(losses, results.costs, models=models), rel=1e-12)
    for cost in np.arange(1, 5.5, 0.5):
        found = recommend(results, models=None, costs=float(cost), values="observed")
        assert found.exact
        assert found.objective == pytest.approx(least_total(losses, results.costs, cost=cost), rel=1e-12)


def test_there_are_all_four_settings():
    assert len(SETTINGS) == 4
