"""Intervals of time steps against all cuts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.diffusion.affinity import StepAffinity
from coterie.diffusion.intervals import CRITERIA, step_intervals
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import SettingError
from coterie.grouping import best_intervals
from coterie.grouping.intervals.costs import centre_costs
from reference.diffusion import hat_value
from reference.intervals import cuts


def random_schedule(rng, n):
    """Any SNR that falls; with a zero terminal SNR now and then."""
    abar = np.sort(rng.uniform(0.01, 0.99, n))[::-1].copy()
    if n > 3 and rng.random() < 0.3:
        abar[-1] = 0.0
    return NoiseSchedule.from_alphas_cumprod(abar)


def random_affinity(rng, n):
    steps = np.unique(rng.integers(0, n, rng.integers(1, n + 1)))
    return StepAffinity(steps, rng.normal(size=(len(steps), len(steps))), n)


def paid(schedule, affinity, criterion, snr, item, centre):
    """What one step pays for one centre, from the definition."""
    if criterion == "time":
        return abs(item - centre)
    if criterion == "gradient":
        return -hat_value(affinity.steps.tolist(), affinity.values.tolist(), item, centre)
    a, s = schedule.signal.tolist(), schedule.noise.tolist()
    q = [2 * np.log(a[t] / s[t]) if a[t] else None for t in range(len(a))]
    if q[-1] is None:
        q[-1] = 2 * q[-2] - q[-3]
    q = q if snr == "log" else np.exp(q)
    return abs(q[item] - q[centre])


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    criterion=st.sampled_from(CRITERIA),
    snr=st.sampled_from(["log", "raw"]),
    centre=st.sampled_from(["middle", "best"]),
    data=st.data(),
)
def test_no_cut_is_better(seed, n, criterion, snr, centre, data):
    k, rng = data.draw(st.integers(1, n)), np.random.default_rng(seed)
    schedule, affinity = random_schedule(rng, n), random_affinity(rng, n)

    def cost(first, last):
        around = [(first + last + 1) // 2] if centre == "middle" else range(first, last + 1)
        items = range(first, last + 1)
        return min(sum(paid(schedule, affinity, criterion, snr, item, c) for item in items) for c in around)

    found = step_intervals(schedule, k, criterion, affinity=affinity, snr=snr, centre=centre)
    best = min(sum(cost(*span) for span in cut) for cut in cuts(n, k))
    own = sum(cost(*span) for span in found.spans)
    size = 1e-9 * max(1.0, abs(best), 1e3 if snr == "raw" else 1.0)
    assert found.cost == pytest.approx(own, abs=size)
    assert own == pytest.approx(best, abs=size)
    assert [t for first, last in found.spans for t in range(first, last + 1)] == list(range(n))


@settings(max_examples=60)
@given(n=st.integers(1, 120), data=st.data(), centre=st.sampled_from(["middle", "best"]))
def test_time_gives_equal_lengths_that_are_optimal(n, data, centre):
    k = data.draw(st.integers(1, n))
    found = step_intervals(NoiseSchedule.linear(n), k, "time", centre=centre)
    lengths = np.array([last - first + 1 for first, last in found.spans])
    assert lengths.sum() == n
    assert len(lengths) == k
    assert lengths.max() - lengths.min() <= 1
    # closed form: an interval of length m costs floor(m^2 / 4)
    assert found.cost == (lengths**2 // 4).sum()
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)
    assert best_intervals(centre_costs(distance, centre), k).cost == found.cost


def test_a_thousand_steps():
    schedule = NoiseSchedule.linear()
    assert step_intervals(schedule, 5, "time").starts == (0, 200, 400, 600, 800)
    logs, raw = (step_intervals(schedule, 5, snr=kind) for kind in ("log", "raw"))
    assert min(np.diff([*logs.starts, 1000])) > 100
    assert raw.starts[-1] < 20  # the first steps decide alone


def test_blocks_of_affinity_are_found():
    labels = np.repeat([0, 1, 2], [4, 7, 5])
    values = (labels[:, None] == labels[None, :]).astype(float)
    found = step_intervals(NoiseSchedule.linear(16), 3, "gradient", affinity=StepAffinity(np.arange(16), values, 16))
    assert found.labels.tolist() == labels.tolist()
    assert found.cost == -16


def test_zero_terminal_snr_costs_stay_finite():
    schedule = NoiseSchedule.from_sigmas(torch.linspace(0, 1, 50))
    for snr in ("log", "raw"):
        assert np.isfinite(step_intervals(schedule, 5, snr=snr).cost)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"criterion": "fisher"}, "criterion"),
        ({"snr": "dB"}, "snr"),
        ({"centre": "left"}, "centre"),
        ({"k": 0}, "`k`"),
        ({"k": 11}, "`k`"),
        ({"criterion": "gradient"}, "Found none"),
        ({"criterion": "gradient", "affinity": StepAffinity(np.arange(4), np.eye(4), 4)}, "of 4 steps"),
    ],
)
def test_bad_arguments(options, word):
    with pytest.raises(SettingError, match=word):
        step_intervals(NoiseSchedule.linear(10), **options)
