"""Trainings that never look at validation data."""

import numpy as np
import pytest
import torch

from coterie.errors import SettingError
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.training.population import fit_population
from coterie.workload import Recipe, from_arrays


@pytest.fixture(scope="module")
def work():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5))
    y = (x @ rng.normal(size=(5, 3)) + rng.normal(size=(120, 3)) > 0).astype(float)
    return from_arrays(x, y, recipe=Recipe(epochs=3, batch_size=16, check_every=2), hidden=(6,))


@pytest.mark.parametrize("trainer", [lambda w, jobs: [fit_one(w, job) for job in jobs], fit_population])
def test_the_last_state_is_the_same_as_with_checks(work, trainer):
    jobs = [
        Job((0, 2), seed=1, max_steps=7, early_stopping=False, checks=False),
        Job((0, 2), seed=1, max_steps=7, early_stopping=False),
        Job((1,), seed=2, max_steps=4, early_stopping=False, checks=False),
        Job((1,), seed=2, max_steps=4, early_stopping=False),
        Job((0, 1), seed=3),
    ]
    fits = trainer(work, jobs)
    for blind, seen in ((fits[0], fits[1]), (fits[2], fits[3])):
        for name, value in seen.state.items():
            torch.testing.assert_close(blind.state[name], value, rtol=1e-5, atol=1e-6)
        assert (blind.steps, blind.best_step) == (seen.steps, seen.best_step)
        assert blind.history == ()
        assert len(seen.history) > 1
        assert np.isnan(blind.validation).all()
        assert np.isnan(blind.test).all()
        assert np.isfinite(seen.test).any()
    alone = trainer(work, [jobs[4]])[0]
    np.testing.assert_allclose(fits[4].validation, alone.validation, rtol=1e-5)
    np.testing.assert_allclose(fits[4].test, alone.test, rtol=1e-5)


def test_all_unchecked(work):
    jobs = [Job((t,), seed=t, max_steps=3, early_stopping=False, checks=False) for t in range(3)]
    for one, many in zip([fit_one(work, job) for job in jobs], fit_population(work, jobs), strict=True):
        for name, value in one.state.items():
            torch.testing.assert_close(many.state[name], value, rtol=1e-5, atol=1e-6)


def test_early_stopping_needs_checks():
    with pytest.raises(SettingError, match="checks"):
        Job((0,), seed=0, checks=False)
