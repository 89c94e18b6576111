"""Inputs and labels in whatever form users have them, as tensors; raw values are checked here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._read import read_array
from coterie._surface import warn
from coterie.errors import DataWarning, WorkloadError

#: a spread below this many times a value's rounding error is none
_NOISE = {torch.float32: 1e-7, torch.float64: 1e-15}
#: rounding errors of at least this share of the spread of a column are said
_SHARE = 1e-3
#: numbers that are standardised at once
_CHUNK = 1 << 22


def standardised(inputs: Tensor, train: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with mean 0 and standard deviation 1 over the training rows in float32; center and scale in float64.

    Args:
        inputs: (rows, ...) float32 or float64; two-dimensional ones are standardised column by column, others whole.
        train: numbers of the training rows.

    Returns:
        The inputs, and what :func:`scaled` needs to do the same to others; constant columns have scale 1.

    Example:
        >>> late = torch.tensor([[1.7e9], [1.7e9 + 2.0]], dtype=torch.float64)
        >>> made, center, scale = standardised(late, torch.arange(2))
        >>> made.tolist(), center.tolist(), scale.tolist()
        ([[-1.0], [1.0]], [1700000001.0], [1.0])
    """
    exact = inputs[train].double()
    shape = exact.shape[1:] if exact.dim() == 2 else torch.Size([1] * (exact.dim() - 1))
    flat = exact if exact.dim() == 2 else exact.reshape(-1, 1)
    first = flat[0]  # taken off first, so that a large offset does not enter any sum
    flat = flat - first
    center, scale = first + flat.mean(0), flat.std(0, correction=0)
    # whatever is smaller than the rounding errors of the values that were given is a constant
    constant = (scale <= _NOISE[inputs.dtype] * center.abs()) | (scale == 0)
    scale = torch.where(constant, torch.ones_like(scale), scale)
    center, scale = center.reshape(shape), scale.reshape(shape)
    return scaled(inputs, center, scale), center, scale


def scaled(inputs: Tensor, center: Tensor | None, scale: Tensor | None) -> Tensor:
    """``(inputs - center) / scale``, computed in float64 and rounded to float32 at the end."""
    made = torch.empty(inputs.shape, dtype=torch.float32, device=inputs.device)
    step = max(1, _CHUNK // max(1, inputs[:1].numel()))
    for start in range(0, len(inputs), step):
        part = inputs[start : start + step].double()
        if center is not None:
            part = part - center.to(part.device)
        if scale is not None:
            part = part / scale.to(part.device)
        made[start : start + step] = part
    return made


def warn_rounded(exact: NDArray[Any], rounded: NDArray[Any], parameter: str) -> None:
    """Warn (DataWarning) of columns whose values float32 (or float64) cannot hold apart.

    A column is named when whole numbers that differ become the same, or when rounding errors are at least a thousandth
    of its standard deviation. NaN is passed over.

    Args:
        exact: (rows, ...) as given; other than two-dimensional ones are looked at as a whole.
        rounded: the same in float32, or in float64.
        parameter: how messages call it.
    """
    if exact.dtype in (np.float32, rounded.dtype) or exact.dtype.itemsize <= 2 or not len(exact):
        return
    columns = exact.T if exact.ndim == 2 else exact.reshape(1, -1)
    others = rounded.T if exact.ndim == 2 else rounded.reshape(1, -1)
    lost = [number for number, pair in enumerate(zip(columns, others, strict=True)) if _loses(*pair)]
    single = rounded.dtype == np.float32
    if lost:
        where = f"column{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost[:5]))}" if exact.ndim == 2 else "it"
        doing = "models compute" if single else "columns are centred"
        way = "; standardize=True does so for regression targets and for inputs that are one array" if single else ""
        warn(
            f"Parameter `{parameter}`: {rounded.dtype}, in which {doing}, cannot hold the values of {where} apart (for "
            f"example {columns[lost[0]][0]!s}). The likely cause is a large offset (times, years, identifiers). "
            f"Subtract it first{way}.",
            DataWarning,
        )


def _loses(column: NDArray[Any], rounded: NDArray[Any]) -> bool:
    large = column.dtype.kind in "iu" and max(abs(int(column.min())), abs(int(column.max()))) > 2**53
    with np.errstate(invalid="ignore"):  # infinite labels are reported by check_data
        error = column.astype(np.float64) - rounded
    known = np.isfinite(error)
    if not (error[known].any() or large):
        return False
    values = column[known].astype(np.float64)
    if error[known].any() and float(np.sqrt(np.mean(error[known] ** 2))) >= _SHARE * float(values.std()):
        return True
    return column.dtype.kind in "iu" and len(np.unique(rounded)) < len(np.unique(column))


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


Inputs = Tensor | dict[str, Tensor]
FloatArray = NDArray[np.float64]

_NO_COLUMNS = (
    "Parameter `{}` has no columns; at least one is needed, {}. The likely cause is a selection of columns that "
    "matched none."
)


def as_inputs(x: Any, *, own_model: bool, exact: bool = False) -> Inputs:
    """Inputs as one tensor or a dict of tensors, checked for missing and infinite values.

    Numbers become float32, except whole ones with `own_model` (a model of the user's own, which may read token or atom
    numbers): they become int64. With `exact`, one array of numbers that float32 does not hold becomes float64, to be
    centred before it is rounded.

    Warns:
        DataWarning: when rounding to float32, or of large whole numbers to float64, makes different values the same,
            or as good as the same.

    Raises:
        WorkloadError: when the values are no numbers, not finite, or the parts differ in their number of rows.
    """
    if isinstance(x, Mapping):
        named = cast("Mapping[Any, Any]", x)
        if not named:
            raise WorkloadError("Parameter `x` is an empty mapping. Give at least one array of inputs.")
        parts = {str(k): _as_tensor(v, f"x[{k!r}]", own_model=own_model) for k, v in named.items()}
        rows = {name: part.shape[0] for name, part in parts.items()}
        if len(set(rows.values())) > 1:
            raise WorkloadError(
                f"Parameter `x`: all arrays of the mapping should have the same number of rows. Found {rows}."
            )
        return parts
    return _as_tensor(x, "x", own_model=own_model, exact=exact)


def as_labels(y: Any) -> tuple[FloatArray, tuple[str, ...] | None]:
    """(rows, tasks) float64 labels with NaN for missing ones, and the column names where there are some.

    Raises:
        WorkloadError: when the values are no numbers or the array is not two-dimensional.
    """
    if isinstance(y, Mapping):
        columns = {
            str(name): read_array(column, f"y[{name!r}]") for name, column in cast("Mapping[Any, Any]", y).items()
        }
        shapes = {name: column.shape for name, column in columns.items()}
        if len(set(shapes.values())) > 1 or any(column.ndim != 1 for column in columns.values()):
            raise WorkloadError(
                "Parameter `y`: the labels of each task should be one-dimensional and equally long. Found shapes "
                f"{shapes}. Tasks with rows of their own are given to coterie.workload.from_datasets."
            )
        if not columns:
            raise WorkloadError(_NO_COLUMNS.format("y", "one a task"))
        stacked = np.stack(list(columns.values()), axis=1)
        return stacked.astype(np.float64), tuple(columns)
    names = column_names(y)
    labels = read_array(y, "y")
    if labels.ndim != 2:
        raise WorkloadError(
            f"Parameter `y` should be two-dimensional, (rows, tasks). Found shape {labels.shape}. One column is one "
            "task; a single column of class numbers can be made several tasks, one a class, by comparing it with "
            "each class."
        )
    if labels.shape[1] == 0:
        raise WorkloadError(_NO_COLUMNS.format("y", "one a task"))
    return labels.astype(np.float64), names


def check_finite(inputs: Inputs) -> None:
    """Raise WorkloadError when an input is missing or infinite, saying how many are and where the first one is."""
    parts = {f"x[{name!r}]": part for name, part in inputs.items()} if isinstance(inputs, dict) else {"x": inputs}
    for name, part in parts.items():
        _check_part(part, name)


def _check_part(part: Tensor, name: str) -> None:
    if not part.is_floating_point() or bool(torch.isfinite(part).all()):
        return
    bad = ~torch.isfinite(part)
    count, first = int(bad.sum()), bad.nonzero()[0].tolist()
    rows = int(bad.flatten(1).any(1).sum()) if part.dim() > 1 else count
    where = ("(row, column) " if len(first) == 2 else "") + str(tuple(first))
    raise WorkloadError(
        f"Parameter `{name}` has {count} missing or infinite values (NaN, masked or inf, or numbers too large for "
        f"float32) in {rows} of {part.shape[0]} rows; the first is at {where}. Missing values are allowed in labels "
        "only: fill them, for example with the mean of the column, or drop the rows or columns."
    )


def _as_tensor(values: Any, parameter: str, *, own_model: bool, exact: bool = False) -> Tensor:
    array = read_array(values, parameter)
    if array.ndim == 0:
        raise WorkloadError(
            f"Parameter `{parameter}` should be an array with one row an example. Found a single number."
        )
    if array.ndim > 1 and 0 in array.shape[1:]:
        raise WorkloadError(_NO_COLUMNS.format(parameter, "one a feature") + f" Its shape is {array.shape}.")
    if array.ndim == 1 and not own_model:
        array = array[:, None]
    if array.dtype.kind in "iu" and own_model:
        tensor = torch.from_numpy(np.array(_as_int64(array, parameter), order="C"))
    else:
        with np.errstate(over="ignore"):  # reported by _check_part
            single = np.array(array, dtype=np.float32, order="C")
        _check_part(torch.from_numpy(single), parameter)
        device = values.device.type if isinstance(values, Tensor) else "cpu"
        if exact and array.dtype.itemsize > 2 and array.dtype != np.float32 and device != "mps":  # has no float64
            double = np.array(array, dtype=np.float64, order="C")
            warn_rounded(array, double, parameter)
            tensor = torch.from_numpy(double)
        else:
            warn_rounded(array, single, parameter)
            tensor = torch.from_numpy(single)
    return tensor.to(values.device) if isinstance(values, Tensor) else tensor


def _as_int64(array: NDArray[Any], parameter: str) -> NDArray[np.int64]:
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise WorkloadError(
            f"Parameter `{parameter}` has whole numbers up to {array.max()}, more than int64 holds. The likely cause "
            "is identifiers or hashes: number them from 0, for example with pandas.factorize."
        )
    return array.astype(np.int64)
