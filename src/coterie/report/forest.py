"""Forest plots: one strip of SVG a row, a common axis, gains with their intervals.

The strips stand in table cells next to the numbers, drawn in percent of their width: they fit any page width, and
the names beside them stay ordinary text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from coterie.report.data import ReportedInterval
from coterie.report.formats import percent, span

_VERDICTS = {1: "up", -1: "down", 0: "level", None: "level"}


@dataclass(frozen=True)
class Axis:
    """The common range of a forest plot and its ticks, as gains."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, gain: float) -> float:
        """Position of a gain in percent of the strip's width, held inside the strip."""
        return min(max(100.0 * (gain - self.low) / (self.high - self.low), 1.0), 99.0)

    def inside(self, gain: float) -> bool:
        """Whether the axis reaches this far."""
        return self.low <= gain <= self.high


def nice_step(low: float, high: float, about: int = 4) -> float:
    """1, 2 or 5 times a power of ten that cuts a range into about so many parts; 1 when the range is empty.

    >>> nice_step(-0.03, 0.05)
    0.02
    """
    rough = (high - low) / about or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def nice_ticks(low: float, high: float, about: int = 4) -> tuple[float, ...]:
    """Round numbers between two ends; 0 is one of them when it lies between.

    >>> nice_ticks(-0.03, 0.05)
    (-0.02, 0.0, 0.02, 0.04)
    """
    step = nice_step(low, high, about)
    # an end that is a tick stays one whatever rounding did to it
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) + 0.0 for i in range(first, last + 1))


def axis(intervals: Sequence[ReportedInterval]) -> Axis:
    """A common axis.

    From five rows on, single extreme ones run out of it (drawn as an arrow or an open line) so that the rest stays
    readable.
    """
    means = [i.mean for i in intervals if i.mean is not None]
    if not means:
        return Axis(-0.01, 0.01, (0.0,))
    lows = [i.low for i in intervals if i.low is not None] or means
    highs = [i.high for i in intervals if i.high is not None] or means
    low, high = min(*lows, *means), max(*highs, *means)
    if len(means) >= 5:
        first, third = (float(q) for q in np.quantile(means, [0.25, 0.75]))
        reach = 4.0 * max(third - first, 0.005)
        low, high = max(low, first - reach), min(high, third + reach)
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-4:
        low, high = low - 0.005, high + 0.005
    pad = 0.07 * (high - low)
    return Axis(low - pad, high + pad, nice_ticks(low - pad / 2, high + pad / 2))


def describe(interval: ReportedInterval) -> str:
    r"""An interval as a phrase.

    >>> describe(ReportedInterval(0.02, 0.01, 0.03)).replace("\u00a0", " ")
    '+2.0 % (+1.0 to +3.0)'
    """
    ends = span(interval.low, interval.high)
    return percent(interval.mean, signed=True) + (f" ({ends})" if ends else "")


def _mark(interval: ReportedInterval, ax: Axis, y: float, kind: str) -> str:
    if interval.mean is None:
        return ""
    mark = ""
    if interval.low is not None and interval.high is not None:
        a, b = ax.place(interval.low), ax.place(interval.high)
        mark += f'<line class="whisker" x1="{a:.2f}%" x2="{b:.2f}%" y1="{y}" y2="{y}"/>'
        for end, at in ((interval.low, a), (interval.high, b)):
            if ax.inside(end):
                mark += f'<line class="whisker" x1="{at:.2f}%" x2="{at:.2f}%" y1="{y - 3}" y2="{y + 3}"/>'
    at = ax.place(interval.mean)
    if ax.inside(interval.mean):
        mark += f'<circle cx="{at:.2f}%" cy="{y}" r="{4 if kind == "test" else 3}"/>'
    else:  # an arrow at the edge; a nested svg moves it to a place given in percent
        shape = "M0 -5 L-8 0 L0 5Z" if interval.mean < ax.low else "M0 -5 L8 0 L0 5Z"
        shift = 7 if interval.mean < ax.low else -7
        mark += (
            f'<svg x="{at:.2f}%" y="{y}" overflow="visible"><path transform="translate({shift} 0)" d="{shape}"/></svg>'
        )
    return f'<g class="{kind} {_VERDICTS[interval.verdict]}">{mark}</g>'


def strip(test: ReportedInterval, ax: Axis, validation: ReportedInterval | None = None) -> Markup:
    """One row of the plot: the test interval, and below it, smaller, the one on validation rows."""
    height = 22 if validation is None else 30
    grid = "".join(
        f'<line class="{"zero" if tick == 0 else "grid"}" x1="{ax.place(tick):.2f}%" x2="{ax.place(tick):.2f}%" '
        f'y1="0" y2="{height}"/>'
        for tick in ax.ticks
    )
    words = f"test: {describe(test)}" + ("" if validation is None else f"; validation: {describe(validation)}")
    marks = _mark(test, ax, 11, "test") + ("" if validation is None else _mark(validation, ax, 23, "validation"))
    return Markup(
        f'<svg class="strip" width="100%" height="{height}" role="img" aria-label="{words}"><title>{words}</title>'
        f"{grid}{marks}</svg>"
    )


def scale_strip(ax: Axis) -> Markup:
    """The ticks of the axis, to stand above the strips."""
    step = min((b - a for a, b in zip(ax.ticks, ax.ticks[1:], strict=False)), default=1.0)
    digits = 0 if step >= 0.01 - 1e-9 else 1 if step >= 0.001 - 1e-9 else 2
    words = "".join(
        f'<text x="{ax.place(tick):.2f}%" y="11" text-anchor="middle">'
        f"{percent(tick, signed=True, digits=digits, unit=tick == 0)}</text>"
        for tick in ax.ticks
        if 4 <= ax.place(tick) <= 96
    )
    return Markup(f'<svg class="scale" width="100%" height="15" aria-hidden="true">{words}</svg>')
