"""Runs that were made before: tables of ratios and metrics, and what lm-evaluation-harness writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from coterie._check import is_number
from coterie._json import read_json
from coterie.errors import SettingError
from coterie.study.mixtures.settings import MixtureSettings
from coterie.study.results import Floats
from coterie.study.table import read_cells, read_number

#: columns of the two tables that name a run, and of the ratios that say more of it
LABELS, MORE = ("run", "name", "index", ""), ("seed", "cost", "variant")
#: metrics of the harness that are taken when none is named, best first
PREFERRED = (
    "acc_norm", "acc", "exact_match", "f1", "pass@1", "bleu", "rouge1", "word_perplexity", "perplexity",
    "bits_per_byte",
)  # fmt: skip
#: what stands between the name of a metric of the harness and that of its filter
_FILTER = ","


def read_mixture_tables(
    ratios: Any, metrics: Any, settings: MixtureSettings
) -> list[tuple[Floats, dict[str, tuple[float, float]], dict[str, str]]]:
    """The runs of two tables with a row a run each: shares, losses, and `seed`, `cost` and `variant` as texts.

    Rows belong together by the first of the columns run, name, index that both tables have, or by their order.

    Args:
        ratios: a data frame or the path of a CSV file with a column a source; one that is missing has no share.
        metrics: the same with a column a target; empty where it was not measured.
        settings: of the study.

    Raises:
        SettingError: columns that are nothing, cells that are no numbers, rows that do not belong together.
    """
    left, right = _table(ratios, (*settings.tasks, *MORE), "ratios"), _table(metrics, settings.measured, "metrics")
    shared = [name for name in LABELS if name and name in left[0] and name in right[0]]
    if shared:
        right_rows = _keyed(right, shared[0])
        left_keys = list(_keyed(left, shared[0]))
        missing = [key for key in left_keys if key not in right_rows]
        if missing or len(right_rows) != len(left_keys):
            raise SettingError(
                f"The tables of ratios and metrics do not name the same runs in the column {shared[0]!r}: "
                f"{missing[:3] or sorted(set(right_rows) - set(left_keys))[:3]} stand in one of them only. Nothing was "
                "added."
            )
        pairs = [(row, right_rows[key]) for row, key in zip(left[1], left_keys, strict=True)]
    elif len(left[1]) == len(right[1]):
        pairs = list(zip(left[1], right[1], strict=True))
    else:
        raise SettingError(
            f"The table of ratios has {len(left[1])} rows and that of metrics {len(right[1])}. Each run needs one in "
            "both, in the same order or with a column run, name or index. Nothing was added."
        )
    return [_run(number, one, other, settings) for number, (one, other) in enumerate(pairs, start=1)]


Rows = tuple[list[str], list[dict[str, str]]]


def _table(table: Any, known: Sequence[str], what: str) -> Rows:
    """Columns and rows of a table whose columns are known."""
    columns, rows, where = read_cells(table)
    odd = [name for name in columns if name not in known and name not in LABELS and not name.startswith("Unnamed")]
    if odd or not set(columns) & set(known):
        raise SettingError(
            f"{where} of {what} has {f'unknown columns {odd[:5]}' if odd else 'no column that is known'}. Each should "
            f"be one of {', '.join(map(repr, known[:8]))}{', ...' if len(known) > 8 else ''}, or "
            f"{', '.join(filter(None, LABELS))}. Ratios and metrics in the other order are a likely cause. Nothing was "
            "added."
        )
    return columns, [dict(zip(columns, cells, strict=True)) for _, cells in rows]


def _keyed(table: Rows, column: str) -> dict[str, dict[str, str]]:
    """Rows by what names them."""
    found: dict[str, dict[str, str]] = {}
    for row in table[1]:
        if row[column] in found:
            raise SettingError(f"The column {column!r} names {row[column]!r} twice. Nothing was added.")
        found[row[column]] = row
    return found


def _run(
    number: int, ratios: Mapping[str, str], metrics: Mapping[str, str], settings: MixtureSettings
) -> tuple[Floats, dict[str, tuple[float, float]], dict[str, str]]:
    """One run of two tables."""
    mixture: dict[str, float] = {}
    losses: dict[str, tuple[float, float]] = {}
    try:
        for name in settings.tasks:
            mixture[name] = read_number(ratios[name])[0] if ratios.get(name) else 0.0
        for name in settings.measured:
            if metrics.get(name):
                losses[name] = read_number(metrics[name])
    except ValueError as error:
        raise SettingError(f"Row {number} of the tables: {error}. Nothing was added.") from None
    try:
        shares = settings.shares(mixture, "ratios")
    except SettingError as error:
        raise SettingError(f"Row {number} of the tables: {error} Nothing was added.") from error
    return shares, losses, {name: ratios.get(name, "") for name in MORE}


def number_in(more: Mapping[str, str], column: str) -> float | None:
    """The number in a column of a row; None where the cell is empty or NaN, as pandas writes what is missing.

    Raises:
        SettingError: for anything else, with the name of the column.
    """
    if more[column].lower() in ("", "nan"):
        return None
    try:
        return read_number(more[column])[0]
    except ValueError as error:
        raise SettingError(f"The column {column!r} should hold numbers: {error}.") from None


def read_harness(path: Any, settings: MixtureSettings) -> dict[str, tuple[float, float]]:
    """Target -> (score, standard error) of a file of results that lm-evaluation-harness wrote.

    A target is a task or a group of the harness, such as ``"hellaswag"``, or with a metric behind a colon,
    ``"gsm8k:exact_match"`` or ``"gsm8k:exact_match,strict-match"``. Without one, the metric of the study is taken, or
    the first there is of acc_norm, acc, exact_match, f1, ... Targets that the file lacks are left out.

    Args:
        path: of the JSON file; its newest in a folder of them.
        settings: of the study.

    Raises:
        SettingError: a file that is no such one, or has no target of the study; a metric that there is not.
        StoreError: a file that cannot be read.
    """
    where = Path(path)
    if where.is_dir():
        files = sorted(where.rglob("results*.json"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise SettingError(f"The folder {str(where)!r} has no results*.json of lm-evaluation-harness.")
        where = files[-1]
    data: Any = read_json(where)
    told = data.get("results") if isinstance(data, Mapping) else None
    if not isinstance(told, Mapping):
        raise SettingError(
            f"{str(where)!r} holds no results of lm-evaluation-harness: it should have the key 'results' with one "
            "mapping a task. Samples, or the results of another program, are a likely cause."
        )
    tasks: dict[str, Any] = {**cast("Mapping[str, Any]", data.get("groups") or {}), **told}
    found: dict[str, tuple[float, float]] = {}
    for target in settings.measured:
        task, metric = (target, "") if target in tasks else _apart(target, tasks)
        if task in tasks:
            found[target] = _score(tasks[task], metric or settings.metric, target, str(where))
    if not found:
        raise SettingError(
            f"{str(where)!r} has none of the targets of the study. It has {sorted(tasks)[:8]}; targets are "
            f"{list(settings.measured)!r:.80}. Name targets as the harness names its tasks."
        )
    return found


def _apart(target: str, tasks: Mapping[str, Any]) -> tuple[str, str]:
    """Task and metric of a target; the last colon stands between them, names of tasks may have others."""
    task, _, metric = target.rpartition(":")
    return (task, metric) if task in tasks else (target, "")


def _score(entry: Mapping[str, Any], metric: str, target: str, where: str) -> tuple[float, float]:
    """A number of an entry such as ``{"acc,none": 0.5, "acc_stderr,none": 0.01, "alias": "x"}``."""
    numbers = {
        key: float(value)
        for key, value in entry.items()
        if is_number(value) and math.isfinite(value) and "_stderr" not in key and key not in ("samples", "sample_len")
    }
    names = (metric,) if metric else PREFERRED
    for name in names:
        for key, value in numbers.items():
            if key == name or key.partition(_FILTER)[0] == name:
                plain, mark, kept = key.partition(_FILTER)
                error: Any = entry.get(f"{plain}_stderr{mark}{kept}")
                good = is_number(error) and math.isfinite(error) and error >= 0
                return value, float(error) if good else 0.0
    example = f"{target.split(':')[0]}:{next(iter(numbers), 'acc')}"
    raise SettingError(
        f"{where!r} has no {metric or 'metric that is known'!r} for {target!r}. It has {sorted(numbers)[:8]}. Name "
        f"one: a target such as {example!r}, or create_study(metric=...)."
    )


def losses_by_target(losses: Any, settings: MixtureSettings) -> Any:
    """What a run may be told with, as a mapping: a file of the harness, one number a target, or what it is."""
    if isinstance(losses, str | Path):
        return read_harness(losses, settings)
    if hasattr(losses, "detach"):
        losses = losses.detach().cpu().numpy()
    if isinstance(losses, np.ndarray | list | tuple) and len(cast("Sequence[Any]", losses)) == len(settings.measured):
        return dict(zip(settings.measured, cast("Sequence[Any]", losses), strict=True))
    return losses
