"""One self-contained HTML page for one benchmark or several, in the look of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import coterie
from coterie._files import user_path
from coterie.benchmark.markdown import overview, result_table
from coterie.benchmark.plot import Json, panel
from coterie.benchmark.table import columns, explain, failure, headline, reference_rows, sorted_rows
from coterie.errors import SettingError, StoreError
from coterie.report import heatmap as palette
from coterie.report.formats import duration, percent
from coterie.report.html import page_bytes, page_template
from coterie.store.files import atomic_write, make_directory, read_json, reading

FORMAT = 1


def read_result(path: str | Path) -> dict[str, Any]:
    """A ``benchmark.json``.

    Raises:
        StoreError: no such file, or it is something else.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("benchmark") != FORMAT:
        raise StoreError(f"{str(path)!r} is no result of `coterie benchmark`, or one of another version.")
    with reading(path, "a result of `coterie benchmark`"):  # whatever is shown of it later is tried now
        render([found])
        result_table(found)
        overview([found])
    return found


def render(results: Sequence[Json]) -> str:
    """The page as text.

    Args:
        results: mappings of ``benchmark.json``.

    Raises:
        SettingError: no results.
    """
    if not results:
        raise SettingError("Parameter `results` should hold at least one benchmark. Found none.")
    return page_template("page.html", "coterie.benchmark").render(
        sections=[_section(number, result) for number, result in enumerate(results, 1)],
        title=", ".join(str(result["bed"]["name"]) for result in results),
        version=coterie.__version__,
        palette={mode: palette.css(mode) for mode in ("light", "dark")},
        palette_classes=palette.css_classes(),
    )


def _section(number: int, result: Json) -> dict[str, Any]:
    shown = columns(result)
    rows = sorted_rows(result)
    labels = {row["name"]: row["label"] for row in rows}
    return {
        "id": f"bed{number}",
        "headline": headline(result),
        "detail": _detail(result),
        "panel": panel(result),
        "references": reference_rows(result),
        "columns": shown,
        "rows": [
            {
                "number": place,
                "label": row["label"],
                "cells": [(column, column.cell(row)) for column in shown],
                "failure": failure(row),
            }
            for place, row in enumerate(rows, 1)
        ],
        "meanings": explain(shown),
        "groupings": [_groups(judged, labels) for judged in result["groupings"]],
        "notes": [(row["label"], row["notes"]) for row in rows if row.get("notes")],
        "settings": [(name, str(value)) for name, value in result["settings"].items()],
    }


def _detail(result: Json) -> str:
    bank, where = result["bank"], result["bed"]
    parts = ", ".join(f"{count:,} {part}" for part, count in where["rows"].items())
    tuned = " Defaults of Coterie were chosen with this data at hand." if where["tuned"] else ""
    return (
        f"Truth: {bank['trainings']:,} real trainings ({duration(bank['seconds'])}). Rows: {parts}; "
        f"{percent(where['missing'], digits=0)} of the labels missing.{tuned}"
    )


def _groups(judged: Json, labels: Mapping[str, str]) -> dict[str, Any]:
    def gain(row: Json, name: str) -> str:
        found = row[name]
        ends = "" if found["low"] is None else f" ({_signed(found['low'])} to {_signed(found['high'])})"
        return _signed(found["mean"]) + ends

    rows = sorted(judged["candidates"], key=lambda row: row["regret"])
    return {
        "k": judged["k"],
        "rows": [
            {
                "label": labels.get(row["name"], row["name"]),
                "gain": gain(row, "gain"),
                "joint": gain(row, "against_joint"),
                "regret": percent(row["regret"]),
                "beaten": percent(row["beaten"], digits=0),
                "groups": "; ".join(", ".join(members) for members in row.get("groups", ())),
            }
            for row in rows
        ],
        "random": judged["random"],
        "chance": f"mean {_signed(judged['random']['mean'])}, best {_signed(judged['random']['best'])}",
    }


def _signed(value: float | None) -> str:
    return percent(value, signed=True)


def write_page(results: Sequence[Json], path: str | Path) -> Path:
    """Write the page, whole or not at all. It loads nothing from anywhere.

    Args:
        results: mappings of ``benchmark.json``, one a data set.
        path: the file; its folder is created when it does not exist.

    Raises:
        SettingError: no results.
        StoreError: the file cannot be written.
    """
    page, path = render(results), user_path(path)
    make_directory(path.parent)
    atomic_write(path, page_bytes(page))
    return path
