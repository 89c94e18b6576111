"""The tables of docs/benchmark.md, printed from results so that no number is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie._files import user_path
from coterie.benchmark.table import columns, decimal, failure, reference_rows, sorted_rows
from coterie.errors import StoreError
from coterie.report.formats import DASH, percent
from coterie.store.files import atomic_write, read_bytes, reading

Json = Mapping[str, Any]
OVERVIEW = "overview"
#: columns that would make a Markdown table too wide
_LEFT_OUT = ("rho", "sign", "loss", "run")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\u00a0", " ") for cell in cells) + " |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_row(head), "|---" * len(head) + "|", *map(_row, rows)]
    return "\n".join(lines)


def result_table(result: Json) -> str:
    """Reference measures and methods of one data set, best correlation first.

    Args:
        result: the mapping of ``benchmark.json``.
    """
    shown = [column for column in columns(result) if column.key not in _LEFT_OUT]
    rows: list[list[str]] = []
    troubles: list[str] = []
    for row in sorted_rows(result):
        cells = [column.cell(row) for column in shown]
        texts = [str(cell) if column.key == "pooled" else cell.text for column, cell in zip(shown, cells, strict=True)]
        if any(text != DASH for text in texts):
            rows.append([row["label"], *texts])
        if failure(row):
            troubles.append(f"{row['label']} {failure(row)}.")
    parts = [
        _table(("held against", ""), reference_rows(result)),
        _table(("method", *(column.title for column in shown)), rows),
        *troubles,
    ]
    return "\n\n".join(parts)


def overview(results: Sequence[Json]) -> str:
    """Pooled correlation of every method on every data set, with the cost as a share of 500 trainings in brackets."""
    labels = {row["name"]: row["label"] for result in results for row in result["entries"]}
    head = ["", *(str(result["bed"]["name"]) for result in results), "mean", "mean by task"]
    names = (
        ("noise ceiling", "ceiling"),
        ("R1", "one_run"),
        ("R1, common random numbers", "one_common_run"),
    )
    rows: list[list[str]] = []
    for label, name in names:
        known = [result["references"] for result in results]
        cells = [decimal(of[name]["mean"]) for of in known]
        rows.append([label, *cells, _mean([of[name] for of in known]), _mean([of[f"{name}_per_task"] for of in known])])
    for name, label in labels.items():
        found = [next((row for row in result["entries"] if row["name"] == name), {}) for result in results]
        cells = [
            f"{decimal(row['pooled']['mean'])} ({percent(row['cost']['share'])})" if row.get("pooled") else DASH
            for row in found
        ]
        rows.append(
            [label, *cells, _mean([row.get("pooled") for row in found]), _mean([row.get("per_task") for row in found])]
        )
    return _table(head, rows)


def _mean(figures: Sequence[Json | None]) -> str:
    """Mean over data sets; a dash where one is missing, as means over different ones cannot be compared."""
    if any(figure is None for figure in figures):
        return DASH
    return decimal(sum(figure["mean"] for figure in figures if figure is not None) / len(figures))


def fill(text: str, results: Sequence[Json]) -> str:
    """Put tables between their markers, ``<!-- benchmark: NAME -->`` and ``<!-- end -->``.

    NAME is that of a data set or ``overview``; tables of data sets without a result stay as they are.

    Args:
        text: the page.
        results: mappings of ``benchmark.json``.

    Example:
        >>> fill("a <!-- benchmark: nothing --> old <!-- end --> b", [])
        'a <!-- benchmark: nothing --> old <!-- end --> b'
    """
    tables = {str(result["bed"]["name"]): result_table(result) for result in results}
    if results:
        tables[OVERVIEW] = overview(results)

    def put(found: re.Match[str]) -> str:
        new = tables.get(found[2])
        return found[0] if new is None else f"{found[1]}\n\n{new}\n\n{found[3]}"

    return re.sub(r"(<!-- benchmark: (.*?) -->).*?(<!-- end -->)", put, text, flags=re.DOTALL)


def fill_page(path: str | Path, results: Sequence[Json]) -> bool:
    """Rewrite a page; says whether it changed.

    Raises:
        StoreError: there is no such page, or it has no marker.
    """
    path = user_path(path)
    with reading(path, "a page of text in UTF-8"):
        old = read_bytes(path).decode("utf-8")
    if "<!-- benchmark: " not in old:
        raise StoreError(f"{str(path)!r} has no marker `<!-- benchmark: NAME -->` to put a table behind.")
    new = fill(old, results)
    if new != old:
        atomic_write(path, new.encode("utf-8"))
    return new != old
