"""The result in a notebook: the recommendation, and the tables of the page without its plots."""

from __future__ import annotations

from html import escape

from coterie._show import html_table
from coterie.report import tables, text
from coterie.report.data import Json, parse
from coterie.report.formats import clean, shorten

#: models and tasks of a model that are written out
_MODELS, _NAMES = 20, 20


def as_html(result: Json, report: object = None) -> str:
    """The result as HTML for ``_repr_html_``; every text is escaped.

    Args:
        result: the mapping of ``result.json``.
        report: path of the page, where there is one.

    Raises:
        SettingError, StoreError: when it is no result.

    Example:
        >>> as_html({"recommendation": {"text": "Train <all> tasks together."}})
        '<p><strong>Train &lt;all&gt; tasks together.</strong></p>'
    """
    data = parse(result)
    parts = [f"<p><strong>{escape(text.headline(data))}</strong></p>"]
    if data.reason and data.reason != data.text:
        parts.append(f"<p>{escape(data.reason)}</p>")
    if data.candidates:
        rows = [
            (row.name, row.tag, row.models, row.gain, row.ends, row.extra) for row in tables.candidate_forest(data).rows
        ]
        head = ("candidate", "", "models", "gain on test rows", "interval", "on validation rows")
        caption = f"Gain against {data.baseline} training; {text.interval_name(data)}."
        parts.append(html_table(head, rows, caption, left=2))
    if data.served:
        groups = data.served.groups
        rows = [
            (number, ", ".join(map(shorten, members[:_NAMES])) + ", …" * (len(members) > _NAMES), len(members))
            for number, members in enumerate(groups[:_MODELS], 1)
        ]
        more = f"{len(groups) - _MODELS} more models." if len(groups) > _MODELS else ""
        parts.append(html_table(("model", "trained on", "tasks"), rows, more, left=2))
    if data.costs:
        rows = [
            (r.stage, r.flops, r.seconds, r.trainings) for r in (*tables.cost_rows(data), *tables.cost_totals(data))
        ]
        parts.append(html_table(("stage", "FLOPs", "time", "trainings"), rows, text.costs_meaning(data)))
    parts += [f"<p>Warning: {escape(warning)}</p>" for warning in data.warnings]
    if report is not None:
        parts.append(f"<p>Page: <code>{escape(clean(report))}</code></p>")
    return "".join(parts)
