"""The best models of published tables of all 31 subsets of five tasks, within a number of models or a cost."""

from itertools import combinations

import numpy as np
import pytest

import coterie.truth
from coterie.study.recommend import recommend

SETTINGS = [name for name in coterie.truth.names() if name.startswith("standley")]


def every_choice(losses, costs):
    """Number, cost and sum of losses of all sets of models; more than five serve five targets no better."""
    found = []
    for count in range(1, 6):
        sets = np.array(list(combinations(range(len(losses)), count)))
        found.append(np.c_[np.full(len(sets), count), costs[sets].sum(axis=1), losses[sets].min(axis=1).sum(axis=1)])
    return np.concatenate(found).T


@pytest.mark.parametrize("name", SETTINGS)
def test_the_best_within_a_number_of_models_or_a_cost(name):
    results = coterie.truth.load(name)
    assert results.losses.shape == (36, 5)
    losses = np.where(np.isnan(results.losses), np.inf, results.losses)
    counts, costs, totals = every_choice(losses, results.costs)
    for models in range(1, 6):
        found = recommend(results, models=models, values="observed")
        assert found.exact
        assert found.objective == pytest.approx(totals[counts <= models].min(), rel=1e-12)
    for cost in np.arange(1, 5.5, 0.5):
        found = recommend(results, models=None, costs=float(cost), values="observed")
        assert found.exact
        assert found.objective == pytest.approx(totals[costs <= cost + 1e-9].min(), rel=1e-12)


def test_there_are_all_four_settings():
    assert len(SETTINGS) == 4
