"""The process over runs against dense linear algebra, its gradient, and what it must not depend on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.study.predictors import find_predictor
from coterie.study.predictors.likelihood import Learning, RunModel, penalised
from coterie.study.predictors.process import RunsPosterior, fit_process, observe
from coterie.study.results import Results
from reference.runs_process import dense

TASKS = ("a", "b", "c", "d", "e")


def made(seed, runs=14):
    """Runs of five tasks with everything that the process knows: variants, seeds, errors, tasks not trained on."""
    rng = np.random.default_rng(seed)
    trained = rng.random((runs, 5)) < 0.6
    trained[:, 0] |= ~trained.any(1)
    losses = np.where(trained, rng.normal(size=(runs, 5)) + trained @ rng.normal(size=(5, 5)), np.nan)
    losses[0] = 1.0  # measured without having been trained on
    losses[1:3] = 0.5
    variants = ("",) * (runs - 4) + ("half",) * 4
    seeds = np.array([3, 3, 5, 5, 5] + [-1] * (runs - 7) + [8, 9])
    errors = rng.uniform(0, 0.3, (runs, 5))
    return Results(TASKS, TASKS, trained, losses, errors, seeds, variants, np.ones(runs))


def prior(subsets):
    return subsets @ (np.arange(25.0).reshape(5, 5) % 7) / 10


def moved(data, seed, rank=2):
    """Variances near their prior, all of them in use."""
    rng = np.random.default_rng(seed)
    start = Learning(rank=rank).start(data)
    start = replace(start, logs=start.logs | {"mutual": -1.0})
    start = start.replaced(start.vector() + 0.4 * rng.normal(size=len(start.vector())))
    targets = data.values.shape[1]
    return replace(start, loadings=0.5 * rng.normal(size=(rank, targets)), noises=0.5 * rng.normal(size=targets))


def full(seed):
    results = made(seed)
    alike = np.random.default_rng(seed + 50).normal(size=(5, 2))
    scales, data = observe(results, (prior,), alike)
    return results, scales, data, moved(data, seed), alike


@pytest.mark.parametrize("seed", [0, 1])
def test_dense_linear_algebra_gives_the_same(seed):
    results, scales, data, variances, alike = full(seed)
    model = RunModel(data, variances)
    asked = np.random.default_rng(seed).random((3, 5)) < 0.5
    likelihood, means, deviations = dense(
        results, data.values, data.errors, variances, data.coding.usual, asked, alike=alike, priors=(prior,)
    )
    assert model.system.log_likelihood == pytest.approx(likelihood, abs=1e-8)
    found, errors = RunsPosterior(results, scales, model, (prior,)).predict(asked)
    elsewhere = np.isfinite(results.losses) & ~results.trained
    known = asked | elsewhere.any(0)  # the others are never measured without having been trained on
    assert (np.isfinite(found) == known).all()
    assert (np.isfinite(errors) == known).all()
    assert found[known] == pytest.approx((scales.centre + scales.scale * means)[known], abs=1e-8)
    wide = scales.widened * np.sqrt(RunsPosterior(results, scales, model).inflation)
    assert errors[known] == pytest.approx((wide * deviations)[known], abs=1e-8)


def test_the_gradient_is_that_of_finite_differences():
    _, _, data, variances, _ = full(3)
    learning, vector = Learning(rank=2), variances.vector()

    def value(x):
        return penalised(RunModel(data, variances.replaced(x)), learning)[0]

    steps = 1e-5 * np.eye(len(vector))
    slopes = [(value(vector + step) - value(vector - step)) / 2e-5 for step in steps]
    assert penalised(RunModel(data, variances), learning)[1] == pytest.approx(np.array(slopes), abs=1e-6)


def test_draws_have_the_mean_and_the_covariance_of_the_prediction():
    results, scales, data, variances, _ = full(4)
    posterior = RunsPosterior(results, scales, RunModel(data, variances), (prior,))
    asked = np.random.default_rng(0).random((4, 5)) < 0.5
    means, errors = posterior.predict(asked)
    drawn = posterior.sample(asked, 4000, np.random.default_rng(1))
    known = np.isfinite(means)
    assert np.abs((drawn.mean(0) - means) / errors)[known].max() < 0.08
    assert np.abs(drawn.std(0) / errors - 1)[known].max() < 0.06
    twice = posterior.sample(asked[[0, 0]], 50, np.random.default_rng(2))
    assert twice[:, 0][:, known[0]] == pytest.approx(twice[:, 1][:, known[0]], abs=2e-3)


def test_without_noise_runs_are_met_and_certain():
    results = plain(5)
    _, first = np.unique(results.trained, axis=0, return_index=True)
    results = Results.of(TASKS, results.trained[first], results.losses[first])
    scales, data = observe(results)
    variances = Learning(luck=False).start(data)
    exact = replace(variances, logs=variances.logs | {"noise": -30.0})
    found, errors = RunsPosterior(results, scales, RunModel(data, exact)).predict(results.trained)
    known = results.trained
    assert found[known] == pytest.approx(results.losses[known], abs=1e-4)
    assert (errors[known] < 1e-3 * scales.scale.max()).all()


def plain(seed, runs=12):
    results = made(seed, runs)
    return Results.of(TASKS, results.trained, np.where(results.trained, results.losses, np.nan))


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(5)), st.floats(-50, 50), st.floats(0.01, 100))
def test_order_of_tasks_and_unit_of_losses_do_not_matter(order, shift, factor):
    results, asked = plain(6), np.random.default_rng(0).random((5, 5)) < 0.5
    order = list(order)
    names = tuple(TASKS[place] for place in order)
    other = Results.of(names, results.trained[:, order], shift + factor * results.losses[:, order])
    predictor = find_predictor("process")
    means, errors = predictor.fit(results).predict(asked)
    means2, errors2 = predictor.fit(other).predict(asked[:, order])
    known = asked[:, order]
    size = factor * np.nanstd(results.losses)
    assert (means2 - shift - factor * means[:, order])[known] == pytest.approx(0, abs=2e-2 * size)
    assert (errors2 - factor * errors[:, order])[known] == pytest.approx(0, abs=2e-2 * size)


def test_another_run_of_a_subset_makes_it_surer():
    results = plain(7)
    again = Results.of(
        TASKS,
        np.concatenate([results.trained, results.trained[:1]]),
        np.concatenate([results.losses, results.losses[:1]]),
    )
    scales, data = observe(results)
    variances = Learning().start(data)
    one = RunsPosterior(results, scales, RunModel(data, variances))
    _, more = observe(again)
    two = RunsPosterior(again, scales, RunModel(replace(more, coding=data.coding), variances))
    known = results.trained[0]
    assert (two.predict(results.trained[:1])[1] < one.predict(results.trained[:1])[1])[0, known].all()


@pytest.mark.parametrize("alike", [True, False])
def test_what_pairs_do_to_each_other_counts_as_far_as_it_is_alike(alike):
    rng = np.random.default_rng(0)
    names = tuple("abcdefgh")
    effects = rng.normal(size=(8, 8))
    effects = (effects + effects.T) / np.sqrt(2) if alike else effects
    trained = rng.random((40, 8)) < 0.5
    trained[:, 0] |= ~trained.any(1)
    losses = np.where(trained, trained @ effects + 0.1 * rng.normal(size=trained.shape), np.nan)
    _, data = observe(Results.of(names, trained, losses))
    model = fit_process(data, Learning())
    assert ("mutual" in model.variances.logs) == alike
    never = fit_process(data, Learning(mutual=(0.0,)))
    total = sum(np.exp(model.variances.logs.get(name, -np.inf)) for name in ("own partners", "mutual"))
    assert total == pytest.approx(never.variances.of("own partners"))
