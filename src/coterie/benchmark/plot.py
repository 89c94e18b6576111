"""Skill against cost as points on a plane: what page and figure draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coterie.affinity import METHODS
from coterie.benchmark.table import decimal, sorted_rows
from coterie.report.formats import percent
from coterie.report.heatmap import GROUP_COLOURS

Json = Mapping[str, Any]
#: smallest share that is drawn at its place; what is cheaper, or free, stands at the left edge
LEAST = 1e-4
#: widest step aside of a circle, and how far apart circles should be, in their own radius
STEPS, CLEAR = 5.0, 1.8
#: distance of the labels of lines
APART = 0.045


@dataclass(frozen=True)
class MethodPoint:
    """A method.

    Attributes:
        number: its row in the table, from 1.
        label: how it is shown.
        method: whose points are joined by a line.
        colour: number of a colour of the groups.
        share: cost as a share of 500 trainings.
        skill: within-task correlation, with the ends of its interval where there are any.
    """

    number: int
    label: str
    method: str
    colour: int
    share: float
    skill: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ReferenceLine:
    """A reference drawn across the panel.

    Attributes:
        label: what it is.
        skill: where it is.
        place: where its label stands, apart from those of the others.
    """

    label: str
    skill: float
    place: float = 0.0


@dataclass(frozen=True)
class Panel:
    """One benchmark data set.

    Attributes:
        name: of the data set.
        points: methods that have a number.
        lines: ceiling, R1.
        left: log10 of the smallest share on the axis.
        right: of the largest.
        bottom: smallest skill on the axis; the largest is 1.
    """

    name: str
    points: tuple[MethodPoint, ...]
    lines: tuple[ReferenceLine, ...]
    left: float
    right: float
    bottom: float

    @property
    def decades(self) -> list[tuple[float, str]]:
        """Ticks of the cost axis: log10 and text."""
        found = range(math.ceil(self.left - 1e-9), math.floor(self.right + 1e-9) + 1)
        return [(float(tick), percent(10.0**tick, digits=max(0, -2 - tick))) for tick in found]

    @property
    def levels(self) -> list[tuple[float, str]]:
        """Ticks of the skill axis: where, and text."""
        first = math.ceil(round(self.bottom / 0.2, 6))
        ticks = [round(0.2 * step, 1) + 0.0 for step in range(first, 6)]
        return [(tick, decimal(tick, 1)) for tick in ticks]

    @property
    def paths(self) -> list[list[MethodPoint]]:
        """Points of each method that has several, cheapest first."""
        methods: dict[str, list[MethodPoint]] = {}
        for point in self.points:
            methods.setdefault(point.method, []).append(point)
        return [sorted(points, key=lambda p: p.share) for points in methods.values() if len(points) > 1]

    def across(self, share: float) -> float:
        """Place of a cost from left (0) to right (1)."""
        place = (math.log10(max(share, LEAST)) - self.left) / (self.right - self.left)
        return min(max(place, 0.0), 1.0)

    def aside(self, width: float, height: float, radius: float) -> list[float]:
        """How far the circle of each point steps aside, so that its number is not covered by that of an earlier one.

        Args:
            width: of the panel, in the unit of the steps.
            height: of the panel.
            radius: of a circle.
        """
        steps = sorted((0.25 * radius * n for n in range(-int(4 * STEPS), int(4 * STEPS) + 1)), key=abs)
        placed: list[tuple[float, float]] = []
        taken: list[float] = []
        for point in self.points:
            x, y = width * self.across(point.share), height * (1 - self.up(point.skill))
            free = (s for s in steps if all(math.dist((x + s, y), other) >= CLEAR * radius for other in placed))
            taken.append(next(free, 0.0))
            placed.append((x + taken[-1], y))
        return taken

    def up(self, skill: float) -> float:
        """Place of a skill from bottom (0) to top (1)."""
        return min(max((skill - self.bottom) / (1.0 - self.bottom), 0.0), 1.0)


def panel(result: Json) -> Panel:
    """The panel of a benchmark data set.

    Args:
        result: the mapping of ``benchmark.json``.
    """
    points: list[MethodPoint] = []
    for number, row in enumerate(sorted_rows(result), 1):
        pooled, cost = row.get("pooled"), row.get("cost")
        if not pooled or not cost or pooled["mean"] is None:
            continue
        known = METHODS.index(row["method"]) if row["method"] in METHODS else len(METHODS)
        points.append(
            MethodPoint(
                number,
                row["label"],
                row["method"],
                known % GROUP_COLOURS,
                float(cost["share"]),
                float(pooled["mean"]),
                pooled["low"],
                pooled["high"],
            )
        )
    names = (("noise ceiling", "ceiling"), ("R1", "one_run"), ("R1, common", "one_common_run"))
    found = [(label, result["references"][name]["mean"]) for label, name in names]
    lines = _spread([ReferenceLine(label, float(skill)) for label, skill in found if skill is not None])
    costs = [math.log10(max(point.share, LEAST)) for point in points]
    left, right = math.floor(min(costs, default=-3.0)), max(math.ceil(max(costs, default=0.0)), 0)
    lowest = min([0.0, *(p.skill if p.low is None else p.low for p in points), *(line.skill for line in lines)])
    return Panel(result["bed"]["name"], tuple(points), lines, float(left), float(right), max(lowest - 0.03, -1.0))


def _spread(lines: list[ReferenceLine]) -> tuple[ReferenceLine, ...]:
    """Labels from the highest line downwards, each below the one before."""
    room = math.inf
    placed: list[ReferenceLine] = []
    for line in sorted(lines, key=lambda line: -line.skill):
        room = min(line.skill, room - APART)
        placed.append(ReferenceLine(line.label, line.skill, room))
    return tuple(placed)
