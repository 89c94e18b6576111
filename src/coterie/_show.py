"""How results look at a prompt and in a notebook: what counts, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any, TypeVar, cast

Shown = TypeVar("Shown", bound=type)
#: characters of a value and of a field, and entries of a list that are written out
_WIDTH, _FIELD, _ENTRIES = 76, 160, 4


def short_repr(cls: Shown) -> Shown:
    """Give a dataclass a repr of one line, with arrays as shapes and long lists as their first entries.

    Example:
        >>> from dataclasses import dataclass
        >>> @short_repr
        ... @dataclass
        ... class Found:
        ...     names: tuple[str, ...]
        ...     count: int
        >>> Found(("cat", "dog", "eel", "fox", "gnu", "hen"), 6)
        Found(names=[cat, dog, eel, fox, … 6 in all]; count=6)
    """

    def shown(self: Any) -> str:
        found = [f"{one.name}={cut(brief(getattr(self, one.name)), _FIELD)}" for one in fields(self) if one.repr]
        return f"{type(self).__name__}({'; '.join(found)})"

    made: Any = cls
    made.__repr__ = shown
    return cls


def brief(value: Any) -> str:
    """A value in a few words.

    Example:
        >>> import numpy as np
        >>> brief(np.zeros((300, 2))), brief([1, 2]), brief("x" * 99)[-3:]
        ('(300, 2) float64', '[1, 2]', "…x'")
    """
    shape, kind = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and kind is not None:
        return f"{tuple(shape)} {str(kind).removeprefix('torch.')}"
    if isinstance(value, str):
        return cut(repr(value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return names(cast("Mapping[Any, Any]", value))
    if isinstance(value, Sequence | Set):
        return names(cast("Iterable[Any]", value))
    if is_dataclass(value) and len(repr(value)) > _WIDTH:
        return f"{type(value).__name__}(…)"
    if isinstance(value, Callable) and not is_dataclass(value):
        return getattr(value, "__name__", type(value).__name__)
    return cut(repr(value))


def names(values: Iterable[Any], most: int = _ENTRIES) -> str:
    """The first of some values, and how many there are.

    Example:
        >>> names("abc"), names(range(30))
        ('[a, b, c]', '[0, 1, 2, 3, … 30 in all]')
    """
    every = list(values)
    first = [cut(value if isinstance(value, str) else brief(value)) for value in every[:most]]
    rest = [f"… {len(every)} in all"] if len(every) > most else []
    return f"[{', '.join([*first, *rest])}]"


def cut(text: str, width: int = _WIDTH) -> str:
    r"""A text on one line, without its middle where it is long.

    Example:
        >>> cut("a  long\nstory", 8)
        'a lon…ry'
    """
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}…{text[-2:]}"


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", left: int = 1) -> str:
    """A table for notebooks; every text in it is escaped.

    Args:
        head: names of the columns.
        rows: their cells.
        caption: below the table.
        left: so many columns hold text and are aligned to the left.
    """

    def line(cells: Sequence[object], tag: str) -> str:
        sides = ["left" if index < left else "right" for index in range(len(cells))]
        inner = "".join(
            f"<{tag} style='text-align:{side}'>{escape(str(cell))}</{tag}>"
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{inner}</tr>"

    body = "".join(line(row, "td") for row in rows)
    below = f"<caption style='caption-side:bottom;text-align:left'>{escape(caption)}</caption>" if caption else ""
    return f"<table>{below}<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
