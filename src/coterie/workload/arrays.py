"""Inputs and labels in whatever form users have them, as tensors; raw values are checked here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._read import read_array
from coterie.errors import WorkloadError
from coterie.workload.frames import column_names
from coterie.workload.precision import warn_rounded

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
