"""The page: one self-contained HTML file that needs no network and no second file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

import coterie
from coterie._files import user_path
from coterie.report import heatmap as palette
from coterie.report import tables, text
from coterie.report.data import AffinityData, Groups, Json, ReportData, parse
from coterie.report.formats import DASH, percent, plural, shorten
from coterie.report.heatmap import heatmap
from coterie.report.partners import SHOWN, page_numbers, partner_rows
from coterie.store.files import atomic_write, make_directory, reading

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def page_template(name: str, *packages: str) -> Template:
    """A template that stands in one of these packages; it may include those of the report."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    homes = [PackageLoader(package, package_path=".") for package in (*packages, "coterie.report")]
    environment = Environment(
        loader=ChoiceLoader(homes), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shorten"] = shorten
    return environment.get_template(name)


def write_own_page(path: str | Path, template: str, package: str, **facts: Any) -> Path:
    """Write the page of a room of its own: a template of its package, in the style of the report.

    Raises:
        StoreError: when it cannot be written.
    """
    filled = page_template(template, package).render(
        version=coterie.__version__,
        palette={mode: palette.css(mode) for mode in ("light", "dark")},
        palette_classes=palette.css_classes(),
        **facts,
    )
    place = user_path(path)
    make_directory(place.parent)
    atomic_write(place, filled.encode("utf-8", "backslashreplace"))
    return place


def _same(a: Groups | None, b: Groups | None) -> bool:
    """Whether two groupings train the same sets of tasks."""
    return a is None or b is None or {frozenset(g) for g in a.groups} == {frozenset(g) for g in b.groups}


def _plots(data: ReportData) -> dict[str, object]:
    tasks = tables.task_forest(data)
    everything = tables.task_forest(data, everything=True) if tasks and tasks.left_out else None
    return {
        "candidates": tables.candidate_forest(data) if data.candidates else None,
        "tasks": tasks,
        "all_tasks": everything,
        "metrics": tables.metric_rows(data),
        "heat": _heat(data),
        **_pairs(data),
    }


def _heat(data: ReportData) -> object:
    """Differences within a target with their errors, where the result has them; else the affinity as it was found."""
    shown, formula = data.affinity, data.formula
    if formula is not None:
        shown = AffinityData(formula.tasks, formula.differences, None, "gain", "", formula.errors)
    return heatmap(shown, data.found or data.served) if shown else None


def _pairs(data: ReportData) -> dict[str, object]:
    """What the page says of partners and of groups that are picked by hand."""
    formula, served = data.formula, data.served
    if formula is None:
        return {"pairs_formula": None}
    groups, serves = (served.groups, served.serves) if served else ((), {})
    return {
        "pairs_formula": formula,
        "partner_rows": partner_rows(formula),
        "partners_shown": SHOWN,
        "what_if": page_numbers(formula, groups, serves),
        "off_words": percent(float(np.median(formula.off)), digits=2),
    }


def render(result: Json) -> str:
    """The page as text.

    Args:
        result: the mapping of ``result.json``.

    Raises:
        SettingError: ``result`` is not a mapping.
        StoreError: its parts contradict each other.
    """
    data = parse(result)
    with reading("result.json", "the result of a run"):
        return _render(data)


def _render(data: ReportData) -> str:
    cards = tables.cards(data, data.served)
    other = data.found if not _same(data.found, data.served) else None
    return page_template("template.html").render(
        data=data,
        headline=text.headline(data),
        subtitle=" · ".join(
            part
            for part in (data.name, plural(len(data.tasks), "task"), data.date[:10], f"coterie {data.version or DASH}")
            if part
        ),
        figures=text.key_figures(data),
        interval=text.interval_sentence(data),
        losses=text.loss_sentence(data),
        tally=text.tally_sentence(data),
        known_groups=text.known_groups_sentence(data),
        definitions=text.definitions(data),
        cards=cards,
        shared=any(not chip.served for card in cards for chip in (*card.chips, *card.folded)),
        found_cards=tables.cards(data, other),
        costs=tables.cost_rows(data),
        cost_totals=tables.cost_totals(data),
        costs_meaning=text.costs_meaning(data),
        facts=tables.facts(data),
        environment=(("coterie", data.version or DASH), *data.environment),
        palette={mode: Markup(palette.css(mode)) for mode in ("light", "dark")},
        palette_classes=Markup(palette.css_classes()),
        group_colours=palette.GROUP_COLOURS,
        **_plots(data),
    )


def write_report(result: Json, path: Path) -> Path:
    """Write the report of a run as one HTML file, whole or not at all.

    The page opens from disk in any browser, in light and dark mode, prints, and loads nothing from anywhere. Names and
    notes are escaped; whatever a run did not produce is left out.

    Args:
        result: the mapping of ``result.json`` (``RunResult.to_dict()``).
        path: the file to write; its folder is created when it does not exist.

    Returns:
        The path written.

    Raises:
        SettingError: ``result`` is not a mapping.
        StoreError: the parts of ``result`` contradict each other, or the file cannot be written.

    Cost: a fraction of a second; a matrix of several hundred tasks makes a page of one to two megabytes.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from coterie.report import write_report
        >>> with TemporaryDirectory() as folder:
        ...     page = write_report({"recommendation": {"text": "Do not bother."}}, Path(folder) / "report.html")
        ...     "Do not bother." in page.read_text(encoding="utf-8")
        True
    """
    page = render(result)
    path = user_path(path)
    make_directory(path.parent)
    atomic_write(path, page_bytes(page))
    return path


def page_bytes(page: str) -> bytes:
    """The content of the file of a page."""
    return page.encode("utf-8", "xmlcharrefreplace")
