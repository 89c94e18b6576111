"""What a mixture is chosen for: a weighted sum of targets, and the mixtures that may be chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coterie.study.mixtures.limits import drawn, inside
from coterie.study.mixtures.results import MixtureResults, unit_scales
from coterie.study.results import Floats

#: random mixtures that a search starts from, and how many of the best are improved
POOL, STARTS = 800, 6
#: how much of the data a step moves from one source to another, coarse to fine
STEPS = (0.2, 0.1, 0.05, 0.02, 0.01)
#: spread of the logarithms of shares of mixtures around another one, smallest and largest
WIDTHS = (0.05, 0.7)
#: moves that are looked at for each start and step; and how often a step is taken again
MOVES, AGAIN = 40, 4

#: (mixtures,) what is to be small at mixtures (mixtures, sources)
Cost = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class MixtureAim:
    """What is to be decided.

    Attributes:
        weights: (targets,) that add up to 1.
        low: (sources,) smallest shares.
        high: (sources,) largest shares.
        natural: (sources,) the natural mixture.
        models: so many mixtures may be served, each for some targets.
        matters: the smallest gain over the natural mixture that is worth the change, as a share of its objective.
        units: "raw" or "spread", see :class:`coterie.study.mixtures.settings.MixtureSettings`.
    """

    weights: Floats
    low: Floats
    high: Floats
    natural: Floats
    models: int = 1
    matters: float = 0.0
    units: str = "raw"

    def scaled(self, results: MixtureResults) -> Floats:
        """(targets,) what losses are multiplied with in the objective."""
        return self.weights / unit_scales(results.losses)[1] if self.units == "spread" else self.weights

    @property
    def even(self) -> Floats:
        """(sources,) the even mixture, as far as limits allow."""
        return inside(np.full((1, len(self.natural)), 1 / len(self.natural)), self.low, self.high)[0]


def pool(aim: MixtureAim, results: MixtureResults, rng: np.random.Generator, count: int = POOL) -> Floats:
    """Mixtures that may be chosen: random ones, the natural and the even one, and those that were run.

    Args:
        aim: with the limits.
        results: runs.
        rng: of random numbers.
        count: of random mixtures.
    """
    random = drawn(aim.natural, aim.low, aim.high, count, rng)
    run = inside(results.shares, aim.low, aim.high)
    return np.concatenate([np.stack([inside(aim.natural[None], aim.low, aim.high)[0], aim.even]), run, random])


def around(rows: Floats, aim: MixtureAim, count: int, rng: np.random.Generator) -> Floats:
    """(count, sources) random mixtures around some, near and far.

    Args:
        rows: (mixtures, sources) to be around.
        aim: with the limits.
        count: of mixtures.
        rng: of random numbers.
    """
    chosen = rows[rng.integers(len(rows), size=count)]
    width = np.exp(rng.uniform(np.log(WIDTHS[0]), np.log(WIDTHS[1]), (count, 1)))
    other = rng.dirichlet(np.full(rows.shape[1], 0.5), count)
    moved = chosen * (1 - width) * np.exp(width * rng.standard_normal(chosen.shape)) + width * other
    return inside(moved, aim.low, aim.high)


def smallest(cost: Cost, starts: Floats, aim: MixtureAim, rng: np.random.Generator) -> Floats:
    """(mixtures, sources) mixtures within the limits at which a cost is small, the best first.

    From the best of some starts, data are moved from one source to another, as long as that lowers the cost, in ever
    smaller steps; all starts and moves of a step are looked at together.

    Args:
        cost: of mixtures.
        starts: (mixtures, sources) within the limits.
        aim: with the limits.
        rng: which moves are looked at.
    """
    values = cost(starts)
    order = np.argsort(values, kind="stable")[:STARTS]
    best, values = starts[order], values[order]
    sources = best.shape[1]
    for step in STEPS:
        for _ in range(AGAIN):
            moved = _moves(best, aim, step, min(MOVES, sources * (sources - 1)), rng)
            found = cost(moved.reshape(-1, sources)).reshape(len(best), -1)
            place = found.argmin(1)
            better = found[np.arange(len(best)), place] < values
            if not better.any():
                break
            best[better] = moved[np.flatnonzero(better), place[better]]
            values[better] = found[np.flatnonzero(better), place[better]]
    return best[np.argsort(values, kind="stable")]


def _moves(best: Floats, aim: MixtureAim, step: float, count: int, rng: np.random.Generator) -> Floats:
    """(starts, moves, sources) mixtures with data moved from one source to another, or with a source left out."""
    starts, sources = best.shape
    found = np.repeat(best[:, None], count, 1)
    rows, moves = np.indices((starts, count))
    giving = np.argmax(np.log(best + 1e-3)[:, None] + rng.gumbel(size=(starts, count, sources)), 2)
    taking = rng.integers(sources, size=(starts, count))
    room = np.minimum(best[rows, giving] - aim.low[giving], aim.high[taking] - best[rows, taking])
    room = np.maximum(room, 0.0)
    # a part of the step, or all that there is: sources leave a mixture in one move
    amount = np.where(moves % 4 == 0, room, np.minimum(room, step))
    amount = np.where(giving == taking, 0.0, amount)
    found[rows, moves, giving] -= amount
    found[rows, moves, taking] += amount
    return np.maximum(found, 0.0)
