"""Two views of a cheap estimate: their weights against SciPy, mixtures against samples, useless estimates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from tests.affinity.test_surrogates import T, data

from coterie.affinity.gain_model import random_subsets
from coterie.affinity.surrogates.covariance import ProcessPriors, covariances
from coterie.affinity.surrogates.prior import FusedModel
from coterie.affinity.surrogates.process import Sums, absolute, combine, fit_process
from coterie.affinity.surrogates.views import LEAST_WEIGHT, ODDS, WeighedProcess, fit_views

ALONE = np.eye(T, dtype=bool)


def views(seed=0, runs=12, useless=False, noise=0.01):
    """Fitted views, what they were fitted to, and the truth; a useless estimate is drawn anew for each subset."""
    seen, real, cheap, reference, _ = data(seed, runs)
    rng = np.random.default_rng(seed + 7)

    def drawn(mask):
        return np.where(mask, 2 + 0.2 * rng.normal(size=mask.shape), np.nan)

    ask = drawn if useless else cheap
    values = real(seen) + noise * rng.normal(size=seen.shape)
    estimates, about = ask(seen), ask(reference)
    return fit_views(seen, values, estimates, reference, about), (seen, values, estimates, reference, about), real


def test_support_is_the_penalised_density_of_the_observations():
    """Two processes with the same terms: the difference of their supports is that of SciPy's log densities."""
    _, given, _ = views()
    _, values, estimates, _, _ = given
    supports, densities = [], []
    for settings in (ProcessPriors(), ProcessPriors(slope=0.0, mean=-2.0)):
        found = fit_process(*given, settings=settings)
        points = found.points
        scale = np.outer(found.relative[points.task], found.relative[points.task])
        gram = combine(covariances(points, points, found.likeness), found.variances[:-1], scale, found.likeness)
        gram += np.diag(found.variances[-1] * found.relative[points.task] ** 2 + 1e-6)
        scaled = ((values - found.centre) / found.scale)[points.row, points.task]
        mean = settings.slope * ((estimates - found.centre) / found.scale)[points.row, points.task] + found.offset
        density = multivariate_normal(mean, gram).logpdf(scaled)
        centre, deviation = settings.priors(found.likeness)
        density += norm(centre, deviation).logpdf(np.log(found.variances)).sum()
        density += norm(0, settings.spread).logpdf(np.log(found.relative)).sum()
        supports.append(found.support)
        densities.append(density)
        assert not absolute(found.likeness).all()
    assert supports[0] - supports[1] == pytest.approx(densities[0] - densities[1], abs=1e-6)


def test_weights_follow_from_supports_and_odds():
    found, _, _ = views(runs=6)
    assert len(found.views) == 2
    odds = ODDS * np.exp(found.views[0].support - found.views[1].support)
    np.testing.assert_allclose(found.weights, [odds / (1 + odds), 1 / (1 + odds)])


def test_a_mixture_varies_as_samples_of_it_do():
    found, (_, _, _, reference, about), _ = views(runs=6)
    even = WeighedProcess(found.views, np.array([0.5, 0.5]))
    asked, estimates = reference[:5], about[:5]
    alone = np.full(T, 2.0)
    weights = np.where(asked, np.random.default_rng(1).normal(size=asked.shape), 0.0)
    sums = Sums(asked, estimates, weights, alone, 0.5 * weights)
    rng, drawn = np.random.default_rng(0), []
    for view in even.views:
        one = WeighedProcess((view,), np.ones(1))
        values = view.predict(asked, estimates)[0]
        single = np.diag(view.predict(ALONE, np.where(ALONE, alone, np.nan))[0])
        mean = np.nansum(weights * values + 0.5 * weights * single, axis=1)
        drawn.append(rng.multivariate_normal(mean, one.covariance_of_sums(sums), 20_000))
    np.testing.assert_allclose(even.covariance_of_sums(sums), np.cov(np.concatenate(drawn).T), rtol=0.08, atol=0.03)
    mean, error = even.predict(asked, estimates)
    each = [view.predict(asked, estimates) for view in even.views]
    inside = np.argwhere(asked)[:4]
    for row, task in inside:
        samples = np.concatenate([rng.normal(m[row, task], e[row, task], 50_000) for m, e in each])
        assert mean[row, task] == pytest.approx(samples.mean(), abs=0.02)
        assert error[row, task] == pytest.approx(samples.std(), rel=0.03)


def test_a_task_alone_varies_with_itself_as_much_as_it_varies():
    found, (_, _, _, _, _), _ = views(runs=6)
    alone = np.full(T, 2.0)
    estimates = np.where(ALONE, alone, np.nan)
    mean, error, covariance = found.covariance_with_single(ALONE, estimates, alone)
    own, deviation = found.predict(ALONE, estimates)
    np.testing.assert_allclose(mean, np.diag(own))
    np.testing.assert_allclose(error, np.diag(deviation))
    np.testing.assert_allclose(np.diag(covariance), error**2, rtol=1e-9)


def believed(found):
    """Weight of the view that believes the estimate."""
    return sum(weight for view, weight in zip(found.views, found.weights, strict=True) if view.settings.slope > 0)


def test_runs_say_whether_an_estimate_is_worth_believing():
    weights, skills = [], []
    for seed in range(5):
        useful, _, _ = views(seed, 14, noise=0.02)
        useless, given, real = views(seed, 14, useless=True, noise=0.02)
        weights.append((believed(useful), believed(useless)))
        asked = random_subsets(T, 40, (2, 3, 4), seed=seed + 50, cover=False)
        cheap = np.where(asked, 2 + 0.2 * np.random.default_rng(seed).normal(size=asked.shape), np.nan)
        truth = real(asked)
        for process in (useless, fit_process(*given)):
            mean = process.predict(asked, cheap, errors=False)[0]
            centred = [one - np.nanmean(one, 0) for one in (mean, truth)]
            skills.append(np.corrcoef(centred[0][asked], centred[1][asked])[0, 1])
    useful, useless = np.array(weights).T
    assert useful.mean() > ODDS / (1 + ODDS) > 0.5 > useless.mean()
    assert np.mean(skills[::2]) > np.mean(skills[1::2]) + 0.02


def test_without_runs_the_estimate_is_believed():
    found, _, _ = views(runs=0)
    assert len(found.views) == 1
    assert found.weights.tolist() == [1.0]


def test_views_that_hardly_count_are_left_out():
    found, _, _ = views(runs=40)
    assert (found.weights >= LEAST_WEIGHT).all()
    assert found.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("both", [True, False])
def test_the_values_of_one_task_vary_as_their_standard_errors_say(both):
    """The covariance that the page's formula asks for, of a mixture of views and of a process alone."""
    found, given, _ = views(useless=both)
    process = (
        WeighedProcess(found.views, np.full(len(found.views), 1 / len(found.views))) if both else fit_process(*given)
    )
    _, _, cheap, reference, _ = data(0, 12)
    model = FusedModel(tuple(f"t{i}" for i in range(T)), "fused", process, cheap)
    chosen = reference[reference[:, 1]][:8]
    covariance = model.task_covariance(chosen, 1)
    _, errors = process.predict(chosen, cheap(chosen))
    alone = process.predict(ALONE, np.where(ALONE, np.diag(cheap(ALONE))[:, None], np.nan), errors=False)[0][1, 1]
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), errors[:, 1] / alone, rtol=1e-6)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
