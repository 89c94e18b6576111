"""Evidence and intervals that may be looked at: against integrals, and by simulation."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from coterie.study.sequential import WIDTHS, evidence, mean_interval, spent


def plain_evidence(x):
    """The likelihood ratio as two integrals: over the effect, and over the standard deviation with 1 / sd."""
    x = np.asarray(x, dtype=float)
    x = x / np.sqrt((x**2).mean())

    def likelihood(effect):
        density = lambda log_sd: np.exp(norm.logpdf(x, effect * np.exp(log_sd), np.exp(log_sd)).sum())  # noqa: E731
        return quad(density, -6, 8, limit=200)[0]

    null = likelihood(0.0)
    found = []
    for width in WIDTHS[:2]:
        prior = lambda effect, width=width: 2 * norm.pdf(effect, 0, width) * likelihood(effect)  # noqa: E731
        found.append(quad(prior, 0, 6 * width, limit=100)[0] / null)
    return found


def test_the_closed_form_is_the_integral(monkeypatch):
    monkeypatch.setattr("coterie.study.sequential.WIDTHS", WIDTHS[:2])
    x = [-0.2, 0.9, -0.1, 0.3]
    assert evidence(np.array(x)) == pytest.approx(np.mean(plain_evidence(x)), rel=1e-4)


def test_evidence_counts_neither_units_nor_a_shift_of_both():
    x = np.random.default_rng(0).normal(0.5, 1, 6)
    assert evidence(1e-5 * x) == pytest.approx(evidence(x))
    assert evidence(x + 3, above=3.0) == pytest.approx(evidence(x))
    assert evidence(-np.abs(x)) < 1 < evidence(np.abs(x))
    assert evidence(np.zeros(5)) == 1


def test_the_interval_ends_where_evidence_reaches_its_limit():
    x = np.random.default_rng(1).normal(0.5, 1, 9)
    found = mean_interval(x, 0.05)
    assert found.low < x.mean() < found.high
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    # far from 0, one-sided evidence is twice the two-sided one, as the other half of the effects counts for nothing
    assert evidence(x, above=found.low) == pytest.approx(40, rel=0.03)
    assert evidence(-x, above=-found.high) == pytest.approx(40, rel=0.03)


def test_few_seeds_have_no_interval():
    assert np.isinf(mean_interval(np.array([0.1, 0.1]), 0.05).high)
    assert np.isnan(mean_interval(np.array([]), 0.05).mean)
    assert mean_interval(np.full(4, 0.1), 0.05).low == pytest.approx(0.1, abs=1e-3)


def test_the_attempts_spend_what_there_is():
    assert sum(spent(k, 0.05) for k in range(1, 20001)) == pytest.approx(0.05, rel=1e-4)
    assert spent(1, 0.05) > spent(2, 0.05)


@pytest.mark.parametrize("mean", [0.0, -0.3])
def test_without_a_gain_evidence_seldom_reaches_its_limit_at_any_time(mean):
    rng = np.random.default_rng(0)
    said = covered = 0
    for _ in range(200):
        x = rng.normal(mean, 1, 25)
        said += any(evidence(x[:n]) >= 20 for n in (3, 4, 5, 6, 8, 11, 15, 20, 25))
        ends = [mean_interval(x[:n], 0.05) for n in (3, 5, 10, 25)]
        covered += all(one.low <= mean <= one.high for one in ends)
    assert said <= 0.05 * 200 + 3 * np.sqrt(200 * 0.05 * 0.95)
    assert covered >= 0.95 * 200 - 3 * np.sqrt(200 * 0.05 * 0.95)


def test_a_gain_of_twice_the_noise_is_found():
    rng = np.random.default_rng(0)
    times = []
    for _ in range(50):
        x = rng.normal(2, 1, 20)
        times.append(next(n for n in range(3, 21) if evidence(x[:n]) >= 20))
    assert np.median(times) <= 6
