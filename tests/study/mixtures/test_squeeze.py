"""The scale on which losses of mixtures are predicted, and when a choice is confirmed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.study.mixtures.average import MixtureProcess
from coterie.study.mixtures.design import mixture_design_size, next_mixtures
from coterie.study.mixtures.objective import MixtureAim
from coterie.study.mixtures.results import MixtureResults
from coterie.study.mixtures.squeeze import Squeeze

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=12), st.floats(0.01, 100), numbers)
def test_the_scale_goes_back_grows_and_moves_along(losses, unit, level):
    told = np.array(losses)[:, None]
    squeeze = Squeeze.of(told)
    on_scale = squeeze.apply(told)
    np.testing.assert_allclose(squeeze.undo(on_scale), told, atol=1e-6 * (1 + np.abs(told).max()))
    np.testing.assert_allclose(
        Squeeze.of(unit * told + level).apply(unit * told + level), on_scale, rtol=1e-4, atol=1e-5
    )
    asked = np.linspace(-2, squeeze.top[0] + 2, 401)[:, None]
    back = squeeze.undo(asked)
    assert (np.diff(back[:, 0]) > 0).all()
    between = (asked[1:] + asked[:-1]) / 2
    slopes = np.diff(back, axis=0) / np.diff(asked, axis=0)
    np.testing.assert_allclose(squeeze.slope(between), slopes, rtol=0.02)


def test_one_very_bad_run_does_not_decide_on_the_others():
    """Runs of a smooth loss, and one that lacks the first source and is far worse: the others stay well predicted."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(3, 3.0), 40)
    shares[0] = [0.0, 0.5, 0.5]

    def loss(rows):
        return ((rows - [0.4, 0.4, 0.2]) ** 2).sum(1, keepdims=True) + 3.0 * (rows[:, :1] == 0)

    told = MixtureResults.of(("a", "b", "c"), ("t",), shares[:20], loss(shares[:20]))
    found = MixtureProcess(trees=False).fit(told).mean(shares[20:])
    error = np.abs(found - loss(shares[20:])).mean()
    assert error < 0.15 * loss(shares[20:]).std()


@pytest.mark.parametrize(("runs", "confirms"), [(9, False), (24, True)])
def test_a_choice_is_confirmed_after_some_runs_beyond_the_first_design(runs, confirms):
    sources = 4
    assert mixture_design_size(sources) < 9 < 1.5 * mixture_design_size(sources) < 24
    shares = np.random.default_rng(1).dirichlet(np.full(sources, 1.5), runs)
    losses = 1 + shares @ np.array([0.0, 0.3, 0.5, 0.9])[:, None]  # the first source is best, by far
    told = MixtureResults.of(tuple("abcd"), ("t",), shares, losses)
    aim = MixtureAim(np.ones(1), np.zeros(sources), np.ones(sources), np.full(sources, 0.25))
    found = next_mixtures(told, aim, 3, predictor=MixtureProcess(trees=False))
    assert ("Confirm" in found.reason) == confirms
    assert any(run.seed > 0 for run in found.runs) == confirms
