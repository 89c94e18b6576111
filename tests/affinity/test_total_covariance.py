"""Joint uncertainty of summed gains: against explicit sums over points, samples of the posterior, and plain limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.affinity.test_surrogates import T, process

from coterie.affinity import Affinity, PairwiseGainModel
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.surrogates.covariance import ProcessPriors
from coterie.affinity.surrogates.prior import FusedModel
from coterie.affinity.surrogates.process import Sums, combine, covariance_of_sums, covariances

ALONE = np.eye(T, dtype=bool)


def joint(found, cheap, subsets):
    """Posterior covariance of all values of subsets, and then of tasks alone, point by point; the points."""
    both = np.concatenate([subsets, ALONE])
    points = found.at(both, cheap(both))
    relative = found.relative[points.task]
    truth = combine(
        covariances(points, points, found.likeness), found.factors(False), np.outer(relative, relative), found.likeness
    )
    alike = points.task[:, None] == points.task
    truth += alike * relative**2 * found.shared_luck
    same = [[np.array_equal(a, b) for b in points.partners] for a in points.partners]
    truth += alike * np.array(same) * relative**2 * found.settings.own * found.variances[-1]
    if len(found.points):
        terms = covariances(points, found.points, found.likeness)
        scale = np.outer(relative, found.relative[found.points.task])
        across = combine(terms, found.factors(False), scale, found.likeness)
        truth -= across @ np.linalg.inv(found.factor @ found.factor.T) @ across.T
    scale = found.scale[points.task]
    return found.inflation * truth * np.outer(scale, scale), points


def summing(points, subsets, weights, alone_weights):
    """(m, points) weights of all points in each sum."""
    rows = np.zeros((len(subsets), len(points)))
    for number, (row, task) in enumerate(zip(points.row, points.task, strict=True)):
        if row < len(subsets):
            rows[row, number] = weights[row, task]
        else:
            rows[:, number] = np.where(subsets[:, task], alone_weights[:, task], 0.0)
    return rows


@pytest.mark.parametrize("runs", [12, 0])
@pytest.mark.parametrize("learned", [True, False])
def test_covariance_of_sums_is_that_of_explicit_sums_over_points(runs, learned):
    found, _, _, cheap, reference = process(runs=runs, settings=ProcessPriors(learn=learned))
    asked = np.concatenate([reference[:8], ALONE[:3], np.ones((1, T), dtype=bool)])
    weights, alone_weights = np.random.default_rng(1).normal(size=(2, *asked.shape))
    alone = np.diag(cheap(ALONE))
    ours = covariance_of_sums(found, Sums(asked, cheap(asked), weights, alone, alone_weights))
    full, points = joint(found, cheap, asked)
    rows = summing(points, asked, weights, alone_weights)
    np.testing.assert_allclose(ours, rows @ full @ rows.T, rtol=1e-9, atol=1e-12)


def fused(seed=0, runs=12):
    found, _, _, cheap, reference = process(seed, runs)
    return FusedModel(tuple(f"t{i}" for i in range(T)), "fused", found, cheap), reference


def test_totals_vary_as_gains_of_sampled_truths_do():
    """50,000 draws of all values from the posterior: the first-order covariance against the spread of real totals."""
    model, reference = fused()
    asked = np.concatenate([reference[:4], np.ones((1, T), dtype=bool)])
    full, points = joint(model.process, model.cheap, asked)
    # small errors, where first order is exact
    draws = 0.02 * np.random.default_rng(0).multivariate_normal(np.zeros(len(full)), full, 50_000, method="eigh")
    both = np.concatenate([asked, ALONE])
    means = model.predict_values(both)[points.row, points.task]
    values = means + draws
    alone = values[:, points.row >= len(asked)]
    totals = np.zeros((len(draws), len(asked)))
    for number, (row, task) in enumerate(zip(points.row, points.task, strict=True)):
        if row < len(asked):
            totals[:, row] += 1 - values[:, number] / alone[:, task]
    sampled = np.cov(totals.T) / 0.02**2
    scale = np.sqrt(np.diag(sampled))
    np.testing.assert_allclose(model.total_covariance(asked) / np.outer(scale, scale), sampled / np.outer(scale, scale),
                               atol=0.02)  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 30))
def test_covariance_is_positive_a_task_alone_is_certain_and_pairs_agree_with_standard_errors(seed):
    model, reference = fused(seed)
    asked = np.concatenate([reference[:6], ALONE])
    covariance = model.total_covariance(asked)
    np.testing.assert_allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance)[0] > -1e-9
    assert np.abs(np.diag(covariance)[6:]).max() < 1e-9
    errors = model.standard_error(asked)
    # the total's standard error is at most the sum of those of its gains
    assert (np.sqrt(np.diag(covariance)[:6]) <= np.nansum(errors[:6], axis=1) + 1e-9).all()


def test_one_uncertain_gain_has_its_own_standard_error():
    found, _, _, cheap, reference = process()
    asked = reference[:6]
    model = FusedModel(tuple(f"t{i}" for i in range(T)), "fused", found, cheap)
    alone = np.diag(model.predict_values(ALONE))
    values, errors = model.predict_values(asked), model.standard_error(asked)
    for task in range(T):
        one = np.zeros(asked.shape)
        one[:, task] = 1.0
        sums = Sums(asked, cheap(asked), -one / alone, np.diag(cheap(ALONE)), one * np.nan_to_num(values) / alone**2)
        own = np.sqrt(np.diag(covariance_of_sums(found, sums)))
        np.testing.assert_allclose(own[asked[:, task]], errors[asked[:, task], task], rtol=1e-6)


def test_means_without_errors_are_the_means_with_errors():
    for runs in (12, 0):
        found, _, _, cheap, reference = process(3, runs)
        asked = np.concatenate([reference[:20], ALONE])
        plain, none = found.predict(asked, cheap(asked), errors=False)
        np.testing.assert_allclose(plain, found.predict(asked, cheap(asked))[0], rtol=1e-12)
        assert np.isnan(none).all()


def test_spread_of_bases_is_the_covariance_of_their_totals():
    rng = np.random.default_rng(0)
    tables = rng.uniform(0.5, 1.5, (3, 1 << T, T))

    class Table:
        def __init__(self, table):
            self.table = table

        def values(self, subsets, ridge, *, converged, memory):
            return np.where(subsets, self.table[subsets @ (1 << np.arange(T))], np.nan)

    model = GradTAEModel(tuple("abcdef"), [Table(table) for table in tables], 1.0)
    asked = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]], dtype=bool)
    alone = tables[:, 1 << np.arange(T), np.arange(T)]
    totals = np.zeros((3, 4))
    for base in range(3):
        for row, subset in enumerate(asked):
            for task in np.flatnonzero(subset):
                value = tables[base, int(subset @ (1 << np.arange(T))), task]
                totals[base, row] += (alone[base, task] - value) / alone[:, task].mean()
    np.testing.assert_allclose(model.total_covariance(asked), np.cov(totals.T) / 3)
    assert model.uncertainty == "spread of bases"
    assert GradTAEModel(model.tasks, model.bases[:1], 1.0).total_covariance(asked) is None
    np.testing.assert_allclose(np.diag(model.total_covariance(asked))[3], 0, atol=1e-15)


def test_a_model_without_standard_errors_says_so():
    model = PairwiseGainModel(Affinity(np.ones((3, 3)), tuple("abc"), None, "gain", "test"))
    assert model.total_covariance([["a", "b"], ["c"]]) is None
    assert model.uncertainty == ""
