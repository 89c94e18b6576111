"""Contiguous intervals of time steps that are trained as one task each."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from coterie._check import choice
from coterie._surface import known_arguments
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import SettingError
from coterie.grouping.intervals.costs import centre_costs
from coterie.grouping.intervals.programme import Intervals, best_intervals
from coterie.grouping.matrix import FloatArray, check_count

if TYPE_CHECKING:
    from coterie.diffusion.affinity import StepAffinity

CRITERIA = ("snr", "time", "gradient")


@known_arguments
def step_intervals(
    schedule: NoiseSchedule,
    k: int = 5,
    criterion: str = "snr",
    *,
    affinity: StepAffinity | None = None,
    snr: str = "log",
    centre: str = "middle",
) -> Intervals:
    """Cut the time steps 0..T-1 into k contiguous intervals, exactly.

    Every step t of an interval pays for its distance to the centre c of the interval; the sum is minimised.

    Args:
        schedule: noise schedule.
        k: number of intervals; the paper uses 5.
        criterion: ``"snr"``: ``abs(q(t) - q(c))`` with the log SNR q. ``"time"``: ``abs(t - c)``, which gives equal
            lengths. ``"gradient"``: the negative affinity of t and c.
        affinity: needed for ``"gradient"``; steps between the probed ones are interpolated. Of a lookahead affinity,
            the entry with target t and source c.
        snr: ``"log"`` or ``"raw"``. The raw SNR spans many orders of magnitude, so that the first few steps, of nearly
            no noise, decide alone: with 1,000 linear steps, four of five raw intervals end before step 20. The paper
            says SNR; whether its experiments took the logarithm is not known.
        centre: ``"middle"``: the item at (first + last + 1) // 2, as published; ``"best"``: the item for which the
            interval costs least.

    Returns:
        An exact optimum. Its `cost` is the sum over the steps.

    Raises:
        SettingError: for an unknown setting, k out of 1..T, an affinity that is missing or of other steps.

    Cost:
        Tables of T^2 numbers and k T^2 additions: about a tenth of a second at T = 1,000 (longer with the best centre).

    Source:
        Go et al., "Addressing Negative Transfer in Diffusion Models", arXiv 2306.00354, section on interval clustering.
        We differ from the authors' released code, whose dynamic programme takes a split that costs 0 for one that is
        not allowed, and whose back-tracking is off by one: it starts an interval at the last step of the one before,
        and ends the last one after the last step. Here steps count from 0 and every step is in exactly one interval.

    Example:
        >>> schedule = NoiseSchedule.linear(1000)
        >>> step_intervals(schedule, 5, "time").spans
        ((0, 199), (200, 399), (400, 599), (600, 799), (800, 999))
        >>> step_intervals(schedule, 5, "snr").starts
        (0, 153, 394, 624, 823)
    """
    choice(criterion, "criterion", CRITERIA)
    if snr not in ("log", "raw"):
        raise SettingError(f"Parameter `snr` should be 'log' or 'raw'. Found {snr!r}.")
    check_count("k", k, schedule.n_steps)
    cost = centre_costs(step_costs(schedule, criterion, affinity=affinity, snr=snr), centre)
    return _equal(cost, k) if criterion == "time" else best_intervals(cost, k)


def step_costs(
    schedule: NoiseSchedule, criterion: str, *, affinity: StepAffinity | None = None, snr: str = "log"
) -> FloatArray:
    """(T, T) what each step (row) pays when another one (column) is the centre of its interval."""
    if criterion == "gradient":
        if affinity is None or affinity.n_steps != schedule.n_steps:
            found = "none" if affinity is None else f"one of {affinity.n_steps} steps"
            raise SettingError(
                f"Parameter `affinity` should be an affinity of the {schedule.n_steps} steps of the schedule for the "
                f"criterion 'gradient'. Found {found}. Make it with step_affinity(model, images, schedule)."
            )
        return -affinity.full()
    place = np.arange(schedule.n_steps, dtype=np.float64)
    if criterion == "snr":
        place = schedule.log_snr.numpy()
        place = np.exp(place) if snr == "raw" else place
    return np.abs(place[:, None] - place[None, :])


def _equal(cost: FloatArray, k: int) -> Intervals:
    """Lengths that differ by one at most, the longer ones last.

    They are among the optima of the dynamic programme. So are others: lengths 1 and 3 cost as much as 2 and 2, and
    which one it finds is a matter of ties.
    """
    n = len(cost)
    ends = [*(number * n // k for number in range(k)), n]
    total = sum(float(cost[first, end - 1]) for first, end in pairwise(ends))
    return Intervals(tuple(ends[:-1]), n, total)
