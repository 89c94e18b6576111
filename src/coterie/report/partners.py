"""What a run says of pairs of tasks: who helps whom, who harms whom, how sure that is, and what a picked group gains.

All of it comes from the formula that stands in the result (:class:`coterie.affinity.formula.GainFormula`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.formula import GainFormula
from coterie.errors import StoreError
from coterie.report.formats import clean, percent, shorten

Floats = NDArray[np.float64]
#: standard errors from which a difference is called sure; 1.96 would leave it to chance in one of twenty
SURE = 1.96
#: and from which it is worth a name at all
LIKELY = 1.0
#: larger numbers are no gains, and products of them overflow
MOST = 1e100
#: partners that are named on each side
NAMED = 4
#: rows that are shown before the others are folded
SHOWN = 20


@dataclass(frozen=True)
class Partner:
    """A partner of a target: its name, the difference it makes, how sure that is, and the direction as a class."""

    name: str
    words: str
    sure: str
    mood: str


@dataclass(frozen=True)
class PartnerRow:
    """A target with its level and with who helps and who hurts it; `unclear` counts the others."""

    name: str
    level: str
    band: str
    helps: tuple[Partner, ...]
    hurts: tuple[Partner, ...]
    unclear: str


def _array(value: object, shape: tuple[int, ...], what: str) -> Floats:
    try:
        found = np.array(value, dtype=object)
        numbers = np.array([math.nan if v is None else float(v) for v in found.ravel()]).reshape(shape)
        numbers[np.abs(numbers) > MOST] = math.nan
    except (TypeError, ValueError):
        raise StoreError(
            f"result: formula.{what} should be numbers of shape {shape}. The result was probably edited or cut short; "
            "write it again with `coterie run`."
        ) from None
    return numbers


def parse_formula(value: object) -> GainFormula | None:
    """The formula of a result; None where there is none.

    Raises:
        StoreError: its parts contradict each other.
    """
    entry = cast("Mapping[str, Any]", value if isinstance(value, Mapping) else {})
    tasks = tuple(clean(name) for name in entry.get("tasks") or ())
    n = len(tasks)
    if n < 2:
        return None
    shapes = {"effects": (n, n), "errors": (n, n), "level": (n,), "slope": (n,), "doubt": (n, n + 2), "off": (n,)}
    parts = {name: _array(entry.get(name), shape, name) for name, shape in shapes.items()}
    power, size = shape = _array([entry.get("power"), entry.get("size")], (2,), "power and size")
    if not all(np.isfinite(part).all() for part in (shape, *(parts[k] for k in ("effects", "level", "slope", "off")))):
        raise StoreError(
            "result: formula has missing numbers. It was probably edited or cut short; "
            "write it again with `coterie run`."
        )
    return GainFormula(tasks, **parts, power=float(power), size=max(2, int(size)))


def _partner(formula: GainFormula, target: int, source: int) -> Partner:
    difference, error = formula.differences[target, source], formula.errors[target, source]
    sure = "sure" if abs(difference) > SURE * error else "likely" if math.isfinite(error) else ""
    words = percent(difference, signed=True) + (f" ± {percent(error, unit=False)}" if math.isfinite(error) else "")
    return Partner(formula.tasks[source], words, sure, "up" if difference > 0 else "down")


def partner_rows(formula: GainFormula) -> tuple[PartnerRow, ...]:
    """A row a target."""
    differences, rows = formula.differences, list[PartnerRow]()
    for target, name in enumerate(formula.tasks):
        order = [source for source in np.argsort(-np.nan_to_num(differences[target])) if source != target]
        errors = np.nan_to_num(formula.errors[target], nan=0.0)
        helps = [s for s in order if differences[target, s] > LIKELY * errors[s]]
        hurts = [s for s in reversed(order) if differences[target, s] < -LIKELY * errors[s]]
        more = len(order) - len(helps[:NAMED]) - len(hurts[:NAMED])
        error = formula.level_errors[target]
        band = f"± {percent(1.96 * error, unit=False)}" if math.isfinite(error) else ""
        rows.append(
            PartnerRow(
                name, percent(formula.levels[target], signed=True), band,
                tuple(_partner(formula, target, s) for s in helps[:NAMED]),
                tuple(_partner(formula, target, s) for s in hurts[:NAMED]),
                f"{more} more" if more else "",
            )
        )  # fmt: skip
    return tuple(rows)


def page_numbers(formula: GainFormula, groups: Sequence[Sequence[str]], serves: Mapping[str, int]) -> dict[str, Any]:
    """What the page's script evaluates; `groups` are served."""
    number = {task: i for i, task in enumerate(formula.tasks)}
    known = bool(np.isfinite(formula.doubt).all())
    return {
        "names": [shorten(name, 60) for name in formula.tasks],
        "effects": _short(formula.effects), "level": _short(formula.level), "slope": _short(formula.slope),
        "doubt": _short(formula.doubt) if known else None, "off": _short(formula.off),
        "power": formula.power, "size": formula.size,
        "groups": [[number[task] for task in group if task in number] for group in groups],
        "serves": [serves.get(task, -1) for task in formula.tasks],
    }  # fmt: skip


def _short(values: Floats) -> Any:
    """Numbers with five digits, which is more than they are good for."""
    return [_short(row) for row in values] if values.ndim > 1 else [float(f"{value:.5g}") for value in values]
