"""Surrogates over subsets: against plain loops, scikit-learn, limits, and data drawn from their own prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from tests.reference.gaussian_process import posterior

from coterie import Context
from coterie._units import NoStore, Payload
from coterie.affinity import Estimate, Estimator, GradTAE, get_estimator
from coterie.affinity.costs import Costs, prepare, training_flops
from coterie.affinity.gain_model import random_subsets
from coterie.affinity.linearize import train_full
from coterie.affinity.surrogates import fused as fused_module
from coterie.affinity.surrogates.covariance import (
    Evidence,
    ProcessPriors,
    apart,
    covariances,
    find_likeness,
    make_points,
    negative_log_likelihood,
)
from coterie.affinity.surrogates.fused import Fused
from coterie.affinity.surrogates.kernel import KernelSurrogate, radial
from coterie.affinity.surrogates.linear import LinearSurrogate, membership
from coterie.affinity.surrogates.prior import make_prior
from coterie.affinity.surrogates.process import absolute, choose_subsets, combine, fit_process, lucky
from coterie.affinity.surrogates.real_runs import (
    FORK_OF_RUN,
    STAGE,
    Remembered,
    balanced_subsets,
    different_subsets,
    real_runs,
    runs_for_pairs,
    split_budget,
)
from coterie.affinity.surrogates.task_ridge import TaskRidgeModel, ValueModel, fit_task
from coterie.errors import ResourceError, SettingError
from coterie.store import MemoryRun, open_run
from coterie.training import fit, measure_cost
from coterie.training.job import Job
from coterie.workload import Recipe, from_arrays
from coterie.workload.fingerprint import fingerprint

T = 6


def data(seed=0, runs=12, n=T, sizes=(2, 3, 4)):
    """Subsets, a cheap estimate with pairwise structure, and values that share some of it."""
    rng = np.random.default_rng(seed)
    pairwise, other = rng.normal(size=(n, n)), rng.normal(size=(n, n))
    level = rng.uniform(1, 3, n)

    def cheap(mask):
        mask = np.asarray(mask)
        return np.where(mask, level + 0.1 * (mask @ pairwise.T - np.diag(pairwise)), np.nan)

    def real(mask):
        mask = np.asarray(mask)
        return np.where(mask, level + 0.5 + 0.06 * (mask @ (pairwise + other).T), np.nan)

    reference = random_subsets(n, 60, sizes, seed=seed, cover=False)
    seen = random_subsets(n, runs, sizes, seed=seed + 1, cover=False) if runs else np.zeros((0, n), dtype=bool)
    feature = np.abs(np.corrcoef(rng.normal(size=(n, 9))))
    return seen, real, cheap, reference, feature


def process(seed=0, runs=12, **more):
    seen, real, cheap, reference, feature = data(seed, runs)
    values = real(seen) + 0.01 * np.random.default_rng(seed + 5).normal(size=seen.shape)
    found = fit_process(seen, values, cheap(seen), reference, cheap(reference), features=[feature], **more)
    return found, seen, values, cheap, reference


@pytest.mark.parametrize("learned", [True, False])
def test_posterior_is_that_of_plain_loops(learned):
    found, seen, values, cheap, reference = process(settings=ProcessPriors(learn=learned))
    asked = np.concatenate([reference[:10], np.eye(T, dtype=bool)])
    mean, deviation = found.predict(asked, cheap(asked))
    expected, error = posterior(found, seen, values, cheap(seen), asked, cheap(asked))
    np.testing.assert_allclose(mean[asked], expected, rtol=1e-7)
    np.testing.assert_allclose(deviation[asked], error, rtol=1e-6)
    assert np.isnan(mean[~asked]).all()
    assert np.isnan(deviation[~asked]).all()


class _Same(Kernel):
    """The covariance of observed points, for scikit-learn: X holds the numbers of points."""

    def __init__(self, gram):
        self.gram = gram

    def __call__(self, x, y=None, eval_gradient=False):
        rows = x[:, 0].astype(int)
        columns = rows if y is None else y[:, 0].astype(int)
        return self.gram[np.ix_(rows, columns)]

    def diag(self, x):
        return np.diag(self.gram)[x[:, 0].astype(int)]

    def is_stationary(self):
        return False


def test_posterior_is_scikit_learns():
    rule = ProcessPriors(luck=0.0, shift=0.0, own=0.0, unsure=0.0)
    found, seen, values, cheap, reference = process(settings=rule)
    asked = reference[:15]
    both, estimates = np.concatenate([seen, asked]), np.concatenate([cheap(seen), cheap(asked)])
    points = found.at(both, estimates)
    scale = np.outer(found.relative[points.task], found.relative[points.task])
    gram = combine(found.covariances(points), found.variances[:-1], scale, found.likeness)
    n = int(seen.sum())
    prior = 0.35 * points.estimate + found.offset
    own = (values[seen] - found.centre[points.task[:n]]) / found.scale[points.task[:n]]
    noise = found.variances[-1] * found.relative[points.task[:n]] ** 2 + 1e-6
    sk = GaussianProcessRegressor(_Same(gram), alpha=noise, optimizer=None)
    sk.fit(np.arange(n)[:, None], own - prior[:n])
    mean, error = sk.predict(np.arange(n, len(gram))[:, None], return_std=True)
    task = points.task[n:]
    ours, deviation = found.predict(asked, cheap(asked))
    np.testing.assert_allclose(ours[asked], found.centre[task] + found.scale[task] * (mean + prior[n:]), rtol=1e-7)
    np.testing.assert_allclose(deviation[asked], found.scale[task] * error, rtol=1e-5)


def test_gradient_of_the_marginal_likelihood():
    seen, real, cheap, reference, feature = data()
    start = fit_process(seen, real(seen), cheap(seen), reference, cheap(reference), features=[feature])
    points, rng = start.points, np.random.default_rng(1)
    terms = covariances(points, points, start.likeness)
    evidence = Evidence(terms, absolute(start.likeness), rng.normal(size=len(points)), points.task, T)
    logs, factors = rng.normal(-2, 1, len(terms) + 1), 0.3 * rng.normal(size=T)
    _, gradient = negative_log_likelihood(evidence, logs, factors)
    both, step = np.concatenate([logs, factors]), 1e-5
    for position in range(len(both)):
        away = step * np.eye(len(both))[position]
        up, down = ((both + away), (both - away))
        high = negative_log_likelihood(evidence, up[: len(logs)], up[len(logs) :])[0]
        low = negative_log_likelihood(evidence, down[: len(logs)], down[len(logs) :])[0]
        assert gradient[position] == pytest.approx((high - low) / (2 * step), rel=1e-4, abs=1e-6)


@settings(max_examples=10)
@given(st.permutations(range(T)), st.integers(0, 50))
def test_names_of_tasks_do_not_matter(order, seed):
    seen, real, cheap, reference, feature = data(seed)
    asked = np.concatenate([reference[:8], np.eye(T, dtype=bool)])
    plain = fit_process(seen, real(seen), cheap(seen), reference, cheap(reference), features=[feature])
    other = fit_process(
        seen[:, order],
        real(seen)[:, order],
        cheap(seen)[:, order],
        reference[:, order],
        cheap(reference)[:, order],
        features=[feature[np.ix_(order, order)]],
        settings=ProcessPriors(steps=40),
    )
    mean, deviation = plain.predict(asked, cheap(asked))
    mean2, deviation2 = other.predict(asked[:, order], cheap(asked)[:, order])
    # the search for the variances stops at a slightly different place when sums are taken in another order
    np.testing.assert_allclose(mean2, mean[:, order], rtol=2e-3)
    np.testing.assert_allclose(deviation2, deviation[:, order], rtol=5e-2)


@settings(max_examples=10)
@given(st.floats(0.01, 100), st.integers(0, 50))
def test_units_of_the_loss_do_not_matter(factor, seed):
    seen, real, cheap, reference, _ = data(seed)
    rule = ProcessPriors(learn=False)
    plain = fit_process(seen, real(seen), cheap(seen), reference, cheap(reference), settings=rule)
    other = fit_process(
        seen, factor * real(seen), factor * cheap(seen), reference, factor * cheap(reference), settings=rule
    )
    for one, two in zip(plain.predict(reference, cheap(reference)), other.predict(reference, factor * cheap(reference)),
                        strict=True):  # fmt: skip
        np.testing.assert_allclose(two, factor * one, rtol=1e-6)


def test_without_runs_the_ranking_is_the_estimates():
    found, _, _, cheap, reference = process(runs=0)
    mean, deviation = found.predict(reference, cheap(reference))
    for task, has in enumerate(reference.T):
        assert np.corrcoef(mean[has, task], cheap(reference)[has, task])[0, 1] == pytest.approx(1, abs=1e-12)
    assert (deviation[reference] > 0).all()


def test_many_noise_free_runs_are_interpolated():
    seen, real, cheap, reference, _ = data(runs=50)
    rule = ProcessPriors(luck=0.0, shift=0.0, own=0.0, unsure=0.0, steps=200)
    found = fit_process(seen, real(seen), cheap(seen), reference, cheap(reference), settings=rule)
    mean, deviation = found.predict(seen, cheap(seen))
    spread = real(seen)[seen].std()
    assert np.abs(mean - real(seen))[seen].max() < 0.02 * spread
    fresh, error = found.predict(reference, cheap(reference))
    truth = real(reference)
    centred = [x - np.nanmean(x, 0) for x in (fresh, truth)]
    assert np.corrcoef(centred[0][reference], centred[1][reference])[0, 1] > 0.95
    assert np.nanmedian(deviation) < np.nanmedian(error) < spread


def test_intervals_hold_what_they_promise_on_data_from_the_prior():
    """Truth, luck of the common seed and noise are drawn as the process supposes them; variances are learned."""
    rng = np.random.default_rng(3)
    inside, n = [], 8
    for draw in range(12):
        reference = random_subsets(n, 70, 4, seed=draw, cover=False)
        reference = np.unique(reference, axis=0)
        cheap = np.where(reference, rng.normal(2, 0.3, size=reference.shape), np.nan)
        nothing = np.zeros((0, n), dtype=bool)
        prior = fit_process(nothing, cheap[:0], cheap[:0], reference, cheap)
        variances = prior.variances.copy()
        variances[list(prior.likeness.names).index("level")] = 1.0
        variances[list(prior.likeness.names).index("offset")] = 1.0
        variances[list(prior.likeness.names).index("overlap")] = 0.5
        points = prior.at(reference, cheap)
        terms, luck = prior.covariances(points), lucky(prior.likeness) * prior.settings.luck
        ones = np.ones((len(points), len(points)))

        def sample(share, terms=terms, ones=ones, variances=variances, prior=prior):
            covariance = combine(terms, variances[:-1] * share, ones, prior.likeness) + 1e-9 * np.eye(len(ones))
            return np.linalg.cholesky(covariance) @ rng.normal(size=len(ones))

        truth = 0.35 * points.estimate + sample(1 - luck)
        shift = np.sqrt(variances[-1] + (variances[:-1] * luck).sum()) * rng.normal(size=n)
        run = truth + sample(luck) + shift[points.task] + np.sqrt(variances[-1]) * rng.normal(size=len(points))
        values, real = np.full(reference.shape, np.nan), np.full(reference.shape, np.nan)
        at = (points.row, points.task)
        values[at] = prior.centre[points.task] + prior.scale[points.task] * run
        real[at] = prior.centre[points.task] + prior.scale[points.task] * truth
        found = fit_process(reference[:30], values[:30], cheap[:30], reference, cheap)
        mean, deviation = found.predict(reference[30:], cheap[30:])
        inside.append((np.abs(mean - real[30:]) < 1.645 * deviation)[reference[30:]].mean())
    assert 0.85 < np.mean(inside) < 0.95


def test_single_tasks_and_their_covariance():
    found, _, _, cheap, reference = process()
    alone = np.diag(cheap(np.eye(T, dtype=bool)))
    each = np.eye(T, dtype=bool)
    mean, error, covariance = found.covariance_with_single(each, cheap(each), alone)
    own, deviation = found.predict(each, cheap(each))
    np.testing.assert_allclose(mean, np.diag(own))
    np.testing.assert_allclose(np.diag(covariance), np.diag(deviation) ** 2, rtol=1e-6)
    _, _, across = found.covariance_with_single(reference, cheap(reference), alone)
    bound = found.predict(reference, cheap(reference))[1] * error
    assert (np.abs(across) <= bound * (1 + 1e-9))[reference].all()


def test_active_choice_is_the_best_next_run():
    """Against refitting with every candidate; the variance of differences within tasks is what counts."""
    _, _, cheap, reference, _ = data()
    pool = np.unique(reference, axis=0)[:14]
    rule = ProcessPriors(learn=False, shift=0.0, unsure=0.0)

    def spread(chosen):
        held = pool[chosen]
        seen = fit_process(held, cheap(held), cheap(held), reference, cheap(reference), settings=rule)
        at, total = seen.at(pool, cheap(pool)), 0.0
        share = np.where(lucky(seen.likeness), 1 - rule.luck, 1.0)
        scale = np.outer(seen.relative[at.task], seen.relative[at.task])
        truth = combine(seen.covariances(at), share * seen.variances[:-1], scale, seen.likeness)
        if chosen:
            terms = covariances(at, seen.points, seen.likeness)
            across = combine(terms, share * seen.variances[:-1], np.ones_like(terms[0]), seen.likeness)
            truth = truth - across @ np.linalg.inv(seen.factor @ seen.factor.T) @ across.T
        for task in range(T):
            own = at.task == task
            if own.any():
                inner = truth[np.ix_(own, own)]
                total += np.trace(inner) - inner.sum() / own.sum()
        return total

    empty = np.zeros((0, T), dtype=bool)
    prior = fit_process(empty, cheap(pool)[:0], cheap(pool)[:0], reference, cheap(reference), settings=rule)
    chosen = choose_subsets(prior, pool, cheap(pool), 3)
    assert len(set(chosen)) == 3
    for count in range(3):
        here = chosen[:count]
        best = min(spread([*here, row]) for row in range(len(pool)) if row not in here)
        # the level's share of what a candidate teaches is left out, as levels cancel in differences
        assert spread(chosen[: count + 1]) == pytest.approx(best, rel=1e-2)
    with pytest.raises(SettingError, match="count"):
        choose_subsets(prior, pool, cheap(pool), 15)


def test_linear_regression_is_scikit_learns():
    rng = np.random.default_rng(0)
    x, y = random_subsets(T, 20, 3, seed=0).astype(float), rng.normal(size=20)
    asked = random_subsets(T, 9, (1, 2, 4), seed=2, cover=False).astype(float)
    ours = fit_task(x, y, membership, 0.7, intercept=True)
    sk = Ridge(alpha=0.7).fit(x, y)
    got = ours.mean + (membership(asked, x) - ours.shift) @ ours.weights
    np.testing.assert_allclose(got, sk.predict(asked), rtol=1e-9)
    left = [
        y[i] - Ridge(alpha=0.7).fit(np.delete(x, i, 0), np.delete(y, i)).predict(x[i : i + 1])[0] for i in range(20)
    ]
    assert ours.error == pytest.approx(np.sqrt(np.mean(np.square(left))), rel=1e-9)


def test_kernel_regression_is_scikit_learns():
    rng = np.random.default_rng(0)
    x, y = random_subsets(T, 20, 3, seed=0).astype(float), rng.normal(size=20)
    asked = random_subsets(T, 9, (1, 2, 4), seed=2, cover=False).astype(float)
    kernel = partial(radial, 0.2)
    ours = fit_task(x, y, kernel, 0.7, intercept=False)
    sk = KernelRidge(alpha=0.7, kernel="rbf", gamma=0.2).fit(x, y - y.mean())
    np.testing.assert_allclose(ours.mean + kernel(asked, x) @ ours.weights, sk.predict(asked) + y.mean(), rtol=1e-9)
    assert fit_task(x, y, kernel, None, intercept=False).error <= ours.error + 1e-12


def test_likeness_finds_tasks_that_react_and_act_alike():
    n, rng = 8, np.random.default_rng(0)
    effect = np.kron(rng.normal(size=(4, 4)), np.ones((2, 2)))  # tasks 0 and 1, 2 and 3, ... are twins
    mask = random_subsets(n, 300, 4, seed=0)
    estimates = np.where(mask, mask @ effect.T - np.diag(effect), np.nan)
    centred = (estimates - np.nanmean(estimates, 0)) / np.nanstd(estimates, 0)
    likeness = find_likeness(mask, centred, 4.0)
    for table in (likeness.targets, likeness.sources):
        assert np.linalg.eigvalsh(table).min() > -1e-9
        np.testing.assert_allclose(np.diag(table), 1)
        twins = np.mean([table[i, i + 1] for i in range(0, n, 2)])
        others = [table[i, j] for i in range(n) for j in range(n) if i // 2 != j // 2]
        assert twins > np.mean(others) + 0.3


def test_points_of_a_subset():
    points = make_points(np.array([[True, True, True], [False, True, False]]), np.arange(6.0).reshape(2, 3), 3.0)
    assert points.task.tolist() == [0, 1, 2, 1]
    assert points.row.tolist() == [0, 0, 0, 1]
    assert points.estimate.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose((points.weights**2).sum(1), [1, 1, 1, 0])
    np.testing.assert_allclose(points.size, [0, 0, 0, -np.log(3)])


@settings(max_examples=20)
@given(st.integers(2, 9), st.integers(1, 30), st.integers(1, 9), st.integers(0, 99))
def test_balanced_subsets(n, count, size, seed):
    mask = balanced_subsets(n, count, size, seed)
    assert mask.shape == (count, n)
    assert (mask.sum(1) == min(size, n)).all()
    assert np.ptp(mask.sum(0)) <= 2


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(1, 40), st.integers(1, 7), st.integers(0, 99))
def test_different_subsets(n, count, size, seed):
    mask, more = different_subsets(n, count, size, seed), different_subsets(n, count + 5, size, seed)
    assert len(np.unique(mask, axis=0)) == len(mask) == min(count, comb(n, min(size, n)))
    assert np.array_equal(more[: len(mask)], mask)


@pytest.mark.parametrize(("n", "size"), [(2, 2), (3, 3), (3, 9), (6, 3), (300, 2), (300, 4)])
def test_reference_tells_every_task(n, size):
    reference = fused_module._reference(n, size, 200, seed=0)
    assert len(np.unique(reference, axis=0)) == len(reference)
    assert (reference.sum(0) >= (2 if n <= 3 else fused_module.FEW)).all()
    assert not reference.all()  # where nothing differs there is no scale of differences


class _CheapModel(ValueModel):
    def _values(self, subsets):
        return 1.0 + 0.1 * subsets.sum(1, keepdims=True) * subsets, np.ones(subsets.shape)


@dataclass(frozen=True)
class _Cheap(Estimator):
    """A base that costs nothing."""

    @property
    def name(self):
        return "cheap"

    def estimate(self, workload, context=None, subset_size=2):
        del context, subset_size
        return Estimate(_CheapModel(workload.task_names, "cheap"), Costs(measure_cost(workload)))


@pytest.fixture(scope="module")
def workload():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 5)) + rng.normal(size=(200, 5)) > 0).astype(np.float32)
    return from_arrays(x, y, hidden=(8,), recipe=Recipe(epochs=4, batch_size=50))


def test_real_runs_are_ordinary_trainings_that_are_kept(workload, tmp_path):
    subsets = random_subsets(5, 4, 2, seed=0, cover=False)
    with open_run(tmp_path / "run", fingerprint=fingerprint(workload), settings={}, workload=workload) as store:
        context = prepare(workload, Context(memory=2**28, store=store))
        first = real_runs(context, subsets, common_seed=7)
        again = real_runs(prepare(workload, Context(memory=2**28, store=store)), subsets, common_seed=7)
    for row, subset in enumerate(subsets):
        (done,) = fit(workload, [Job(tuple(np.flatnonzero(subset).tolist()), 7, order_seed=7)], backend="loop")
        np.testing.assert_allclose(first.values[row], done.validation, rtol=1e-4)
    assert np.array_equal(first.values, again.values, equal_nan=True)
    assert context.costs.entries[STAGE][0] == pytest.approx(first.flops.sum())
    assert (first.flops > 0).all()


@pytest.mark.parametrize("method", ["linear-surrogate", "kernel-surrogate"])
def test_surrogates_from_a_workload(workload, method):
    found = get_estimator(method, runs=12).estimate(workload, subset_size=3)
    asked = random_subsets(5, 6, 3, seed=3, cover=False)
    gains, errors = found.model.predict(asked), found.model.standard_error(asked)
    alone = np.diag(found.model.predict_values(np.eye(5, dtype=bool)))
    np.testing.assert_allclose(gains, (alone - found.model.predict_values(asked)) / alone)
    assert (errors[asked] > 0).all()
    assert np.isnan(errors[~asked]).all()
    assert found.costs.flops == pytest.approx(10 * found.run_flops)  # there are no more different subsets of 3
    with pytest.raises(SettingError, match="runs"):
        get_estimator(method, runs=2).estimate(workload, subset_size=2)


@pytest.mark.parametrize("choice", ["active", "random"])
def test_fused_from_a_workload(workload, choice):
    base = GradTAE(bases=1, fork=0.5)
    fused = Fused(base, runs=5, choice=choice)
    found, cheap = fused.estimate(workload, subset_size=3), base.estimate(workload, subset_size=3)
    asked = random_subsets(5, 6, (2, 3), seed=3, cover=False)
    values, errors = found.model.predict_values(asked), found.model.value_error(asked)
    assert np.isfinite(values[asked]).all()
    assert (errors[asked] > 0).all()
    assert np.isnan(values[~asked]).all()
    assert found.model.pairwise().values.shape == (5, 5)
    assert np.isfinite(found.model.standard_error(asked)[asked]).all()
    assert found.facts["real runs"] == 5
    assert found.costs.flops == pytest.approx(cheap.costs.flops + 5 * found.run_flops)
    assert fused.to_dict()["base"]["method"] == base.name


class _Counting(MemoryRun):
    """Keeps the names of units that were computed, and the FLOPs of real trainings."""

    def __init__(self):
        super().__init__()
        self.names, self.flops = [], 0.0

    def unit(self, name, key, compute):
        def counted():
            payload = compute()
            self.names.append(name)
            self.flops += float(np.sum(payload.arrays["flops"])) if name == "real-runs" else 0.0
            return payload

        return super().unit(name, key, counted)


@pytest.mark.parametrize("choice", ["active", "random"])
@pytest.mark.parametrize("trainings", [1, 2, 4, 5])
def test_all_real_runs_are_booked_where_there_is_no_base(workload, trainings, choice):
    store = _Counting()
    fused = Fused(GradTAE(bases=1, fork=1.0), trainings=trainings, choice=choice, features=())
    found = fused.estimate(workload, subset_size=3, context=Context(store=store))
    assert found.facts["base models"] == 0
    assert found.costs.entries[STAGE][0] == pytest.approx(store.flops)
    assert found.costs.flops <= trainings * found.run_flops * 1.0001


def test_planning_trains_nothing_that_the_estimate_does_not(workload):
    store = _Counting()
    found = Fused(GradTAE(fork=0.1), trainings=15).estimate(workload, subset_size=3, context=Context(store=store))
    assert found.facts["base models"] > 1
    assert store.names.count("bases") == store.names.count("full-base") == 1
    assert found.costs.entries[STAGE][0] == pytest.approx(store.flops)


@pytest.mark.parametrize("base", ["secants", "task-vectors", "grad-tag"])
def test_no_base_overspends(workload, base):
    found = Fused(get_estimator(base), trainings=15).estimate(workload, subset_size=3)
    assert found.costs.flops <= 1.15 * 15 * found.run_flops


def test_forks_are_short_beside_an_ordinary_training(workload):
    context = prepare(workload, Context())
    base, once = GradTAE(fork=0.5), real_runs(context, np.eye(workload.n_tasks, dtype=bool)[:1])
    full = float(train_full(context).steps)
    usual, short = (replace(once, steps=np.array([steps])) for steps in (10 * full, full / 10))
    assert split_budget(context, base, 50.0, usual).fork == base.fork
    found = split_budget(context, base, 50.0, short)
    assert found.fork == pytest.approx(FORK_OF_RUN / 10)
    assert found.bases >= split_budget(context, base, 50.0, usual).bases


def test_runs_keep_room_where_few_of_them_show_half_of_the_pairs(workload):
    """5 runs of 2 of 5 tasks do; of 1 task each no number does, and base models come first."""
    context = prepare(workload, Context())
    pairs = real_runs(context, different_subsets(5, 2, 2, 0))
    assert runs_for_pairs(5, 2) == 5
    found = split_budget(context, GradTAE(), 15.0, pairs)
    assert found.bases > 0
    assert found.runs >= 5
    first = split_budget(context, GradTAE(), 15.0, replace(pairs, subsets=np.eye(5, dtype=bool)[:2]))
    assert first.bases > found.bases
    assert first.runs < 5


def test_single_tasks_do_not_count_in_the_spread_of_label_correlation():
    matrix = np.array([[0.0, 0.6], [0.6, 0.0]])
    reference = np.array([[True, False], [False, True], [True, True]])
    cheap = _CheapModel(("a", "b"), "cheap").predict_values
    prior = make_prior(cheap, matrix, reference)
    np.testing.assert_allclose(prior(reference), cheap(reference))  # one pair: nothing to compare it with


def test_only_shared_units_stay_in_memory():
    remembered = Remembered(NoStore(), {})
    for name in ("full-base", "forks", "secants", "real-runs"):
        for _ in range(2):
            remembered.unit(name, {"a": 1}, lambda: Payload({"x": np.zeros(3)}))
    assert len(remembered.units) == 2


@pytest.mark.parametrize("subset_size", [2, 3, 9])
def test_few_tasks_still_have_standard_errors(subset_size):
    rng = np.random.default_rng(0)
    for n in (2, 3):
        y = (rng.normal(size=(200, n)) > 0).astype(float)
        tiny = from_arrays(rng.normal(size=(200, 4)), y, hidden=(8,), recipe=Recipe(epochs=3, batch_size=50))
        found = Fused(GradTAE(bases=1, fork=0.5), runs=4, alone=True).estimate(tiny, subset_size=subset_size)
        errors = found.model.value_error(np.ones((1, n), dtype=bool))
        spread = np.ptp(found.model.predict_values(np.ones((1, n), dtype=bool)))
        assert (errors > 1e-3 * spread).all()
        assert np.isfinite(errors).all()


@pytest.mark.parametrize("method", ["linear-surrogate", "kernel-surrogate"])
def test_repeated_subsets_teach_nothing(workload, method):
    store = _Counting()
    found = get_estimator(method).estimate(
        workload, subset_size=2, context=Context(store=store)
    )  # 50 runs, but 10 pairs
    assert found.costs.flops == pytest.approx(10 * found.run_flops)
    pairs = np.array([[a in (i, j) for a in range(5)] for i in range(5) for j in range(i)])
    errors, values = found.model.value_error(pairs), found.model.predict_values(pairs)
    assert (np.nanmean(errors, 0) > 0.01 * np.nanstd(values, 0)).all()
    with pytest.raises(SettingError, match="subset_size"):
        get_estimator(method).estimate(workload, subset_size=5)


def test_fused_without_runs_ranks_as_its_base(workload):
    base = GradTAE(bases=1, fork=0.5)
    found = Fused(base, runs=0, features=()).estimate(workload, subset_size=3)
    cheap = base.estimate(workload, subset_size=3)
    asked = np.unique(random_subsets(5, 10, 3, seed=3, cover=False), axis=0)
    mine, its = found.model.predict_values(asked), cheap.model.predict_values(asked)
    for task, has in enumerate(asked.T):
        assert np.corrcoef(mine[has, task], its[has, task])[0, 1] == pytest.approx(1, abs=1e-9)


def test_single_runs_make_gains_surer(workload):
    base = GradTAE(bases=1, fork=0.5)
    asked = np.unique(random_subsets(5, 10, 3, seed=3, cover=False), axis=0)
    without = Fused(base, runs=6).estimate(workload, subset_size=3).model.standard_error(asked)
    with_them = Fused(base, runs=6, alone=True).estimate(workload, subset_size=3).model.standard_error(asked)
    assert np.nanmedian(with_them) < np.nanmedian(without)


def test_memory_is_checked_before_training(workload):
    with pytest.raises(ResourceError, match="memory"):
        Fused(_Cheap(), runs=9).estimate(workload, subset_size=3, context=Context(memory=2**16))


@pytest.mark.parametrize(
    "bad",
    [
        {"runs": -1},
        {"choice": "clever"},
        {"alone": 1},
        {"features": "label-correlation"},
        {"base": "task-vectors"},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(SettingError, match=next(iter(bad))):
        Fused(**bad)


def test_other_settings_are_checked(workload):
    for bad in ({"runs": 1}, {"ridge": 0.0}):
        for kind in (LinearSurrogate, KernelSurrogate):
            with pytest.raises(SettingError, match=next(iter(bad))):
                kind(**bad)
    with pytest.raises(SettingError, match="gamma"):
        KernelSurrogate(gamma=-1.0)
    with pytest.raises(SettingError, match="base"):
        Fused(get_estimator("label-correlation"), runs=2).estimate(workload)
    with pytest.raises(SettingError, match="features"):
        replace(Fused(GradTAE(bases=1, fork=0.5)), runs=2, features=("kernel-surrogate",)).estimate(workload)


def test_what_real_runs_alone_do_not_know_is_counted_in_pairs() -> None:
    """Five of ten pairs are together in these runs; a task that is in none has no pair."""
    runs = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0]], dtype=bool)
    assert "on 2 real runs, in which 50% of the pairs" in fused_module._without_base(runs, 12.0)
    assert "in which 100% of the pairs" in fused_module._without_base(np.ones((1, 4), dtype=bool), 12.0)
    assert "in which 0% of the pairs" in fused_module._without_base(np.eye(4, dtype=bool), 12.0)


@pytest.mark.parametrize("kind", [KernelSurrogate, LinearSurrogate])
def test_two_real_runs_are_the_fewest_that_a_surrogate_takes(kind: type[KernelSurrogate | LinearSurrogate]) -> None:
    assert kind(runs=2).runs == 2
    with pytest.raises(SettingError, match="`runs`"):
        kind(runs=1)


def test_standard_errors_are_twice_the_square_of_those_of_runs_that_were_left_out() -> None:
    rng = np.random.default_rng(0)
    members, values = (rng.random((14, 4)) < 0.5).astype(float), rng.normal(size=14)
    missed = []
    for out in range(14):
        rest = np.arange(14) != out
        fitted = fit_task(members[rest], values[rest], membership, 0.3, intercept=True)
        found = fitted.mean + (membership(members[out : out + 1], members[rest]) - fitted.shift) @ fitted.weights
        missed.append(values[out] - found.item())
    one = fit_task(members, values, membership, 0.3, intercept=True)
    model = TaskRidgeModel(tuple("abcd"), "test", membership, (one,) * 4)
    expected = np.sqrt(2 * np.mean(np.square(missed)))
    np.testing.assert_allclose(model.value_error(np.ones((1, 4), dtype=bool)), expected, rtol=1e-6)


def test_a_model_of_regressions_predicts_what_a_ridge_with_an_intercept_does() -> None:
    rng = np.random.default_rng(0)
    members, values = (rng.random((14, 4)) < 0.5).astype(float), rng.normal(size=14)
    one = fit_task(members, values, membership, 0.3, intercept=True)
    asked = np.array([[1, 1, 1, 1], [1, 0, 1, 0]], dtype=bool)
    found = TaskRidgeModel(tuple("abcd"), "test", membership, (one,) * 4).predict_values(asked)
    expected = Ridge(alpha=0.3).fit(members, values).predict(asked.astype(float))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9)


def test_subsets_differ_in_the_tasks_that_one_of_them_lacks():
    a, b = np.random.default_rng(0).random((2, 6, 9)) < 0.5
    counted = [[sum(x != y for x, y in zip(one, other, strict=True)) for other in b] for one in a]
    np.testing.assert_array_equal(apart(a.astype(float), b.astype(float)), counted)


def test_features_are_believed_less_than_what_all_runs_share():
    settings = ProcessPriors(mean=-2.0, deviation=0.5)
    reference = random_subsets(5, 20, 3, seed=0, cover=False)
    cheap = np.where(reference, np.random.default_rng(0).normal(size=reference.shape), np.nan)
    feature = np.random.default_rng(1).normal(size=(5, 5))
    nothing = np.zeros((0, 5), dtype=bool)
    names = fit_process(nothing, cheap[:0], cheap[:0], reference, cheap, features=[feature]).likeness
    means = dict(zip(names.names, settings.priors(names)[0][:-1], strict=True))
    assert means["feature 0"] == -3.5
    assert means["partners"] == means["overlap"] == -2.0


def test_what_was_spent_before_no_base_fitted_buys_no_runs(workload):
    """A training on all tasks shows that no base fits; it is paid for from the same budget."""
    context = prepare(workload, Context())
    full = train_full(replace(context, costs=Costs(context.costs.unit)))
    spent = training_flops(workload, full, context.costs.unit)
    once = real_runs(context, np.eye(workload.n_tasks, dtype=bool)[:1])
    # ordinary trainings that cost a fifth of one on all tasks, so that the budget has room for that one but no base
    cheap = replace(once, flops=np.array([spent / 5]), steps=np.array([50.0 * full.steps]))
    found = split_budget(context, GradTAE(directions="random", count=1), 6.0, cheap)
    assert found.bases == 0
    assert context.costs.entries["base models"][0] == pytest.approx(spent)
    assert found.runs == int(0.85 * 6 - 5)
