"""The simple predictors by hand, averages of posteriors, and prior knowledge of the process."""

import numpy as np
import pytest

from coterie.errors import SettingError, WorkloadError
from coterie.study.predictors import ProcessPredictor, find_predictor
from coterie.study.predictors.averaged import AveragedPosterior
from coterie.study.predictors.runs import PLAIN
from coterie.study.predictors.table import PREDICTORS
from coterie.study.results import Results

NAMES = ("a", "b", "c", "d", "e", "f")


def effects(seed):
    return np.random.default_rng(seed).normal(size=(6, 6))


def runs(seed, count=30, noise=0.0):
    """Runs whose losses are sums of effects of partners."""
    rng = np.random.default_rng(seed)
    trained = np.unique(rng.random((4 * count, 6)) < 0.5, axis=0)
    trained = rng.permutation(trained[trained.sum(1) >= 2])[:count]
    values = trained @ effects(seed).T + noise * rng.normal(size=trained.shape)
    return Results.of(NAMES, trained, np.where(trained, values, np.nan))


def correlation(predictor, seed, noise):
    results, asked = runs(seed, 30, noise), runs(seed, 200).trained
    found, _ = predictor.fit(results).predict(asked)
    true = np.where(asked, asked @ effects(seed).T, np.nan)
    both = [np.where(asked, values - np.nanmean(values, 0), 0).ravel() for values in (found, true)]
    return float(np.corrcoef(*both)[0, 1])


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_knows_values_in_the_subset_and_nothing_else(name):
    results = runs(0, 20, 0.3)
    posterior = find_predictor(name).fit(results)
    values, errors = posterior.predict(results.trained[:7])
    inside = results.trained[:7]
    assert (np.isfinite(values) == inside).all()
    assert (errors[inside] > 0).all()
    drawn = posterior.sample(inside, 5, np.random.default_rng(0))
    assert drawn.shape == (5, 7, 6)
    assert (np.isfinite(drawn) == inside).all()


def test_the_constant_is_the_mean():
    results = runs(1)
    values, errors = find_predictor("constant").fit(results).predict(results.trained)
    assert np.nanmax(np.abs(values - np.nanmean(results.losses, 0))) < 1e-12
    spread = np.nanstd(results.losses, 0)
    assert np.nanmin(errors / spread) > 0.9


def test_pairs_are_averaged():
    pair = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0]], dtype=bool)
    losses = np.array([[1.0, 4.0, np.nan], [3.0, np.nan, 7.0], [np.nan, 6.0, 8.0], [9.0, np.nan, np.nan]])
    posterior = find_predictor("pairs").fit(Results.of(("x", "y", "z"), pair, losses))
    values, _ = posterior.predict(np.ones((1, 3), dtype=bool))
    assert values.tolist() == [pytest.approx([2.0, 5.0, 7.5])]


def test_a_good_source_is_good_for_all():
    results = runs(2, 40)
    quality = np.array([3.0, -3.0, 0, 0, 0, 0])
    losses = np.where(results.trained, (results.trained @ quality)[:, None], np.nan)
    posterior = find_predictor("quality").fit(Results.of(NAMES, results.trained, losses))
    asked = np.array([[1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0]], dtype=bool)
    values, _ = posterior.predict(asked)
    assert values[0, 2] > values[1, 2]


def test_the_linear_predictor_is_a_ridge_regression_a_target():
    results = runs(3, 25, 0.2)
    values, _ = find_predictor("linear").fit(results).predict(results.trained)
    for target in range(6):
        own = results.trained[:, target]
        x, y = results.trained[own].astype(float), results.losses[own, target]
        residuals = []
        for strength in 10.0 ** np.arange(-3, 3.5, 0.5):
            centred = x - x.mean(0)
            unit = (centred**2).sum() / len(x)
            weights = np.linalg.solve(centred.T @ centred + strength * unit * np.eye(6), centred.T @ (y - y.mean()))
            hat = centred @ np.linalg.solve(centred.T @ centred + strength * unit * np.eye(6), centred.T) + 1 / len(x)
            fitted = y.mean() + centred @ weights
            residuals.append((np.sqrt(np.mean(((y - fitted) / (1 - np.diag(hat))) ** 2)), fitted))
        assert values[own, target] == pytest.approx(min(residuals, key=lambda one: one[0])[1], abs=1e-6)


def test_parts_that_disagree_make_an_average_unsure():
    results = runs(4, 20, 0.3)
    parts = [find_predictor(name).fit(results) for name in ("constant", "linear")]
    weights = np.array([0.25, 0.75])
    asked = results.trained[:4]
    values, errors = AveragedPosterior(parts, weights).predict(asked)
    (one, first), (two, second) = (part.predict(asked) for part in parts)
    assert values[asked] == pytest.approx((0.25 * one + 0.75 * two)[asked])
    square = 0.25 * (first**2 + one**2) + 0.75 * (second**2 + two**2) - values**2
    assert errors[asked] ** 2 == pytest.approx(square[asked])
    drawn = AveragedPosterior(parts, weights).sample(asked, 4000, np.random.default_rng(0))
    assert np.abs((drawn.mean(0) - values) / errors)[asked].max() < 0.1


def test_prior_knowledge_counts_as_far_as_it_explains_the_runs():
    known, useless = -effects(5), effects(99)
    plain, with_truth, with_nonsense = (
        correlation(ProcessPredictor(affinity=matrix, views=(PLAIN,)), 5, 4.0) for matrix in (None, known, useless)
    )
    assert with_truth > plain + 0.1
    assert with_nonsense > plain - 0.15
    as_values = ProcessPredictor(values=lambda subsets: subsets @ effects(5).T, views=(PLAIN,))
    assert correlation(as_values, 5, 4.0) > plain + 0.1


def test_bad_input_is_named():
    results = runs(6, 20)
    losses = results.losses.copy()
    losses[:, 3] = np.nan
    for name in PREDICTORS:
        with pytest.raises(WorkloadError, match="d"):
            find_predictor(name).fit(Results.of(NAMES, results.trained, losses))
    with pytest.raises(SettingError, match="affinity"):
        ProcessPredictor(affinity=np.ones((2, 6))).fit(results)
    with pytest.raises(SettingError, match="features"):
        ProcessPredictor(features=np.full((6, 2), np.nan)).fit(results)
    with pytest.raises(SettingError, match="proces"):
        find_predictor("proces")
