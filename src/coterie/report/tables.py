"""The tables of the report: costs, groups, gains. Content only; the page and the console give them their looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from coterie.report import tables as forest
from coterie.report.data import CandidateResult, Cost, Groups, ReportData, ReportedInterval
from coterie.report.formats import amount, count, duration, flops, number, percent, plural, span

#: most tasks shown at once in the plot of gains per task; with more, this many of the best and of the worst
ROWS = 60
ENDS = 20
#: most chips shown at once for a group
CHIPS = 90


@dataclass(frozen=True)
class CostRow:
    """One stage of the work in human units; ``bar`` is its part of all FLOPs, in percent."""

    stage: str
    flops: str
    seconds: str
    trainings: str
    bar: float
    sort: tuple[float, float, float]


@dataclass(frozen=True)
class Chip:
    """A task in a group. ``served`` is False where the group trains it but another model serves it."""

    name: str
    served: bool
    remark: str
    colour: int


@dataclass(frozen=True)
class Card:
    """A group, or several groups of one task each."""

    title: str
    detail: str
    colour: int
    chips: tuple[Chip, ...]
    folded: tuple[Chip, ...]


@dataclass(frozen=True)
class GainRow:
    """A row of a forest plot."""

    name: str
    tag: str
    models: str
    strip: Markup
    gain: str
    ends: str
    extra: str
    mood: str
    sort: tuple[float, float, float]


@dataclass(frozen=True)
class Forest:
    """A forest plot: the axis, its rows, and how many rows were left out after ``shown`` of them."""

    scale: Markup
    rows: tuple[GainRow, ...]
    left_out: int = 0
    cut: int = 0

    @property
    def ends(self) -> bool:
        """Whether any row has an interval."""
        return any(row.ends for row in self.rows)


def _key(value: float | None) -> float:
    return -1e308 if value is None or not math.isfinite(value) else value


def cost_rows(data: ReportData) -> tuple[CostRow, ...]:
    """One row a stage."""
    total = sum(c.flops for c in data.costs if c.flops is not None) or 1.0
    return tuple(
        CostRow(
            stage=c.stage,
            flops=flops(c.flops),
            seconds=duration(c.seconds),
            trainings=amount(c.trainings),
            bar=round(100.0 * max(c.flops or 0.0, 0.0) / total, 2),
            sort=(_key(c.flops), _key(c.seconds), _key(c.trainings)),
        )
        for c in data.costs
    )


def _total(stage: str, costs: Sequence[Cost]) -> CostRow:
    columns = ([c.flops for c in costs], [c.seconds for c in costs], [c.trainings for c in costs])
    known = [[value for value in column if value is not None] for column in columns]
    operations, seconds, part = (sum(column) if column else None for column in known)
    return CostRow(stage, flops(operations), duration(seconds), amount(part), 0.0, (0.0, 0.0, 0.0))


def cost_totals(data: ReportData) -> tuple[CostRow, ...]:
    """The sum of what estimating the affinity took, and, if there was more, of all stages."""
    estimation = [c for c in data.costs if c.estimates]
    everything = _total("all stages", data.costs)
    if len(estimation) in (0, len(data.costs)):
        return (everything,)
    return _total("estimating the affinity", estimation), everything


def _ranges(numbers: list[int]) -> str:
    """Consecutive numbers as ranges: 1, 3–5."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    shown = [str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in parts[:6]]
    return ", ".join(shown) + ("…" if len(parts) > 6 else "")


def _chips(groups: Groups, index: int, kinds: dict[str, str]) -> list[Chip]:
    chips: list[Chip] = []
    for name in groups.groups[index]:
        home = groups.serves.get(name)
        served = home is None or home == index
        remark = kinds.get(name, "") if served else f"trained here, served by model {(home or 0) + 1}"
        chips.append(Chip(name, served, remark, index))
    return chips


def cards(data: ReportData, groups: Groups | None) -> tuple[Card, ...]:
    """The groups as cards; four or more groups of a single task share one card at the end."""
    if groups is None:
        return ()
    kinds = {name: kind + (f", {classes} classes" if classes else "") for name, kind, classes in data.tasks}
    single = [i for i, g in enumerate(groups.groups) if len(g) == 1]
    single = single if len(single) >= 4 else []
    result: list[Card] = []
    for index, members in enumerate(groups.groups):
        if index in single:
            continue
        chips = _chips(groups, index, kinds)
        here = sum(chip.served for chip in chips)
        detail = plural(len(members), "task") if here == len(chips) else f"trains {len(chips)}, serves {here}"
        result.append(Card(f"Model {index + 1}", detail, index, tuple(chips[:CHIPS]), tuple(chips[CHIPS:])))
    if single:
        chips = [chip for index in single for chip in _chips(groups, index, kinds)]
        title = f"Models {_ranges([i + 1 for i in single])}"
        result.append(Card(title, "one task each", -1, tuple(chips[:CHIPS]), tuple(chips[CHIPS:])))
    return tuple(result)


def _mood(interval: ReportedInterval) -> str:
    return {1: "up", -1: "down"}.get(interval.verdict or 0, "")


def candidate_forest(data: ReportData) -> Forest:
    """Gains of the candidates on test and on validation rows."""
    shown = [c for c in data.candidates if c.name != data.baseline]
    ax = forest.axis([i for c in shown for i in (c.test, c.validation)])
    rows: list[GainRow] = []
    for c in data.candidates:
        base = c.name == data.baseline
        tag = "recommended" if c.name == data.choice else ""
        zero = ReportedInterval(0.0, None, None)
        rows.append(
            GainRow(
                name=c.name,
                tag=tag or ("yardstick" if base else ""),
                models=count(c.models),
                strip=forest.strip(zero, ax) if base else forest.strip(c.test, ax, c.validation),
                gain=percent(0.0) if base else percent(c.test.mean, signed=True),
                ends="" if base else span(c.test.low, c.test.high),
                extra="" if base else percent(c.validation.mean, signed=True),
                mood="" if base else _mood(c.test),
                sort=(_key(c.models), _key(0.0 if base else c.test.mean), _key(0.0 if base else c.validation.mean)),
            )
        )
    return Forest(forest.scale_strip(ax), tuple(rows))


@dataclass(frozen=True)
class MetricRows:
    """A metric as text: (candidate, tag, test, validation, gain), and (task, one model, detailed candidate)."""

    name: str
    words: str
    candidates: tuple[tuple[str, str, str, str, str], ...]
    tasks: tuple[tuple[str, str, str], ...]


def _valued(interval: ReportedInterval) -> str:
    """A value with its interval, in the units of the metric."""
    if interval.mean is None:
        return "–"
    ends = "" if interval.low is None else f" ({number(interval.low, 3)} to {number(interval.high, 3)})"
    return number(interval.mean, 3) + ends


def metric_rows(data: ReportData) -> tuple[MetricRows, ...]:
    """Values of each metric with their intervals: every candidate, and task by task for one model and another one."""
    found: list[MetricRows] = []
    shown = data.detailed.name if data.detailed else ""
    for metric in data.metrics:
        rows = [
            (
                c.name,
                "recommended" if c.name == data.choice else "",
                _valued(c.test),
                _valued(c.validation),
                "" if c.name == data.one_model else forest.describe(c.gain),
            )
            for c in metric.candidates
        ]
        named = {c.name: c.tasks for c in metric.candidates}
        pairs = zip(named.get(data.one_model, ()), named.get(shown, ()), strict=False)
        words = f"{'higher' if metric.higher else 'lower'} is better" + (
            "; what the choice was made by" if metric.name == data.decided_by else ""
        )
        tasks = tuple((name, _valued(one), _valued(other)) for (name, one), (_, other) in pairs)
        found.append(MetricRows(metric.name, words, tuple(rows), tasks))
    return tuple(found)


def task_forest(data: ReportData, *, everything: bool = False) -> Forest | None:
    """Gains of each task under the candidate that is shown in detail, best first.

    Args:
        data: the result.
        everything: all tasks; otherwise the best and the worst ones when there are more than `ROWS`.
    """
    shown: CandidateResult | None = data.detailed
    if shown is None or not shown.tasks:
        return None
    ax = forest.axis([t.test for t in shown.tasks])
    serves: Mapping[str, int] = data.served.serves if data.served and shown.name == data.choice else {}
    tasks = sorted(shown.tasks, key=lambda t: -_key(t.test.mean))
    left_out = 0 if everything or len(tasks) <= ROWS else len(tasks) - 2 * ENDS
    kept = tasks if not left_out else tasks[:ENDS] + tasks[-ENDS:]
    rows: list[GainRow] = []
    for t in kept:
        model = serves.get(t.name)
        rows.append(
            GainRow(
                name=t.name,
                tag="",
                models="" if model is None else str(model + 1),
                strip=forest.strip(t.test, ax),
                gain=percent(t.test.mean, signed=True),
                ends=span(t.test.low, t.test.high),
                extra=number(t.test_loss),
                mood=_mood(t.test),
                sort=(_key(model), _key(t.test.mean), _key(t.test_loss)),
            )
        )
    return Forest(forest.scale_strip(ax), tuple(rows), left_out, ENDS)


def _missing(part: float | None) -> str:
    """The share of missing labels, and of what; tasks that have different rows miss the rows of the others."""
    return percent(part) + (" of the table of examples x tasks" if part else "")


def facts(data: ReportData) -> tuple[tuple[str, str], ...]:
    """The data in a few rows."""
    kinds = [kind for _, kind, _ in data.tasks if kind]
    by_kind = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(kinds))
    rows = [("workload", data.name), ("from", data.reference)]
    rows.append(("tasks", f"{len(data.tasks):,}" + (f" ({by_kind})" if by_kind else "")))
    rows += [(f"{part} rows", count(amount)) for part, amount in data.rows]
    rows += [("labels", count(data.labels)), ("missing labels", _missing(data.missing))]
    if data.affinity:
        rows.append(("affinity", f"{data.affinity.method or 'unnamed'} ({data.affinity.kind})"))
    if data.found:
        rows.append(("grouping", data.found.method or "unnamed"))
        if data.found.objective is not None:
            bound = f", bound {number(data.found.bound, 5)}" if data.found.bound is not None else ""
            rows.append(("objective", number(data.found.objective, 5) + bound))
    rows += [("training seeds", count(data.seeds or None)), ("time in all", duration(data.seconds))]
    return tuple((name, value) for name, value in rows if value)


# The strips stand in table cells next to the numbers, drawn in percent of their width: they fit any page width, and
# the names beside them stay ordinary text.

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
