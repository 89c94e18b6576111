"""Data frames: their column names and their row labels, so that columns and rows are matched by what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from coterie.errors import WorkloadError


def column_names(values: Any) -> tuple[str, ...] | None:
    """Column names of a table (pandas, polars, Arrow, xarray) as texts; None for what has none."""
    found = _columns(values)
    return None if found is None else tuple(str(name) for name in found)


def _columns(values: Any) -> tuple[Any, ...] | None:
    if isinstance(values, Mapping):
        return None
    if hasattr(values, "dims") and hasattr(values, "indexes"):  # xarray
        last = values.dims[-1] if len(values.dims) == 2 else None
        return tuple(values.indexes[last]) if last in values.indexes else None
    # tables of Arrow have their columns under the name where others have the names
    columns = getattr(values, "column_names", getattr(values, "columns", None))
    return None if columns is None or callable(columns) else tuple(cast("Sequence[Any]", columns))


def text_columns(values: Any) -> tuple[str, ...] | None:
    """Column names of a data frame whose columns are all named by text; None for everything else."""
    names = _columns(values)
    return names if names and all(isinstance(name, str) for name in names) else None


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
    return _picked(values, names)


def _picked(values: Any, names: Sequence[str]) -> Any:
    if hasattr(values, "dims"):
        return values.sel({values.dims[-1]: list(names)})
    return values.select(list(names)) if hasattr(values, "column_names") else values[list(names)]


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
