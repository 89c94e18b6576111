"""Which mixtures to run next: spread over what may be trained at first, then what the choice depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.study.mixtures.confirmation import SAME, MixtureConfirmation, MixtureRun
from coterie.study.mixtures.kernels import ROOTS, features
from coterie.study.mixtures.limits import inside
from coterie.study.mixtures.objective import MixtureAim, pool
from coterie.study.mixtures.results import MixturePredictor, MixtureResults
from coterie.study.mixtures.view import EVEN, LEADING, NATURAL, MixtureView
from coterie.study.results import Floats

#: random mixtures that a first design chooses from
_CANDIDATES = 600
#: one run in so many is the one that is least known, wherever it is
BROAD = 4
#: mixtures near the best ones that are looked at
_NEAR = 200
#: share of the spread of the objective: an expected miss below it is worth no further run
_SMALL = 0.1


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

    First come the natural and the even mixture, then mixtures that lie far from each other (in square roots of shares)
    among random ones within the limits. Then three runs of four are mixtures that are best in a joint draw of what the
    predictor believes (Thompson sampling), and every fourth is the one whose objective is known least. When little is
    expected to be missed, runs with fresh seeds confirm the choice against the natural and the even mixture.

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
        runs = _first(aim, own, there, max(min(count, needed), 1), rng)
        return MixtureProposal(runs, False, "These runs are spread over what may be trained.", confirmation, np.nan)
    view = MixtureView.of(results, aim, predictor)
    return _after_design(view, there, count, confirmation, (rng, taken))


def _first(
    aim: MixtureAim, own: MixtureResults, there: Floats, count: int, rng: np.random.Generator
) -> tuple[MixtureRun, ...]:
    """What is missing from the first design."""
    rows = pool(aim, own, rng, _CANDIDATES)
    x, seen = features(ROOTS, rows), features(ROOTS, there) if len(there) else np.zeros((0, rows.shape[1]))
    near = np.full(len(rows), np.inf)
    for one in seen:
        near = np.minimum(near, ((x - one) ** 2).sum(1))
    found: list[MixtureRun] = []
    for name, shares in ((NATURAL, rows[0]), (EVEN, rows[1])):
        before = [*there, *(run.shares for run in found)]
        if len(found) < count and not any(np.abs(one - shares).max() < SAME for one in before):
            found.append(MixtureRun(shares, 0, f"the {name} mixture, a reference"))
            near = np.minimum(near, ((x - features(ROOTS, shares[None])) ** 2).sum(1))
    near[:2] = -1  # they are there
    while len(found) < count:
        place = int(np.argmax(near))
        found.append(MixtureRun(rows[place], 0, "first design"))
        near = np.minimum(near, ((x - x[place]) ** 2).sum(1))
    return tuple(found)


def _after_design(
    view: MixtureView, there: Floats, count: int, confirmation: MixtureConfirmation | None,
    state: tuple[np.random.Generator, Sequence[tuple[Floats, int]]],
) -> MixtureProposal:  # fmt: skip
    """Confirm, explore, or stop."""
    rng, taken = state
    regret, written = view.regret, view.written(confirmation)
    spread = float(np.nanstd(view.own.losses @ view.weights)) / view.reference
    small = regret < max(_SMALL * spread, view.aim.matters / 4)
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
    """Mixtures that may be best, and those of which least is known."""
    values = view.means @ view.weights
    order = np.argsort(values, kind="stable")[:LEADING]
    near = _near(np.concatenate([view.best[None], view.pool[order[:10]]]), view.aim, rng)
    rows = np.concatenate([view.best[None], near, view.pool[order]])
    drawn = view.draws(rows, count + 8, seed=int(rng.integers(2**31)))
    _, errors = view.posterior.total(view.pool, view.weights[None])
    unknown = np.argsort(-errors[:, 0], kind="stable")
    found: list[MixtureRun] = []
    seen = [*there]
    for number in range(len(there), len(there) + count):
        broad = number % BROAD == BROAD - 1
        places = unknown if broad else np.argsort(drawn[number % len(drawn)], kind="stable")
        choices = view.pool if broad else rows
        place = next((p for p in places if all(np.abs(choices[p] - one).max() > 5e-3 for one in seen)), places[0])
        seen.append(choices[place])
        why = "keeps the predictor honest: little is known of it" if broad else "may be the best mixture"
        found.append(MixtureRun(choices[place], 0, why))
    return tuple(found)


def _near(best: Floats, aim: MixtureAim, rng: np.random.Generator) -> Floats:
    """Mixtures around some."""
    rows = best[rng.integers(len(best), size=_NEAR)]
    width = np.exp(rng.uniform(np.log(0.05), np.log(0.7), (_NEAR, 1)))
    other = rng.dirichlet(np.full(rows.shape[1], 0.5), _NEAR)
    return inside(
        rows * (1 - width) * np.exp(width * rng.standard_normal(rows.shape)) + width * other, aim.low, aim.high
    )
