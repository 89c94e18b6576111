"""What predictors make of runs on mixtures: against naive formulas, planted laws and published runs."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from coterie import truth
from coterie.errors import SettingError, WorkloadError
from coterie.study.mixtures import process
from coterie.study.mixtures.average import EarlierRuns, MixtureProcess, _weights
from coterie.study.mixtures.kernels import LEVEL, LOGS, ROOTS, Amounts, covariance, features, gradient, variances
from coterie.study.mixtures.predictors import MIXTURE_PREDICTORS, find_mixture_predictor
from coterie.study.mixtures.results import MixtureResults
from coterie.study.mixtures.simple import _ridge


def drawn(rng, runs, sources):
    return rng.dirichlet(np.ones(sources), runs)


def results_of(shares, losses):
    sources = tuple(f"s{number}" for number in range(shares.shape[1]))
    return MixtureResults.of(sources, tuple(f"t{number}" for number in range(losses.shape[1])), shares, losses)


def planted(shares, rng=None, noise=0.0):
    """Losses that fall as their own source's share grows, the more the less there is of it."""
    losses = 1 + (0.02 + shares[:, :3]) ** -0.25 + 0.3 * shares[:, 3:4]
    return losses if rng is None else losses + noise * rng.standard_normal(losses.shape)


def rank(values, wanted):
    return np.mean([spearmanr(a, b)[0] for a, b in zip(values.T, wanted.T, strict=True)])


def amounts_of(rng, sources, columns=0):
    return Amounts(0.5 * rng.standard_normal(4 + sources + columns), sources)


def test_covariance_is_the_one_that_is_said():
    rng = np.random.default_rng(0)
    amounts, a, b = amounts_of(rng, 3, 1), rng.standard_normal((4, 4)), rng.standard_normal((2, 4))
    near, linear, noise, rate = np.exp(amounts.logs[:4])
    counts = np.exp(amounts.logs[4:7])
    for i, j in np.ndindex(4, 2):
        distance = np.sqrt((rate / 3 * counts * (a[i, :3] - b[j, :3]) ** 2).sum())
        lines = linear / 3 * (counts * a[i, :3] * b[j, :3]).sum() + np.exp(amounts.logs[7]) * a[i, 3] * b[j, 3]
        assert covariance(amounts, a, b)[i, j] == pytest.approx(near * np.exp(-distance) + lines + LEVEL, rel=1e-5)
    np.testing.assert_allclose(variances(amounts, a), np.diag(covariance(amounts, a, a)), rtol=1e-5)
    assert amounts.noise == pytest.approx(noise, rel=1e-3)


def test_slopes_of_the_density_are_those_of_differences():
    rng = np.random.default_rng(1)
    amounts, x, values = amounts_of(rng, 3, 1), rng.standard_normal((7, 4)), rng.standard_normal((7, 2))
    weight = rng.standard_normal((7, 7))
    weight = weight + weight.T

    def total(logs):
        other = Amounts(logs, 3)
        return float((weight * (covariance(other, x, x) + other.noise * np.eye(7))).sum())

    def density(logs):
        return process._density(Amounts(logs, 3), x, values)[0]

    for function, slope in (
        (total, gradient(amounts, x, weight)),
        (density, process._density(amounts, x, values)[1]),
    ):
        steps = 1e-5 * np.eye(len(amounts.logs))
        found = [(function(amounts.logs + step) - function(amounts.logs - step)) / 2e-5 for step in steps]
        np.testing.assert_allclose(slope, found, rtol=1e-4, atol=1e-4)


def test_a_run_that_is_left_out_is_predicted_by_the_others():
    rng = np.random.default_rng(2)
    x, values, amounts = rng.standard_normal((9, 3)), rng.standard_normal(9), amounts_of(rng, 3)
    values[4] = np.nan
    found = process.known(amounts, x, values)
    rows = np.flatnonzero(np.isfinite(values))
    assert found.rows.tolist() == np.isfinite(values).tolist()
    for place, row in enumerate(rows):
        others = rows[rows != row]
        matrix = covariance(amounts, x[others], x[others]) + amounts.noise * np.eye(len(others))
        said = covariance(amounts, x[[row]], x[others]) @ np.linalg.solve(matrix, values[others])
        assert found.left_out[place] == pytest.approx(float(said[0]))
    mean, variance = found.at(x[[4]], x, variance=True)
    joint = found.jointly(x[[4]], x)
    assert joint[0, 0] == pytest.approx(variance[0], rel=1e-4)
    cross = covariance(amounts, x[[4]], x[rows])
    assert mean[0] == pytest.approx(float((cross @ found.weights)[0]))


def test_targets_that_were_measured_by_different_runs_add_up():
    rng = np.random.default_rng(3)
    values = rng.standard_normal((6, 3))
    values[2, 1] = np.nan
    parts = process._patterns(values)
    assert sorted((rows.tolist(), columns.tolist()) for rows, columns in parts) == [
        ([0, 1, 2, 3, 4, 5], [0, 2]),
        ([0, 1, 3, 4, 5], [1]),
    ]
    same = np.repeat(values[:, :1], 4, 1)
    assert process._different(same) == pytest.approx(1.0)


def test_views_look_at_roots_and_logarithms():
    shares = np.array([[0.0, 4.0], [1.0, 1.0]])
    np.testing.assert_allclose(features(ROOTS, shares), np.sqrt([[0, 1], [0.5, 0.5]]))
    logs = features(LOGS, shares)
    assert logs[0, 0] == pytest.approx(-1.0)
    assert logs[1, 1] == pytest.approx(np.log(0.501) / np.log(1000))


def test_ridge_leaves_runs_out_as_refitting_does():
    rng = np.random.default_rng(4)
    x = drawn(rng, 15, 4)
    y = x @ [1.0, 2.0, -1.0, 0.5] + 0.01 * rng.standard_normal(15)
    rule, left_out = _ridge(x, y)
    assert np.abs(left_out - y).max() < 0.1
    np.testing.assert_allclose(rule(x), y, atol=0.05)
    assert np.mean((left_out - y) ** 2) > np.mean((rule(x) - y) ** 2)


def test_a_planted_law_is_found():
    rng = np.random.default_rng(5)
    shares, slopes = drawn(rng, 40, 4), np.array([[-3.0, 0.0, 1.0, 0.5], [0.0, -2.0, 0.0, 2.0]])
    law = lambda shares: 1.5 + np.exp(0.2 + shares @ slopes.T)  # noqa: E731
    fitted = find_mixture_predictor("log-linear").fit(results_of(shares[:30], law(shares[:30])))
    plain = find_mixture_predictor("linear").fit(results_of(shares[:30], law(shares[:30])))
    errors = [np.abs(one.mean(shares[30:]) - law(shares[30:])).mean() for one in (fitted, plain)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("name", MIXTURE_PREDICTORS)
def test_every_predictor_keeps_its_promises(name):
    rng = np.random.default_rng(6)
    shares = drawn(rng, 24, 5)
    losses = planted(shares, rng, 0.01)
    losses[3, 1] = np.nan
    found = find_mixture_predictor(name).fit(results_of(shares, losses))
    asked = drawn(rng, 6, 5)
    values, errors = found.predict(asked)
    assert values.shape == errors.shape == (6, 3)
    assert (errors > 0).all()
    np.testing.assert_allclose(found.mean(asked), values)
    assert found.left_out.shape == losses.shape
    weights = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    total, error = found.total(asked, weights)
    np.testing.assert_allclose(total, values @ weights.T)
    np.testing.assert_allclose(error[:, 0], errors[:, 0])
    draws = found.sample(asked, 400, np.random.default_rng(0))
    assert draws.shape == (400, 6, 3)
    np.testing.assert_allclose(draws.mean(0), values, atol=5 * errors.max() / 20)
    np.testing.assert_allclose(draws.std(0), errors, rtol=0.25)


def test_the_usual_predictor_beats_the_simple_ones_on_a_planted_table():
    rng = np.random.default_rng(7)
    shares, asked = drawn(rng, 40, 6), drawn(rng, 100, 6)
    results = results_of(shares, planted(shares, rng, 0.02))
    skill = {name: rank(find_mixture_predictor(name).fit(results).mean(asked), planted(asked)) for name in
             ("process", "log-linear", "linear", "trees")}  # fmt: skip
    assert max(skill, key=skill.get) == "process"
    assert skill["process"] > 0.93


def test_errors_cover_what_they_say():
    rng = np.random.default_rng(8)
    shares, asked = drawn(rng, 40, 6), drawn(rng, 200, 6)
    values, errors = MixtureProcess().fit(results_of(shares, planted(shares, rng, 0.05))).predict(asked)
    inside = np.abs(values - planted(asked)) < 1.645 * errors
    assert 0.8 < inside.mean() <= 1


def test_another_size_counts_as_far_as_it_is_right():
    rng = np.random.default_rng(9)
    own, other, asked = drawn(rng, 12, 6), drawn(rng, 60, 6), drawn(rng, 80, 6)
    predictor, told = MixtureProcess(trees=False), planted(own, rng, 0.3)
    skill = {}
    for kind, small in (("alike", 5 + 3 * planted(other)), ("other", planted(other)[rng.permutation(60)])):
        both = results_of(np.concatenate([own, other]), np.concatenate([told, small]))
        both = replace(both, sizes=("",) * 12 + ("1M",) * 60)
        found = predictor.fit(both)
        skill[kind] = rank(found.mean(asked), planted(asked))
        assert found.left_out.shape == (12, 3)
    alone = rank(predictor.fit(results_of(own, told)).mean(asked), planted(asked))
    assert skill["alike"] > alone + 0.02
    assert skill["other"] > alone - 0.1


def test_runs_of_before_with_other_sources_count():
    rng = np.random.default_rng(10)
    before, own, asked = drawn(rng, 60, 6), drawn(rng, 10, 5), drawn(rng, 80, 5)
    made_of = {"all": {"s0": 0.5, "s1": 0.5}}
    then = replace(results_of(before, planted(before)), sources=("s0", "s1", "s2", "s3", "s4", "s5"))
    names = ("all", "s2", "s3", "s4", "s5")
    earlier = EarlierRuns(then, made_of)
    spread = np.zeros((5, 6))
    spread[0, :2] = 0.5
    spread[range(1, 5), range(2, 6)] = 1
    np.testing.assert_array_equal(earlier.parts(names), spread)
    now = replace(results_of(own, planted(own @ spread, rng, 0.6)), sources=names)
    skill = [rank(MixtureProcess(trees=False, earlier=one).fit(now).mean(asked), planted(asked @ spread)) for one in
             ((earlier,), ())]  # fmt: skip
    assert skill[0] > skill[1] + 0.02


def test_without_runs_of_the_own_size_another_stands_for_it():
    rng = np.random.default_rng(11)
    shares = drawn(rng, 20, 5)
    small = replace(results_of(shares, planted(shares)), sizes=("1M",) * 20)
    for name in ("process", "linear"):
        found = find_mixture_predictor(name).fit(small)
        wanted = find_mixture_predictor(name).fit(results_of(shares, planted(shares)))
        np.testing.assert_allclose(found.mean(shares), wanted.mean(shares))


def test_weights_follow_errors_and_stay_near_the_even_mean():
    errors = np.random.default_rng(12).standard_normal((3, 50, 2))
    assert np.abs(_weights(errors) - 1 / 3).max() < 0.1
    errors[2] *= 30
    assert _weights(errors)[2] < 0.05
    assert _weights(errors).sum() == pytest.approx(1)


def test_published_runs_are_predicted():
    table, test = truth.load("regmix-1m"), truth.load("regmix-1m-test")
    results = MixtureResults.of(table.domains, table.metrics, table.proportions[:48], table.values[:48])
    found = MixtureProcess(trees=False).fit(results)
    assert rank(found.mean(test.proportions), test.values) > 0.95


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (np.zeros((0, 2)), WorkloadError, "no finished run"),
        (np.array([[1.0, np.nan], [2.0, np.nan]]), WorkloadError, "No run has measured t1"),
    ],
)
def test_what_tells_nothing_is_refused(losses, error, message):
    shares = np.full((len(losses), 3), 1 / 3)
    for name in MIXTURE_PREDICTORS:
        with pytest.raises(error, match=message):
            find_mixture_predictor(name).fit(results_of(shares, losses))


def test_names_of_predictors_are_known():
    with pytest.raises(SettingError, match=r"Did you mean 'process'"):
        find_mixture_predictor("proces")
    with pytest.raises(SettingError, match="method `fit"):
        find_mixture_predictor(3)
    assert find_mixture_predictor(MixtureProcess()) == MixtureProcess()
