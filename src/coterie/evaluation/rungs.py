"""The record of successive halving: who was in, how they stood, who left and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coterie._show import short_repr
from coterie.errors import require
from coterie.evaluation.intervals import Interval

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
