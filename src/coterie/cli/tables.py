"""Tables for people, of results that have no page of their own. Task names are printed as they are, never as markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coterie.cli.session import one_paragraph
from coterie.report.formats import size

if TYPE_CHECKING:
    from coterie.affinity import Affinity


def _cell(value: object) -> Text:
    return Text(one_paragraph(value))


def print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]], right: int = 0) -> None:
    """A table whose columns from number `right` on are aligned to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if right and position >= right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(table)


def print_grouping(console: Console, grouping: Mapping[str, Any]) -> None:
    """Groups with the tasks that they serve, and the objective."""
    serves: Mapping[str, int] = grouping["serves"]
    rows: list[tuple[object, ...]] = []
    for index, group in enumerate(grouping["groups"]):
        helpers = [name for name in group if serves.get(name) != index]
        text = ", ".join(name for name in group if serves.get(name) == index)
        rows.append((index, len(group), text + (f" (trained along: {', '.join(helpers)})" if helpers else "")))
    print_table(console, ("group", "tasks", "serves"), rows)
    value, bound = grouping.get("objective"), grouping.get("bound")
    if value is not None:
        console.print(Text(f"objective {value:.6g}" + (f", at most {bound:.6g}" if bound is not None else "")))


def print_affinity(console: Console, affinity: Affinity, shown: int = 5) -> None:
    """The strongest helps and harms of an affinity."""
    names, values = affinity.tasks, affinity.values
    pairs = [
        (float(values[t, s]), names[s], names[t])
        for t in range(len(names))
        for s in range(len(names))
        if s != t and math.isfinite(float(values[t, s]))
    ]
    pairs.sort(key=lambda pair: -pair[0])
    chosen = pairs if len(pairs) <= 2 * shown else [*pairs[:shown], *pairs[-shown:]]
    print_table(console, ("source", "target", "affinity"), [(s, t, f"{v:+.4g}") for v, s, t in chosen], right=2)


def print_comparison(console: Console, comparison: Mapping[str, Any]) -> None:
    """Total gains of every candidate on test data, after those that left before."""
    if comparison.get("halving"):
        print_halving(console, comparison["halving"])
    rows: list[tuple[object, ...]] = []
    for candidate in comparison["candidates"]:
        total = candidate["total"]["test"]
        rows.append((candidate["name"], candidate["models"], _percent(total["mean"]), _interval(total)))
    print_table(console, ("candidate", "models", "total gain (test)", "95 % interval"), rows, right=1)
    console.print(
        Text(f"Gains are against {comparison['baseline']}, {len(comparison['seeds'])} seeds; positive is good.")
    )


def print_halving(console: Console, halving: Mapping[str, Any]) -> None:
    """Who was in each rung, how they stood on validation data, and who left."""
    rows: list[tuple[object, ...]] = []
    for number, rung in enumerate(halving["rungs"], 1):
        for place, entry in enumerate(rung["candidates"]):
            name, fate = entry["name"], "stays" if entry["stays"] else "leaves"
            gain = "best" if place == 0 else _percent(entry["gain"]["mean"])
            rows.append((number, name, fate, len(rung["seeds"]), f"{entry['loss']:.4g}", gain))
    if rows:
        columns = ("rung", "candidate", "", "seeds", "validation loss", "against the best")
        print_table(console, columns, rows, right=3)
    for name in halving["refused"]:
        console.print(_cell(f"{name} has more models than the budget allows and was not trained."))
    for name, other in halving["twins"].items():
        console.print(_cell(f"{name} has the same groups as {other} and shared its lot."))
    few = f" {len(halving['seeds'])} instead of {halving['asked']} seeds" * (len(halving["seeds"]) < halving["asked"])
    own = " seeds that no rung used" if rows and not few else ", which no rung used" if rows else ""
    final = f"; the final has{few}{own}" if few or own else ", enough for all candidates"
    console.print(_cell(f"{halving['spent']} of {halving['runs']} runs spent{final}."))


def print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """What runs where, why, and what it takes."""
    rows = [
        (
            row["stage"],
            row["what"],
            size(row.get("memory_bytes")),
            _flops(row.get("flops")),
            _seconds(row.get("seconds")),
            size(row.get("disk_bytes")),
        )
        for row in plan["rows"]
    ]
    print_table(console, ("stage", "what", "memory", "FLOPs", "time", "disk"), rows, right=2)
    for row in plan["rows"]:
        if row.get("why"):
            console.print(_cell(f"{row['stage']}: {row['why']}"))
    for note in plan.get("notes", ()):
        console.print(_cell(note))


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _percent(value: Any) -> str:
    return f"{100 * value:+.1f} %" if _known(value) else "-"


def _interval(total: Mapping[str, Any]) -> str:
    known = _known(total["low"]) and _known(total["high"])
    return f"{_percent(total['low'])} to {_percent(total['high'])}" if known else "needs 2 seeds"


def _flops(value: Any) -> str:
    return f"{value:.2g}" if _known(value) else "-"


def _seconds(value: Any) -> str:
    if not _known(value):
        return "-"
    return f"{value:.2g} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
