"""Numbers in words a person reads: percent, FLOPs, time, counts. A missing number is a dash, never ``nan``."""

from __future__ import annotations

import math
import unicodedata

DASH = "–"
MINUS = "−"
_LONG = 1e7  # from here on a number is written with its power of ten
_SPACE = "\u00a0"  # a number and its unit stay on one line
_SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_FLOP_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def known(value: float | None) -> bool:
    """True for a finite number."""
    return value is not None and math.isfinite(value)


def _fixed(value: float, digits: int, signed: bool) -> str:
    if abs(value) >= _LONG:
        return (MINUS if value < 0 else "+" if signed else "") + f"{abs(value):.{digits}e}"
    text = f"{abs(value):,.{digits}f}"
    if not text.strip("0.,"):
        return text  # no sign on a rounded zero
    return (MINUS if value < 0 else "+" if signed else "") + text


def percent(value: float | None, *, signed: bool = False, digits: int = 1, unit: bool = True) -> str:
    r"""A share as percent.

    >>> percent(0.0314, signed=True).replace("\u00a0", " ")
    '+3.1 %'
    >>> percent(float("nan"))
    '–'
    """
    if value is None or not math.isfinite(value):
        return DASH
    return _fixed(100.0 * value, digits, signed) + (f"{_SPACE}%" if unit else "")


def share(value: float | None) -> str:
    r"""A share of the cost; small ones stay visible.

    >>> share(0.0002).replace("\u00a0", " ")
    '< 0.1 %'
    """
    if value is not None and 0 < value < 0.0005:
        return f"<{_SPACE}0.1{_SPACE}%"
    return percent(value)


def amount(value: float | None) -> str:
    """How many of something, not a whole number; a dash for none.

    >>> amount(0.0312), amount(12.34), amount(1234.5)
    ('0.031', '12.3', '1,234')
    """
    if not value or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def span(low: float | None, high: float | None) -> str:
    """An interval of gains in percent, without the unit; empty when either end is missing.

    >>> span(-0.012, 0.034)
    '−1.2 to +3.4'
    """
    if not (known(low) and known(high)):
        return ""
    return f"{percent(low, signed=True, unit=False)} to {percent(high, signed=True, unit=False)}"


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with some significant digits.

    >>> number(0.49), number(-1234567.0), number(None)
    ('0.490', '−1.23e+06', '–')
    """
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{abs(value):#.{digits}g}".rstrip(".")
    return MINUS + text if value < 0 else text


def count(value: float | None) -> str:
    """A whole number with separators.

    >>> count(12345)
    '12,345'
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{round(value):,}" if abs(value) < 1e15 else f"{value:.2e}"


def flops(value: float | None) -> str:
    r"""Floating point operations in human units.

    >>> flops(3.21e12).replace("\u00a0", " ")
    '3.21 TFLOP'
    """
    if value is None or not math.isfinite(value):
        return DASH
    unit = 0
    while abs(value) >= 999.5 and unit < len(_FLOP_UNITS) - 1:
        value /= 1000.0
        unit += 1
    return f"{value:.3g}{_SPACE}{_FLOP_UNITS[unit]}FLOP"


def size(value: float | None) -> str:
    r"""Bytes in binary units.

    >>> size(3.5 * 2**20).replace("\u00a0", " "), size(None)
    ('3.5 MiB', '–')
    """
    if value is None or not math.isfinite(value):
        return DASH
    unit = 0
    while value >= 999.5 and unit < len(_SIZE_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g}{_SPACE}{_SIZE_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    r"""Wall-clock time.

    >>> duration(0.42).replace("\u00a0", " "), duration(754).replace("\u00a0", " ")
    ('0.42 s', '12 min 34 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 9.995:
        return f"{seconds:.2f}{_SPACE}s"
    if seconds < 99.95:
        return f"{seconds:.1f}{_SPACE}s"
    total = round(min(seconds, 1e12))
    if total < 7200:
        return f"{total // 60}{_SPACE}min {total % 60}{_SPACE}s"
    if total < 2 * 86400:
        return f"{total // 3600}{_SPACE}h {total % 3600 // 60}{_SPACE}min"
    return f"{total // 86400:,}{_SPACE}days {total % 86400 // 3600}{_SPACE}h"


def plural(amount: int, word: str) -> str:
    """A count with its noun.

    >>> plural(1, "task"), plural(3, "task")
    ('1 task', '3 tasks')
    """
    return f"{amount:,} {word}" + ("" if amount == 1 else "s")


def clean(value: object) -> str:
    r"""Text without what can disturb a page or a terminal: control characters, lone surrogates, direction overrides.

    >>> clean("a\x1b[31mb\n c")
    'a�[31mb c'
    """
    text = " ".join(str(value).split())
    text = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or c in _BIDI else c for c in text)
    return text or "(no name)"


def shorten(text: str, limit: int = 48) -> str:
    """Keep both ends of a long text: names of one family often differ only at the end.

    >>> shorten("abcdefghijkl", 7)
    'abc…jkl'
    """
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return text[: limit - 1 - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()
