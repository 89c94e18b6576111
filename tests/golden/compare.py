"""What differs between what was kept and what was found, in words; numbers may differ by rounding."""

from __future__ import annotations

import re
from typing import Any

#: how far numbers may be apart: as a share of the largest of their row, and at all
SHARE, LEAST = 1e-3, 1e-4
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def differences(kept: Any, found: Any, at: str = "") -> list[str]:
    """One line for each place that differs."""
    if isinstance(kept, dict) and isinstance(found, dict):
        lines = [f"{at}/{key}: gone" for key in kept if key not in found]
        lines += [f"{at}/{key}: new, {_brief(found[key])}" for key in found if key not in kept]
        return lines + [
            line for key in kept if key in found for line in differences(kept[key], found[key], f"{at}/{key}")
        ]
    if isinstance(kept, list) and isinstance(found, list):
        return _lists(kept, found, at)
    if _is_number(kept) and _is_number(found):
        return [] if _near(kept, found, max(abs(kept), abs(found))) else [_line(at, kept, found)]
    if isinstance(kept, str) and isinstance(found, str):
        return [] if _same_text(kept, found) else [_line(at, kept, found)]
    return [] if type(kept) is type(found) and kept == found else [_line(at, kept, found)]


def _lists(kept: list[Any], found: list[Any], at: str) -> list[str]:
    if at.endswith(("/console", "/group", "/group with a budget")):
        kept, found = " ".join(kept).split(), " ".join(found).split()  # where lines break does not count
    lines = [f"{at}: {len(kept)} entries were kept and {len(found)} found"] if len(kept) != len(found) else []
    numbers = [abs(value) for value in (*kept, *found) if _is_number(value)]
    scale = max(numbers, default=0.0)
    for place, (old, new) in enumerate(zip(kept, found, strict=False)):
        if _is_number(old) and _is_number(new):
            lines += [] if _near(old, new, scale) else [_line(f"{at}/{place}", old, new)]
        else:
            lines += differences(old, new, f"{at}/{_name(old, place)}")
    return lines


def _name(entry: Any, place: int) -> str:
    """An entry by its name where it has one."""
    named = entry if isinstance(entry, dict) else {}
    return f"{place} {named.get('name') or named.get('stage') or ''}".strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _near(kept: float, found: float, scale: float) -> bool:
    if isinstance(kept, int) or isinstance(found, int):
        return type(kept) is type(found) and kept == found
    return abs(kept - found) <= SHARE * scale + LEAST


def _same_text(kept: str, found: str) -> bool:
    """Words are the same; numbers with a point may differ in the last digit that is shown."""
    if _NUMBER.sub("#", kept) != _NUMBER.sub("#", found):
        return False
    for old, new in zip(_NUMBER.findall(kept), _NUMBER.findall(found), strict=True):
        shown = len(old.partition(".")[2].partition("e")[0])
        if old != new and (
            not shown or abs(float(old) - float(new)) > 1.01 * 10.0**-shown + SHARE * float(old) + LEAST
        ):
            return False
    return True


def _line(at: str, kept: Any, found: Any) -> str:
    return f"{at}: {_brief(kept)} was kept, {_brief(found)} found"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
