"""Data frames: their column names and their row labels, so that columns and rows are matched by what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from coterie._surface import warn
from coterie.errors import DataWarning, WorkloadError


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


def aligned(
    values: Any,
    names: Sequence[str] | None,
    *,
    where: str,
    reference: str,
    ignore: bool = False,
    about: object = None,
) -> Any:
    """A data frame with its columns in the order of `names`; anything without text columns comes back as it is.

    Args:
        values: inputs in any form.
        names: columns that are wanted; None asks for nothing.
        where: how messages begin, for example "Parameter `x`".
        reference: what has the wanted columns, for messages.
        ignore: leave out columns that are not known and say so, in place of refusing them.
        about: for whom; it is said once of the same object.

    Raises:
        WorkloadError: when columns are missing or there more than once, or not known.

    Warns:
        DataWarning: when columns were ignored.
    """
    found = text_columns(values)
    if names is None or found is None or found == tuple(names):
        return values
    missing = [name for name in names if name not in set(found)]
    unknown = [name for name in found if name not in set(names)]
    repeated = [name for name, count in Counter(found).items() if count > 1 and (not ignore or name in set(names))]
    if missing or repeated or (unknown and not ignore):
        again = f"; more than once: {repeated[:5]}" if repeated else ""
        raise WorkloadError(
            f"{where} should have the {len(names)} columns of {reference}, in any order. Missing: "
            f"{missing[:5] or 'none'}; not known: {unknown[:5] or 'none'}{again}. The likely cause is another table "
            "or columns that were renamed. Pick the columns by name, or give an array to go by position."
        )
    if unknown:
        say_ignored(where, unknown, about)
    return _picked(values, names)


def say_ignored(where: str, unknown: Sequence[str], about: object) -> None:
    """Warn (DataWarning) of columns or parts that training did not have; once of the same predictor."""
    warn(
        f"{where} has {len(unknown)} columns that the models were not trained on; they are ignored: "
        f"{list(unknown[:5])}{', ...' if len(unknown) > 5 else ''}.",
        DataWarning,
        about=about,
    )


def _picked(values: Any, names: Sequence[str]) -> Any:
    if hasattr(values, "dims"):
        return values.sel({values.dims[-1]: list(names)})
    return values.select(list(names)) if hasattr(values, "column_names") else values[list(names)]


def row_labels(*values: Any) -> Any:
    """The index of the first table among some values, or of the first part of a mapping that has one; else None.

    Tables are those of pandas, and arrays of xarray with coordinates along their rows.
    """
    for value in values:
        if isinstance(value, Mapping):
            found = row_labels(*cast("Mapping[Any, Any]", value).values())
        elif hasattr(value, "dims") and hasattr(value, "indexes"):
            found = value.indexes[value.dims[0]] if value.dims and value.dims[0] in value.indexes else None
        else:
            found = value.index if hasattr(value, "iloc") else None
        if found is not None:
            return found
    return None


def paired(x: Any, y: Any, where: str = "Parameters `x` and `y`") -> tuple[Any, Any]:
    """Inputs and labels with their rows in one order: that of the first table, found by the labels of its index.

    Arrays and tables of another length are left alone. Rows that are merely numbered (the default index) have no
    labels, so that such a table cannot be paired with one in another order.

    Raises:
        WorkloadError: when two tables of equal length have other labels, or the same in another order where one is
            merely numbered or a label occurs twice.
    """
    index = row_labels(x, y)
    return (x, y) if index is None else (_like(x, index, where), _like(y, index, where))


def _like(values: Any, index: Any, where: str) -> Any:
    if isinstance(values, Mapping):
        return {key: _like(part, index, where) for key, part in cast("Mapping[Any, Any]", values).items()}
    own = row_labels(values)
    if own is None or len(own) != len(index) or index.equals(own):
        return values
    named = index.is_unique and own.is_unique and not merely_numbered(index) and not merely_numbered(own)
    order = own.get_indexer(index) if named else np.array([-1])
    if (order < 0).any():
        row = next((i for i, (a, b) in enumerate(zip(index, own, strict=True)) if a != b), 0)
        raise WorkloadError(
            f"{where} have different row labels (index), first in row {row}: found {index[row]!r} and "
            f"{own[row]!r}. The likely cause is one of them sorted, shuffled or filtered without the "
            "other. Use `y.loc[x.index]` to pair rows by label, or `.reset_index(drop=True)` on both when they "
            "are in the same order already."
        )
    return values.isel({values.dims[0]: order}) if hasattr(values, "isel") else values.iloc[order]


def merely_numbered(index: Any) -> bool:
    """Whether an index is the default one, 0, 1, ..., which says nothing about the rows."""
    return type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)
