"""A plane with ticks, for the plots of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.report.tables import nice_step, nice_ticks

#: parts that ticks cut an axis into
_ABOUT = 5


@dataclass(frozen=True)
class Plane:
    """Where numbers lie in a plot.

    Attributes:
        left: number at the left edge.
        right: at the right edge.
        bottom: at the lower edge.
        top: at the upper edge.

    Example:
        >>> plane = Plane.over([0, 10], [0, 0.93])
        >>> plane.across(5), plane.top, [words for _, words in plane.ticks_y]
        (0.5, 1.0, ['0', '0.2', '0.4', '0.6', '0.8', '1'])
    """

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def over(cls, x: Sequence[float], y: Sequence[float]) -> Plane:
        """The plane that holds all finite numbers; its upper and lower edges are ticks."""
        xs, ys = ([v for v in values if math.isfinite(v)] or [0.0] for values in (x, y))
        left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
        step = nice_step(bottom, top, _ABOUT)
        bottom, top = math.floor(bottom / step + 1e-9) * step, math.ceil(top / step - 1e-9) * step
        return cls(left, right if right > left else left + 1.0, bottom, top if top > bottom else bottom + step)

    def across(self, x: float) -> float:
        """From left (0) to right (1)."""
        return (x - self.left) / (self.right - self.left)

    def up(self, y: float) -> float:
        """From bottom (0) to top (1)."""
        return (y - self.bottom) / (self.top - self.bottom)

    @property
    def ticks_x(self) -> list[tuple[float, str]]:
        """Ticks of the horizontal axis: number, and text."""
        return _ticks(self.left, self.right)

    @property
    def ticks_y(self) -> list[tuple[float, str]]:
        """Ticks of the vertical axis."""
        return _ticks(self.bottom, self.top)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    return [(value, f"{value:g}".replace("-", "−")) for value in nice_ticks(low, high, _ABOUT)]
