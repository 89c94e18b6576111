"""The result on the console, for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from coterie.report import tables, text
from coterie.report.data import Json, ReportData, parse
from coterie.report.formats import clean, plural, shorten

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STYLES = {"up": "blue", "down": "dark_orange", "": ""}
_NAMES = 24


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def _groups(data: ReportData) -> Table | None:
    from rich.text import Text

    if data.served is None:
        return None
    cards = tables.cards(data, data.served)
    away = any(not chip.served for card in cards for chip in (*card.chips, *card.folded))
    table = _table("Groups", ">model", ">tasks", "names" + " (in brackets: served by another model)" * away)
    for index, members in enumerate(data.served.groups[:_NAMES]):
        names = [(shorten(n), data.served.serves.get(n, index) == index) for n in members[:_NAMES]]
        more = f" … and {len(members) - _NAMES} more" if len(members) > _NAMES else ""
        table.add_row(
            str(index + 1), str(len(members)), Text(", ".join(n if here else f"({n})" for n, here in names) + more)
        )
    if len(data.served.groups) > _NAMES:
        table.add_row("", "", f"… and {plural(len(data.served.groups) - _NAMES, 'more model')}")
    return table


def _gains(data: ReportData) -> Table | None:
    from rich.text import Text

    if not data.candidates:
        return None
    title = f"Gain against {data.baseline} training ({text.interval_name(data)})"
    table = _table(title, "candidate", ">models", ">test", "interval", ">validation", "")
    for row in tables.candidate_forest(data).rows:
        bold = "bold " if row.tag == "recommended" else ""
        gain = Text(row.gain, style=(bold + _STYLES[row.mood]).strip())
        table.add_row(Text(row.name, style=bold.strip()), row.models, gain, row.ends, row.extra, row.tag)
    return table


def _metrics(data: ReportData) -> Table | None:
    from rich.text import Text

    if not data.metrics:
        return None
    found = _table("Metrics on test data (95 % interval)", "metric", "candidate", "value", "gain against one model", "")
    for metric in tables.metric_rows(data):
        for candidate, tag, test, _, gain in metric.candidates:
            found.add_row(Text(metric.name), Text(candidate), test, gain, tag)
    return found


def _costs(data: ReportData) -> Table | None:
    from rich.text import Text

    if not data.costs:
        return None
    table = _table(f"Cost. {text.costs_meaning(data)}", "stage", ">FLOPs", ">time", ">trainings")
    for row in (*tables.cost_rows(data), *tables.cost_totals(data)):
        table.add_row(Text(row.stage), row.flops, row.seconds, row.trainings)
    return table


def print_summary(result: Json, console: Console, *, paths: Mapping[str, object] | None = None) -> None:
    """Print a result: the recommendation, key figures, groups, gains, costs, warnings, paths.

    Args:
        result: the mapping of ``result.json``.
        console: where to print.
        paths: what was written where, for example ``{"report": "run/report.html"}``; printed last.

    Raises:
        SettingError: ``result`` is not a mapping.
        StoreError: its parts contradict each other.

    Example:
        >>> from rich.console import Console
        >>> from coterie.report import print_summary
        >>> result = {"recommendation": {"text": "Train all tasks together."}}
        >>> print_summary(result, Console(width=60))  # doctest: +ELLIPSIS
        Train all tasks together.
        ...
    """
    from rich.text import Text

    data = parse(result)
    console.print(Text(text.headline(data), style="bold"))
    if data.reason and data.reason != data.text:
        console.print(Text(data.reason))
    console.print()
    for figure in text.key_figures(data):
        line = Text(f"{figure.label:<24}")
        line.append(f"{figure.value:>10}", style=("bold " + _STYLES[figure.mood]).strip())
        console.print(line.append(f"   {figure.detail}"), soft_wrap=True)
    console.print()
    for table in (_groups(data), _gains(data), _metrics(data), _costs(data)):
        if table is not None:
            console.print(table)
    if sentence := text.tally_sentence(data):
        console.print(Text(f"{data.detailed.name if data.detailed else ''}: {sentence}"))
    for warning in data.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    width = max((len(str(k)) for k in paths or {}), default=0)
    for name, path in (paths or {}).items():
        console.print(Text(f"{clean(name):<{width}}  {clean(path)}"), soft_wrap=True)
