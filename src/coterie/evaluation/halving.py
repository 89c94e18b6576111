"""Successive halving: many candidates, a stated number of real trainings.

Every candidate is trained with a fresh seed or a few, the better half with more, and so on, down to three at most that
go to the final. The final is an ordinary comparison beside the simple candidates. Its seeds are used in no rung, so a
candidate that came through by a lucky training is judged without that luck.

Source: Karnin, Koren & Somekh (2013), Almost optimal exploration in multi-armed bandits (sequential halving:
an equal share of the budget for every rung). Departures: candidates differ in price and share trainings; rungs keep
what earlier rungs measured; the price of the final is set aside first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._show import short_repr
from coterie.errors import SettingError, require
from coterie.evaluation.intervals import Interval
from coterie.evaluation.labels import Losses, log_losses

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Standing:
    """How a candidate stood at the end of a rung.

    Attributes:
        name: of the candidate.
        loss: geometric mean over tasks and seeds of its validation losses; lower is better.
        gain: over the best of the rung, with its interval over seeds and examples; at most 0.
        stays: whether it went on.
    """

    name: str
    loss: float
    gain: Interval
    stays: bool


@short_repr
@dataclass(frozen=True)
class Rung:
    """One round of elimination.

    Attributes:
        seeds: training seeds on which it judged: those of earlier rungs and its own.
        runs: real trainings that it added.
        standings: the candidates that were in it, best first.
    """

    seeds: tuple[int, ...]
    runs: int
    standings: tuple[Standing, ...]

    @property
    def stayed(self) -> tuple[str, ...]:
        """Those that went on, best first."""
        return tuple(standing.name for standing in self.standings if standing.stays)

    @property
    def left(self) -> tuple[str, ...]:
        """Those that were eliminated."""
        return tuple(standing.name for standing in self.standings if not standing.stays)


@short_repr
@dataclass(frozen=True)
class Halving:
    """How a budget of real trainings was spent.

    Attributes:
        runs: the budget. A run is the training of one distinct subset of tasks with one seed.
        spent: runs that were used, rungs and final together; never more than `runs`.
        rungs: rounds of elimination; none when the budget was enough for every candidate.
        finalists: candidates of the final, the simple ones included, as :class:`~coterie.evaluation.Comparison` has
            them.
        seeds: training seeds of the final, none of which was used in a rung.
        asked: how many seeds the final would have had with a larger budget.
        refused: candidates with more models than may be served; they were not trained.
        twins: candidate -> another one of the same groups, whose lot it shared.
    """

    runs: int
    spent: int
    rungs: tuple[Rung, ...]
    finalists: tuple[str, ...]
    seeds: tuple[int, ...]
    asked: int
    refused: tuple[str, ...] = ()
    twins: tuple[tuple[str, str], ...] = ()

    @property
    def eliminated(self) -> tuple[str, ...]:
        """Candidates that were trained and left, in the order in which they did."""
        return tuple(name for rung in self.rungs for name in reversed(rung.left))

    def lines(self) -> list[str]:
        """The record in words, one sentence a rung."""
        found: list[str] = []
        for number, rung in enumerate(self.rungs, 1):
            left = [f"{s.name} ({_against(s.gain)})" for s in rung.standings if not s.stays]
            found.append(
                f"Rung {number}, {_count(len(rung.seeds), 'seed')}, {_count(rung.runs, 'run')}: "
                f"{rung.standings[0].name} was best of {len(rung.standings)}; {', '.join(left)} left."
            )
        if self.refused:
            found.append(f"Not trained, because they have more models than may be served: {', '.join(self.refused)}.")
        found += [f"{name} has the same groups as {other} and shared its lot." for name, other in self.twins]
        final = f"Final: {len(self.finalists)} candidates with {_count(len(self.seeds), 'seed')}"
        few = f" (not {self.asked}, for want of runs)" if len(self.seeds) < self.asked else ""
        other = " that no rung used" if self.rungs else ""
        return [*found, f"{final}{few}{other}; {self.spent} of {self.runs} runs were spent."]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "runs": self.runs,
            "spent": self.spent,
            "rungs": [
                {
                    "seeds": list(rung.seeds),
                    "runs": rung.runs,
                    "candidates": [{**vars(s), "gain": s.gain.to_dict()} for s in rung.standings],
                }
                for rung in self.rungs
            ],
            "finalists": list(self.finalists),
            "seeds": list(self.seeds),
            "asked": self.asked,
            "refused": list(self.refused),
            "twins": dict(self.twins),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Halving:
        """The inverse of :meth:`to_dict`."""
        rungs = tuple(
            Rung(
                tuple(rung["seeds"]),
                rung["runs"],
                tuple(
                    Standing(entry["name"], entry["loss"], _interval(entry["gain"]), entry["stays"])
                    for entry in rung["candidates"]
                ),
            )
            for rung in data["rungs"]
        )
        return Halving(
            data["runs"],
            data["spent"],
            rungs,
            tuple(data["finalists"]),
            tuple(data["seeds"]),
            data["asked"],
            tuple(data["refused"]),
            tuple(data["twins"].items()),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per rung and candidate (needs pandas, extra ``table``)."""
        pandas = require("pandas", extra="table", purpose="Halving.to_frame()")
        rows = [
            {"rung": number, "seeds": len(rung.seeds), "candidate": s.name, **vars(s), **vars(s.gain)}
            for number, rung in enumerate(self.rungs, 1)
            for s in rung.standings
        ]
        columns = ["rung", "seeds", "candidate", "loss", "mean", "low", "high", "stays"]
        return pandas.DataFrame(rows, columns=columns).rename(columns={"mean": "gain"})


def _interval(data: Mapping[str, float | None]) -> Interval:
    return Interval(*(float("nan") if (value := data[key]) is None else value for key in ("mean", "low", "high")))


def _against(gain: Interval) -> str:
    return f"{100 * gain.mean:+.1f} %"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + "s" * (number != 1)


Subset = tuple[int, ...]
#: ``measure(names, seeds)`` trains candidates and returns their validation losses, in order
Measure = Callable[[Sequence[str], Sequence[int]], Losses]
#: seeds that the final should have before there is more than one rung
ENOUGH = 3
#: so many candidates go to the final together, where the budget allows
FINALISTS = 3


@dataclass(frozen=True)
class Prices:
    """What trainings cost, in runs: one for each distinct subset and seed.

    Attributes:
        subsets: candidate -> its subsets.
        always: subsets that the final trains in any case.
    """

    subsets: Mapping[str, frozenset[Subset]]
    always: frozenset[Subset]

    def rung(self, names: Iterable[str]) -> int:
        """Runs a seed of a rung with some candidates."""
        return len(frozenset[Subset]().union(*(self.subsets[name] for name in names)))

    def final(self, names: Iterable[str]) -> int:
        """Runs a seed of a final with some candidates and the simple ones."""
        return len(self.always.union(*(self.subsets[name] for name in names)))

    def dearest(self, names: Iterable[str], count: int = 1) -> int:
        """Runs a seed of the final, whichever `count` of some candidates get there."""
        names = list(names)
        extra = sorted((len(self.subsets[name] - self.always) for name in names), reverse=True)
        return min(self.final(names), len(self.always) + sum(extra[:count]))

    def ladder(self, names: Iterable[str], count: int = 1) -> int:
        """Runs that rungs of one more seed each take at most, each halving, down to `count` candidates."""
        names = list(names)
        whole, sizes = self.rung(names), sorted((len(self.subsets[name]) for name in names), reverse=True)
        return sum(min(whole, sum(sizes[:alive])) for alive in _sizes(len(names), count))


def _sizes(alive: int, count: int) -> list[int]:
    """How many candidates each rung has, halving from `alive` down to `count`."""
    found: list[int] = []
    while alive > count:
        found.append(alive)
        alive = -(-alive // 2)
    return found


def smallest_runs(prices: Prices, n_seeds: int) -> int:
    """The smallest budget with which something can be said: one seed for everybody, then two for a final.

    Example:
        >>> prices = Prices({"a": frozenset({(0, 1), (2,)}), "b": frozenset({(0, 2), (1,)})}, frozenset({(0, 1, 2)}))
        >>> smallest_runs(prices, 5)  # 4 to choose, and twice 3
        10
    """
    names, seeds = list(prices.subsets), min(2, n_seeds)
    whole = seeds * prices.final(names)
    if len(names) < 2:
        return whole
    return min(whole, prices.rung(names) + seeds * prices.dearest(names))


def check_runs(prices: Prices, runs: int, n_seeds: int) -> None:
    """Refuse a budget that is too small.

    Raises:
        SettingError: saying what the smallest useful one is, and why.
    """
    least, names = smallest_runs(prices, n_seeds), list(prices.subsets)
    if runs >= least:
        return
    seeds, rung, price = min(2, n_seeds), "", prices.final(names)
    if least < seeds * price:
        rung, price = f"{prices.rung(names)} to train each of {len(names)} candidates once, and ", prices.dearest(names)
    final = f"{seeds} x {price} for a final beside the simple candidates"
    raise SettingError(
        f"Parameter `runs` should be at least {least} for these candidates: {rung}{final} (a run is one training of "
        f"one group; all-in-one and single-task models take {prices.final([])} a seed). Found {runs}. Allow more runs, "
        "or give fewer candidates or candidates with fewer groups."
    )


def final_seeds(prices: Prices, runs: int, n_seeds: int) -> int:
    """How many seeds the final gets: those asked for, or fewer where the budget is small.

    As many as leave enough for rungs of one more seed each down to one candidate; where that would be fewer than three,
    up to three as long as one rung is left. Never fewer than every candidate could have without rungs.
    """
    names = list(prices.subsets)
    everybody = runs // prices.final(names)
    if len(names) < 2:
        return min(n_seeds, everybody)
    dearest = prices.dearest(names)
    full, short = (runs - prices.ladder(names)) // dearest, (runs - prices.rung(names)) // dearest
    return min(n_seeds, max(everybody, full, min(ENOUGH, short)))


def race(
    prices: Prices, seeds: Sequence[int], runs: int, measure: Measure, models: Mapping[str, int] | None = None
) -> Halving:
    """Eliminate candidates until those that are left, and the simple ones, can have the seeds of the final.

    Args:
        prices: subsets of the candidates, and those that the final trains in any case.
        seeds: seeds of the final; rungs take the numbers after the largest.
        runs: the budget, rungs and final together.
        measure: called with the candidates of a rung and with all seeds of the rungs so far.
        models: candidate -> number of models; of equals, the one with fewer is better.

    Returns:
        The record. Its `spent` includes the final, which is left to the caller; `finalists` are in the order given.

    Raises:
        SettingError: when the budget is too small.

    Cost: that of `measure`; itself microseconds a candidate.

    Example:
        >>> groups = {"a": [(0, 1), (2, 3)], "b": [(0, 2), (1, 3)], "c": [(0, 3), (1, 2)]}
        >>> simple = frozenset([(0, 1, 2, 3), (0,), (1,), (2,), (3,)])
        >>> losses = {"a": 0.3, "b": 0.2, "c": 0.4}
        >>> def measure(names, seeds):
        ...     return Losses.of(np.array([[[losses[name]]] * len(seeds) for name in names]))
        >>> prices = Prices({name: frozenset(found) for name, found in groups.items()}, simple)
        >>> record = race(prices, seeds=range(2), runs=20, measure=measure)
        >>> record.finalists, record.eliminated, record.spent
        (('b',), ('c', 'a'), 20)
    """
    check_runs(prices, runs, len(seeds))
    n_final = final_seeds(prices, runs, len(seeds))
    alive, rungs, used, left = list(prices.subsets), list[Rung](), list[int](), runs
    done = n_final * prices.final(alive) <= left
    while not done:
        count = _seeds_of_rung(prices, alive, n_final, left)
        first = max(seeds) + 1 + len(used)
        used += range(first, first + count)
        left -= count * prices.rung(alive)
        ranked = _ranked(alive, measure(alive, used), models or {})
        keep, done = _kept(prices, [standing.name for standing in ranked], n_final, left)
        standings = tuple(replace(standing, stays=place < keep) for place, standing in enumerate(ranked))
        rungs.append(Rung(tuple(used), count * prices.rung(alive), standings))
        alive = [name for name in alive if name in rungs[-1].stayed]
    spent = runs - left + n_final * prices.final(alive)
    return Halving(runs, spent, tuple(rungs), tuple(alive), tuple(seeds[:n_final]), len(seeds))


def _seeds_of_rung(prices: Prices, alive: Sequence[str], n_final: int, left: int) -> int:
    """An equal share, for this rung and those to come, of what is left beside the final; at least one seed."""
    for count in range(min(FINALISTS, len(alive) - 1), 0, -1):
        free = left - n_final * prices.dearest(alive, count)
        if free >= prices.ladder(alive, count):
            return max(1, free // len(_sizes(len(alive), count)) // prices.rung(alive))
    return 1


def _kept(prices: Prices, order: Sequence[str], n_final: int, left: int) -> tuple[int, bool]:
    """How many of the candidates, best first, stay; and whether they go to the final."""
    fits = max(k for k in range(1, len(order) + 1) if k == 1 or n_final * prices.final(order[:k]) <= left)
    half = -(-len(order) // 2)
    again = left - n_final * prices.dearest(order[:half]) >= prices.rung(order[:half])
    if half > 1 and again and (half > FINALISTS or fits < half):
        return half, False
    return fits, True


def _ranked(names: Sequence[str], losses: Losses, models: Mapping[str, int]) -> list[Standing]:
    """How the candidates stand, best first."""
    tasks = range(losses.means.shape[-1])
    logs = log_losses(losses.means, losses.floor).mean((1, 2))
    ranks = np.where(np.isnan(logs), np.inf, logs)  # a loss that overflowed is the worst
    order = sorted(range(len(names)), key=lambda i: (float(ranks[i]), models.get(names[i], 0), i))
    gains = [losses.gain(i, order[0], tasks) for i in order]
    return [Standing(names[i], float(np.exp(logs[i])), gain, True) for i, gain in zip(order, gains, strict=True)]
