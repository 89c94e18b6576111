"""Inputs and labels in whatever form users have them, as tensors; raw values are checked here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.errors import WorkloadError

Inputs = Tensor | dict[str, Tensor]
FloatArray = NDArray[np.float64]

_NO_COLUMNS = (
    "Parameter `{}` has no columns; at least one is needed, {}. The likely cause is a selection of columns that "
    "matched none."
)


def as_inputs(x: Any, *, own_model: bool) -> Inputs:
    """Inputs as one tensor or a dict of tensors, checked for missing and infinite values.

    Floating-point numbers become float32. Whole numbers become float32 too, except with `own_model` (a model of the
    user's own, which may read token or atom numbers): then they become int64.

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
    return _as_tensor(x, "x", own_model=own_model)


def as_labels(y: Any) -> tuple[FloatArray, tuple[str, ...] | None]:
    """(rows, tasks) float64 labels with NaN for missing ones, and the column names where there are some.

    Raises:
        WorkloadError: when the values are no numbers or the array is not two-dimensional.
    """
    if isinstance(y, Mapping):
        columns = {str(name): to_numpy(column, f"y[{name!r}]") for name, column in cast("Mapping[Any, Any]", y).items()}
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
    names = tuple(str(name) for name in y.columns) if hasattr(y, "columns") else None
    labels = to_numpy(y, "y")
    if labels.ndim != 2:
        raise WorkloadError(
            f"Parameter `y` should be two-dimensional, (rows, tasks). Found shape {labels.shape}. One column is one "
            "task; a single column of class numbers can be made several tasks, one a class, by comparing it with "
            "each class."
        )
    if labels.shape[1] == 0:
        raise WorkloadError(_NO_COLUMNS.format("y", "one a task"))
    return labels.astype(np.float64), names


def to_numpy(values: Any, parameter: str) -> NDArray[Any]:
    """A numeric or boolean array from an array, a tensor, a data frame or nested lists.

    Raises:
        WorkloadError: when the values are text, objects, dates, sparse or complex.
    """
    if values is None:
        raise WorkloadError(
            f"Parameter `{parameter}` should be an array, a tensor or a data frame. Found None. The likely cause is a "
            "function that returned nothing, such as one that changes a table in place."
        )
    if isinstance(values, Tensor):
        array = values.detach().cpu().double().numpy() if values.is_floating_point() else values.detach().cpu().numpy()
    elif hasattr(values, "toarray"):
        raise WorkloadError(
            f"Parameter `{parameter}` is a sparse matrix, which is not supported. Convert it with `.toarray()`."
        )
    else:
        array = _from_frame(values) if hasattr(values, "to_numpy") else _from_any(values, parameter)
    if array.dtype.kind == "O":
        array = _unboxed(array, parameter)
    if array.dtype.kind not in "fiub":
        raise WorkloadError(_not_numbers(parameter, str(array.dtype)))
    return array


def check_finite(inputs: Inputs) -> None:
    """Raise WorkloadError when an input is missing or infinite, saying how many are and where the first one is."""
    parts = {f"x[{name!r}]": part for name, part in inputs.items()} if isinstance(inputs, dict) else {"x": inputs}
    for name, part in parts.items():
        _check_part(part, name)


def _check_part(part: Tensor, name: str) -> None:
    if not part.is_floating_point() or bool(torch.isfinite(part).all()):
        return
    bad = ~torch.isfinite(part)
    count, first = int(bad.sum()), tuple(bad.nonzero()[0].tolist())
    rows = int(bad.flatten(1).any(1).sum()) if part.dim() > 1 else count
    raise WorkloadError(
        f"Parameter `{name}` has {count} missing or infinite values (NaN or inf, or numbers too large for float32) in "
        f"{rows} of {part.shape[0]} rows; the first is at {first}. Missing values are allowed in labels only: fill "
        "them, for example with the mean of the column, or drop the rows or columns."
    )


def _as_tensor(values: Any, parameter: str, *, own_model: bool) -> Tensor:
    array = to_numpy(values, parameter)
    if array.ndim == 0:
        raise WorkloadError(
            f"Parameter `{parameter}` should be an array with one row an example. Found a single number."
        )
    if array.ndim > 1 and 0 in array.shape[1:]:
        raise WorkloadError(_NO_COLUMNS.format(parameter, "one a feature") + f" Its shape is {array.shape}.")
    if array.ndim == 1 and not own_model:
        array = array[:, None]
    whole = array.dtype.kind in "iu" and own_model
    with np.errstate(over="ignore"):  # reported by check_finite with a better message
        array = array.astype(np.int64 if whole else np.float32, copy=True)
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    _check_part(tensor, parameter)
    return tensor.to(values.device) if isinstance(values, Tensor) else tensor


def _from_frame(values: Any) -> NDArray[Any]:
    """pandas, polars and their kin; nullable numbers arrive as objects or masked and are unboxed later."""
    return np.asarray(values.to_numpy())


def _from_any(values: Any, parameter: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise WorkloadError(
            f"Parameter `{parameter}` cannot be read as an array ({error}). The likely cause is rows of different "
            "lengths."
        ) from error


def _unboxed(array: NDArray[Any], parameter: str) -> NDArray[Any]:
    """Objects that are really numbers (mixed columns of a frame, None or pandas.NA for missing) as float64."""
    flat = np.empty(array.size, dtype=np.float64)
    for position, value in enumerate(array.ravel()):
        if value is None or type(value).__name__ == "NAType":
            flat[position] = np.nan
        elif isinstance(value, bool | int | float | np.number | np.bool_):
            flat[position] = float(value)
        else:
            column = f", column {position % array.shape[1]}" if array.ndim == 2 else ""
            found = f"object; the first value that is no number is {str(value)[:40]!r}{column}"
            raise WorkloadError(_not_numbers(parameter, found))
    return flat.reshape(array.shape)


def _not_numbers(parameter: str, found: str) -> str:
    return (
        f"Parameter `{parameter}` should hold numbers. Found dtype {found}. The likely cause is a column of text or "
        "dates. Encode it first, for example with pandas.get_dummies (inputs) or pandas.factorize (labels), or drop "
        "it."
    )
