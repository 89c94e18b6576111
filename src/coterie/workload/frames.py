"""Data frames: their column names and their row labels, so that columns and rows are matched by what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from coterie.errors import WorkloadError


def text_columns(values: Any) -> tuple[str, ...] | None:
    """Column names of a data frame whose columns are all named by text; None for everything else."""
    columns = None if isinstance(values, Mapping) else getattr(values, "columns", None)
    if columns is None or callable(columns):
        return None
    names = tuple(cast("Sequence[Any]", columns))
    return cast("tuple[str, ...]", names) if names and all(isinstance(name, str) for name in names) else None


def input_names(values: Any) -> tuple[str, ...] | None:
    """:func:`text_columns` where each name occurs once, so that columns can be found by it."""
    names = text_columns(values)
    return names if names is not None and len(set(names)) == len(names) else None


def aligned(values: Any, names: Sequence[str] | None, *, where: str, reference: str) -> Any:
    """A data frame with its columns in the order of `names`; anything without text columns comes back as it is.

    Args:
        values: inputs in any form.
        names: columns that are wanted; None asks for nothing.
        where: how messages begin, for example "Parameter `x`".
        reference: what has the wanted columns, for messages.

    Raises:
        WorkloadError: when columns are missing, not known, or there more than once.
    """
    found = text_columns(values)
    if names is None or found is None or found == tuple(names):
        return values
    missing = [name for name in names if name not in set(found)]
    unknown = [name for name in found if name not in set(names)]
    repeated = [name for name, count in Counter(found).items() if count > 1]
    if missing or unknown or repeated:
        again = f"; more than once: {repeated[:5]}" if repeated else ""
        raise WorkloadError(
            f"{where} should have the {len(names)} columns of {reference}, in any order. Missing: "
            f"{missing[:5] or 'none'}; not known: {unknown[:5] or 'none'}{again}. The likely cause is another table "
            "or columns that were renamed. Pick the columns by name, or give an array to go by position."
        )
    return values[list(names)]


def check_index(x: Any, y: Any, where: str = "Parameters `x` and `y`") -> None:
    """Raise WorkloadError when two pandas objects of equal length have different row labels.

    Rows are paired by position, so two tables in a different order would train on the labels of other rows. Mappings
    are checked part by part.
    """
    tables = [part for values in (x, y) for part in _tables(values)]
    for other in tables[1:]:
        first = tables[0]
        if len(first) == len(other) and not first.index.equals(other.index):
            row = next((i for i, (a, b) in enumerate(zip(first.index, other.index, strict=True)) if a != b), 0)
            raise WorkloadError(
                f"{where} have different row labels (index), first in row {row}: found {first.index[row]!r} and "
                f"{other.index[row]!r}. The likely cause is one of them sorted, shuffled or filtered without the "
                "other. Use `y.loc[x.index]` to pair rows by label, or `.reset_index(drop=True)` on both when they "
                "are in the same order already."
            )


def _tables(values: Any) -> list[Any]:
    """The pandas objects in a value or a mapping of values."""
    parts = list(cast("Mapping[Any, Any]", values).values()) if isinstance(values, Mapping) else [values]
    return [part for part in parts if hasattr(part, "iloc") and hasattr(part, "index")]
