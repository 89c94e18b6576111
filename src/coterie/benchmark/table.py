"""The columns of the table, for console, page and Markdown alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coterie.evaluation.comparison import JOINT
from coterie.report.formats import DASH, MINUS, duration, percent, shorten

if TYPE_CHECKING:
    from rich.console import Console

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        text: the number.
        span: its interval; empty where there is none.
        sort: by which rows are ordered; -inf where there is no number.
    """

    text: str
    span: str = ""
    sort: float = -math.inf

    def __str__(self) -> str:
        return f"{self.text} ({self.span})" if self.span else self.text


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: short name, for sorting.
        title: heading.
        hint: what the number is and which direction is better.
        cell: a row of the result as a cell.
        console: whether it is shown on the console, where room is short.
    """

    key: str
    title: str
    hint: str
    cell: Callable[[Json], Cell]
    console: bool = False


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits; a dash where there is none.

    Example:
        >>> decimal(-0.126), decimal(None)
        ('−0.13', '–')
    """
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{abs(value):.{digits}f}"
    return (MINUS if value < 0 and text.strip("0.") else "") + text


def _find(row: Json, path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _interval(path: str, show: Callable[[float | None], str] = decimal) -> Callable[[Json], Cell]:
    def cell(row: Json) -> Cell:
        found = _find(row, path)
        if not isinstance(found, Mapping) or found.get("mean") is None:
            return Cell(DASH)
        low, high = found.get("low"), found.get("high")
        span = "" if low is None or high is None else f"{show(low)} to {show(high)}"
        return Cell(show(found["mean"]), span, float(found["mean"]))

    return cell


def _number(path: str, show: Callable[[float | None], str]) -> Callable[[Json], Cell]:
    def cell(row: Json) -> Cell:
        value = _find(row, path)
        return Cell(DASH) if value is None else Cell(show(value), "", float(value))

    return cell


def _whole(value: float | None) -> str:
    return percent(value, digits=0)


def _gain(value: float | None) -> str:
    return percent(value, signed=True)


#: columns of every method
COLUMNS: tuple[Column, ...] = (
    Column("pooled", "r", "within-task correlation, pooled (1 is best)", _interval("pooled"), True),
    Column("task", "by task", "mean over tasks of the correlation within each", _interval("per_task"), True),
    Column("share", "cost", "FLOPs as a share of 500 trainings", _number("cost.share", percent), True),
    Column("ceiling", "of ceiling", "r as a share of the noise ceiling", _interval("pooled_of_ceiling", _whole)),
    Column("run", "of R1", "r as a share of that of one real training", _interval("pooled_of_one_run", _whole)),
    Column("distance", "distance", "relative distance; compare with the constant's", _interval("distance", percent)),
    Column("pair", "pairs", "correlation with the true gains of pairs", _interval("pairs.correlation")),
    Column("target", "by target", "the same for each target, mean", _interval("pairs.by_target")),
    Column("tau", "tau", "Kendall's tau of the ranking of partners", _interval("pairs.kendall")),
    Column("rho", "rho", "Spearman's correlation of the ranking of partners", _interval("pairs.spearman")),
    Column("hit", "hits", "targets whose best partner has the highest score", _interval("pairs.hits", _whole), True),
    Column("loss", "partner regret", "gain lost with the top-scored partner", _interval("pairs.regret", percent)),
    Column("sign", "signs", "pairs whose gain has the predicted sign", _interval("pairs.sign", _whole)),
    Column("apart", "separation", "helpful above harmful pairs; 0.5 is chance", _interval("pairs.separation")),
    Column("inside", "in 90 %", "true values inside the 90 % interval", _interval("calibration", _whole)),
    Column("runs", "trainings", "FLOPs in trainings", _number("cost.trainings", lambda x: decimal(x, 1))),
    Column("time", "time", "on the machine of the run", _number("cost.seconds", duration)),
)


def group_columns(result: Json) -> tuple[Column, ...]:
    """Columns of what the groups of a method are worth, two for each number of groups."""
    found: list[Column] = []
    for judged in result.get("groupings", ()):
        k, rows = judged["k"], {row["name"]: row for row in judged["candidates"]}

        def of(row: Json, rows: Json = rows) -> Json:
            return rows.get(row["name"], {})

        gain, regret = _interval("gain", _gain), _number("regret", percent)
        found.append(
            Column(
                f"gain{k}",
                f"{k} groups",
                "mean gain of the trained groups against single-task training",
                lambda row, of=of, gain=gain: gain(of(row)),
                True,
            )
        )
        found.append(
            Column(
                f"regret{k}",
                f"regret, {k}",
                "gain lost against the best candidate seen",
                lambda row, of=of, regret=regret: regret(of(row)),
            )
        )
    return tuple(found)


def columns(result: Json) -> tuple[Column, ...]:
    """All columns that have a number in some row."""
    every = (*COLUMNS[:-2], *group_columns(result), *COLUMNS[-2:])
    return tuple(c for c in every if any(c.cell(row).text != DASH for row in result["entries"])) or COLUMNS[:1]


def sorted_rows(result: Json) -> list[Json]:
    """Methods, best pooled correlation first; those without a number last."""
    return sorted(result["entries"], key=lambda row: (-COLUMNS[0].cell(row).sort, row["name"]))


def failure(row: Json) -> str:
    """Why a row has no numbers, or fewer; empty where all went well."""
    if row.get("error"):
        return f"failed: {row['error']}"
    return f"left out: {row['skipped']}" if row.get("skipped") else ""


def reference_rows(result: Json) -> list[tuple[str, str]]:
    """The reference measures in words: name and number."""
    found = result["references"]

    def both(name: str) -> str:
        return f"{_interval(name)(found)}; by task {_interval(f'{name}_per_task')(found)}"

    rows = [
        ("noise ceiling", both("ceiling")),
        ("one real training of each subset (R1)", both("one_run")),
        ("R1 with common random numbers", both("one_common_run")),
        ("constant: relative distance", str(_interval("constant", percent)(found))),
        ("mean gain against single-task training", str(_interval("gain", _gain)(found))),
        ("mean size of a gain", str(_interval("size", percent)(found))),
        ("gains above 0", str(_interval("positive", _whole)(found))),
    ]
    joint: Json = {}
    for judged in result.get("groupings", ()):
        joint = next((row for row in judged["candidates"] if row["name"] == JOINT), {})
        chance = judged["random"]
        words = f"{_gain(chance['mean'])}; best of {chance['draws']} {_gain(chance['best'])}"
        rows.append((f"gain of {judged['k']} random groups", words))
    if result.get("groupings"):
        rows.append(("gain of all-in-one", str(_interval("gain", _gain)(joint))))
    return rows


def headline(result: Json) -> str:
    """What was measured, in a line."""
    where, bank = result["bed"], result["bank"]
    sizes = ", ".join(map(str, where["sizes"]))
    return (
        f"{where['name']}: {len(where['tasks'])} tasks, {bank['subsets']} subsets of {sizes} tasks, "
        f"{bank['replicates']} training{'' if bank['replicates'] == 1 else 's'} each"
    )


def print_benchmark(result: Json, console: Console) -> None:
    """Print the reference measures and the table of methods, best correlation first.

    Args:
        result: the mapping of ``benchmark.json``.
        console: where to print.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(headline(result), style="bold"))
    references = Table(box=None, show_header=False, pad_edge=False)
    for name, value in reference_rows(result):
        references.add_row(Text(name), Text(value))
    console.print(references)
    shown = [column for column in columns(result) if column.console]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold", min_width=12)
    for column in shown:
        table.add_column(column.title, justify="right", no_wrap=True)
        if column.key == "pooled":
            table.add_column("95 %", justify="left", no_wrap=True)
    troubles: list[str] = []
    for row in sorted_rows(result):
        texts: list[str] = []
        for column in shown:
            cell = column.cell(row)
            texts += [cell.text, cell.span] if column.key == "pooled" else [cell.text]
        if row.get("pooled"):
            table.add_row(Text(shorten(row["label"])), *map(Text, texts))
        if failure(row):
            troubles.append(f"{row['label']} {failure(row)}")
    console.print(table)
    for line in troubles:
        console.print(Text(line, style="yellow"))


def explain(shown: Sequence[Column]) -> list[tuple[str, str]]:
    """Heading and meaning of columns."""
    return [(column.title, column.hint) for column in shown]
