"""The short formula of a gain model, against models that follow it and against loops."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.affinity import formula
from coterie.affinity.formula import POWERS, fit_formula
from coterie.affinity.gain_model import NamedGainModel, random_subsets

N, SIZE = 7, 3


class Additive(NamedGainModel):
    """Partners add up, as a sum (power 0), a mean (1), or in between; errors are those of independent values."""

    def __init__(self, power: float, error: float = 0.0) -> None:
        super().__init__(tuple("abcdefg"), "additive")
        rng = np.random.default_rng(3)
        self.effects = rng.normal(size=(N, N)) * 0.01 * (1 - np.eye(N))
        self.level, self.slope, self.power, self.error = (
            rng.normal(size=N) * 0.05,
            rng.normal(size=N) * 0.01,
            power,
            error,
        )

    def _predict(self, subsets):
        found = np.zeros(subsets.shape)
        for row, subset in enumerate(subsets):
            members = np.flatnonzero(subset)
            for task in members if len(members) > 1 else ():
                partners = sum(self.effects[task, s] for s in members if s != task)
                weight = ((len(members) - 1) / (SIZE - 1)) ** -self.power
                found[row, task] = (
                    self.level[task] + self.slope[task] * np.log2(len(members) / SIZE) + weight * partners
                )
        return found

    def _standard_error(self, subsets):
        return np.full(subsets.shape, self.error) if self.error else None


@pytest.mark.parametrize("power", POWERS)
def test_a_model_that_follows_the_formula_is_found_and_predicted(power):
    model = Additive(power)
    found = fit_formula(model, SIZE)
    assert found.power == power
    fresh = random_subsets(N, 30, [2, 3, 5, 6], seed=9, cover=False)
    spread = np.nanstd(model.predict(fresh))
    assert np.nanmax(np.abs(found.predict(fresh) - model.predict(fresh))) < 0.01 * spread
    rows = ~np.eye(N, dtype=bool)
    centred = [m - np.where(rows, m, 0).sum(1, keepdims=True) / (N - 1) for m in (found.effects, model.effects)]
    assert centred[0][rows] == pytest.approx(centred[1][rows], abs=2e-4)
    assert np.isnan(found.errors).all()  # this model knows no standard errors
    assert np.isnan(found.doubt).all()


def test_standard_errors_are_those_of_values_that_are_drawn_anew(monkeypatch):
    """Differences of effects, refitted to noisy values many times, spread as the errors say."""
    monkeypatch.setattr(formula, "_choose", lambda subsets, gains, size: (0.0, 1e-4, np.zeros(N)))
    model = Additive(0.0, error=0.02)
    found = fit_formula(model, SIZE)
    assert np.exp(found.doubt[:, -2]) == pytest.approx(0.02)
    rng, clean = np.random.default_rng(0), model._predict
    drawn = []
    for _ in range(60):
        model._predict = lambda subsets: clean(subsets) + 0.02 * rng.normal(size=subsets.shape)
        effects = fit_formula(model, SIZE).effects
        drawn.append(effects - effects.sum(1, keepdims=True) / (N - 1))
    rows = ~np.eye(N, dtype=bool)
    ratio = np.std(drawn, axis=0)[rows].mean() / found.errors[rows].mean()
    assert 0.93 < ratio < 1.07


def test_errors_that_go_together_leave_differences_sure():
    """An error that all values of a task share is no error of its differences."""

    class Shared(Additive):
        def task_covariance(self, subsets, task):
            return np.full((len(subsets), len(subsets)), self.error**2)

    apart, together = fit_formula(Additive(0.0, 0.02), SIZE), fit_formula(Shared(0.0, 0.02), SIZE)
    rows = ~np.eye(N, dtype=bool)
    assert together.errors[rows].max() < 0.05 * apart.errors[rows].min()


def test_tasks_alone_gain_nothing_and_others_are_not_told():
    found = fit_formula(Additive(1.0), SIZE).predict(np.eye(N, dtype=bool))
    assert np.array_equal(np.isnan(found), ~np.eye(N, dtype=bool))
    assert np.diag(found) == pytest.approx(0.0)
