"""Which mixtures to run next: random ones at first, then what the choice depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.study.mixtures.confirmation import SAME, MixtureConfirmation, MixtureRun
from coterie.study.mixtures.limits import drawn, inside
from coterie.study.mixtures.objective import MixtureAim
from coterie.study.mixtures.results import MixturePredictor, MixtureResults
from coterie.study.mixtures.view import EVEN, NATURAL, MixtureView
from coterie.study.results import Floats

#: one run in so many is a mixture that is expected to be good even when it is a little worse than said
CAREFUL = 2
#: mixtures are other ones when a share differs by more
_OTHER = 5e-3
#: an expected miss is small when it is below this part of the expected gain over the natural and the even mixture
_SMALL = 0.5
#: or below this part of the spread of the objective over runs, where there is little to gain
_FLAT = 0.03
#: runs before a choice is confirmed, as a multiple of the first design: what looks best after the first design alone
#: is expected to gain two to four times what it gains (benchmarks/mixtures.py)
_EXPLORED = 1.5


@dataclass(frozen=True, eq=False)
class MixtureProposal:
    """What to run next.

    Attributes:
        runs: the runs, most useful first; where there are enough, for whoever goes on.
        enough: whether more runs are not expected to be worth it.
        reason: why, in one sentence.
        confirmation: the choice that runs with fresh seeds judge; keep it for the next call.
        regret: what is expected to be missed by deciding now, as a share of the objective; NaN in the first design.
    """

    runs: tuple[MixtureRun, ...]
    enough: bool
    reason: str
    confirmation: MixtureConfirmation | None
    regret: float


def mixture_design_size(sources: int) -> int:
    """Runs of the first design.

    Example:
        >>> mixture_design_size(17)
        21
    """
    return max(8, sources + 4)


@known_arguments
def next_mixtures(
    results: MixtureResults,
    aim: MixtureAim,
    count: int = 1,
    *,
    predictor: MixturePredictor | None = None,
    seed: int = 0,
    confirmation: MixtureConfirmation | None = None,
    taken: Sequence[tuple[Floats, int]] = (),
) -> MixtureProposal:
    """Return the mixtures that a study should run next, or say that there are enough.

    First come the natural and the even mixture, then random ones within the limits, wide and narrow. Then every other
    run is the mixture that is best in a joint draw of what the predictor believes (Thompson sampling), and the rest
    are those that a search finds best with a standard error added. When little is expected to be missed, and half as
    many runs again were made, runs with fresh seeds confirm the choice against the natural and the even mixture.

    Args:
        results: runs so far; there may be none.
        aim: what is to be decided.
        count: runs that are wanted at a time.
        predictor: of values; None for the usual one.
        seed: of random numbers.
        confirmation: of the last proposal or recommendation.
        taken: shares and seeds of runs that were asked for and are not in the results.

    Cost: milliseconds for the first design, then a fit of the predictor and about one second.

    Source: Thompson (1933) for the draws; the rest is made here and measured in benchmarks/mixtures.py.
    """
    whole_number(count, "count", low=1)
    own = results.of_size("")
    there = np.concatenate([own.shares, *(np.asarray(shares)[None] for shares, _ in taken)])
    needed = mixture_design_size(len(results.sources)) - len(there)
    rng = np.random.default_rng([seed, len(there)])
    if needed > 0 or len(own.losses) < 3:
        runs = _first(aim, there, max(min(count, needed), 1), rng)
        return MixtureProposal(runs, False, "These runs are random mixtures within the limits.", confirmation, np.nan)
    view = MixtureView.of(results, aim, predictor)
    return _after_design(view, there, count, confirmation, (rng, taken))


def _first(aim: MixtureAim, there: Floats, count: int, rng: np.random.Generator) -> tuple[MixtureRun, ...]:
    """What is missing from the first design: the natural and the even mixture, then random ones."""
    found: list[MixtureRun] = []
    for name, shares in ((NATURAL, aim.natural), (EVEN, aim.even)):
        one = inside(shares[None], aim.low, aim.high)[0]
        before = [*there, *(run.shares for run in found)]
        if len(found) < count and not any(np.abs(one - shares).max() < SAME for shares in before):
            found.append(MixtureRun(one, 0, f"the {name} mixture, a reference"))
    rows = drawn(aim.natural, aim.low, aim.high, count - len(found), rng)
    return (*found, *(MixtureRun(row, 0, "first design") for row in rows))


def _after_design(
    view: MixtureView, there: Floats, count: int, confirmation: MixtureConfirmation | None,
    state: tuple[np.random.Generator, Sequence[tuple[Floats, int]]],
) -> MixtureProposal:  # fmt: skip
    """Confirm, explore, or stop."""
    rng, taken = state
    regret, written = view.regret, view.written(confirmation)
    spread = float(np.nanstd(view.own.losses @ view.weights)) / view.reference
    gain = min(float(draws.mean()) for draws in view.gains.values())
    small = regret < max(_SMALL * gain, _FLAT * spread, view.aim.matters / 4)
    small = small and len(there) >= _EXPLORED * mixture_design_size(len(view.results.sources))
    missed = f"deciding now is expected to miss {100 * regret:.2g} % of the objective"
    if written is not None and (small or written.begun(view.results)):  # what was begun is ended
        if written.is_better(view.results):
            reason = f"Enough: the mixture is confirmed, and {missed}."
            return MixtureProposal(_explore(view, there, count, rng), True, reason, written, regret)
        runs = written.wanted(view.results, taken)[:count]
        if runs:
            return MixtureProposal(runs, False, f"Confirm the mixture with fresh seeds: {missed}.", written, regret)
    if small and written is None:
        reason = f"Enough: {missed}, and no mixture is expected to beat the natural and the even one."
        return MixtureProposal(_explore(view, there, count, rng), True, reason, written, regret)
    return MixtureProposal(_explore(view, there, count, rng), False, f"Explore: {missed}.", written, regret)


def _explore(view: MixtureView, there: Floats, count: int, rng: np.random.Generator) -> tuple[MixtureRun, ...]:
    """Mixtures that may be best, and such as are likely to be good."""
    rows = view.leading
    drawn_values = view.draws(rows, count + 8, seed=int(rng.integers(2**31)))
    careful = view.careful if count > 1 or len(there) % CAREFUL == CAREFUL - 1 else rows[:0]
    found: list[MixtureRun] = []
    seen = [*there]
    for number in range(len(there), len(there) + count):
        order = np.argsort(drawn_values[number % len(drawn_values)], kind="stable")
        choices, why = rows[order], "may be the best mixture"
        if number % CAREFUL == CAREFUL - 1:
            choices, why = (
                np.concatenate([careful, choices]),
                "is expected to be good, even if a little worse than said",
            )
        shares = next((row for row in choices if all(np.abs(row - one).max() > _OTHER for one in seen)), choices[0])
        seen.append(shares)
        found.append(MixtureRun(shares, 0, why))
    return tuple(found)
