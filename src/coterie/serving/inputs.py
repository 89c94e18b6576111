"""Raw inputs of a caller, brought to what the models were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie._read import read_array
from coterie.errors import WorkloadError
from coterie.workload.arrays import Inputs, check_finite
from coterie.workload.frames import aligned, say_ignored
from coterie.workload.precision import scaled


def describe_inputs(inputs: Inputs) -> dict[str, Any]:
    """What inputs look like but for the number of rows, JSON-ready.

    Example:
        >>> describe_inputs(torch.zeros(7, 3))
        {'shape': [3], 'dtype': 'float32'}
    """
    if isinstance(inputs, Mapping):
        return {"parts": {name: describe_inputs(part) for name, part in inputs.items()}}
    return {"shape": list(inputs.shape[1:]), "dtype": str(inputs.dtype).removeprefix("torch.")}


def prepare(
    x: Any,
    form: Mapping[str, Any],
    center: Tensor | None,
    scale: Tensor | None,
    names: tuple[str, ...] | None = None,
    about: object = None,
) -> Inputs:
    """Inputs as the models want them: checked, in the type of the training inputs, and standardised like them.

    Args:
        x: array, tensor, data frame, or a mapping of names to such things, as it was given for training.
        form: from :func:`describe_inputs`.
        center: subtracted first; None when the models were trained on raw inputs.
        scale: divided out afterwards.
        names: columns of training; those of a data frame with text columns are put into this order, and others ignored.
        about: the predictor that asks, which says once what it ignores.

    Raises:
        WorkloadError: when names, shape, type or values do not fit.
    """
    if "parts" in form:
        return _prepare_parts(x, form["parts"], about)
    if isinstance(x, Mapping):
        raise WorkloadError(
            "Parameter `x` should be one array: the models were trained on one. "
            f"Found a mapping with the keys {list(x)[:5]}."
        )
    x = aligned(x, names, where="Parameter `x`", reference="the training inputs", ignore=True, about=about)
    inputs = _as_trained(x, "x", form)
    check_finite(inputs)
    if center is not None or scale is not None:
        inputs = scaled(inputs, center, scale)
    inputs = inputs.to(getattr(torch, form["dtype"]))
    check_finite(inputs)
    return inputs


def no_rows(form: Mapping[str, Any]) -> Any:
    """Raw inputs of this form with no rows.

    Example:
        >>> no_rows({"shape": [3], "dtype": "float32"}).shape
        (0, 3)
    """
    if "parts" in form:
        return {name: no_rows(part) for name, part in form["parts"].items()}
    return np.empty((0, *form["shape"]))


def _prepare_parts(x: Any, forms: Mapping[str, Any], about: object) -> dict[str, Tensor]:
    if not isinstance(x, Mapping) and not hasattr(x, "columns"):
        raise WorkloadError(
            f"Parameter `x` should be a mapping with the keys {list(forms)}: the models were trained on one. "
            f"Found {type(x).__name__}."
        )
    found = {str(key): x[key] for key in x}
    missing, extra = [name for name in forms if name not in found], [name for name in found if name not in forms]
    if missing:
        raise WorkloadError(
            f"Parameter `x` should have the keys {list(forms)}. "
            f"Missing: {missing or 'none'}; not known: {extra or 'none'}."
        )
    if extra:
        say_ignored("Parameter `x`", extra, about)
    parts = {
        name: _as_trained(found[name], f"x[{name!r}]", form).to(getattr(torch, form["dtype"]))
        for name, form in forms.items()
    }
    rows = {name: part.shape[0] for name, part in parts.items()}
    if len(set(rows.values())) > 1:
        raise WorkloadError(f"Parameter `x`: all parts should have the same number of rows. Found {rows}.")
    check_finite(parts)
    return parts


def _as_trained(values: Any, parameter: str, form: Mapping[str, Any]) -> Tensor:
    """Float64, to be rounded when it is standardised, or int64."""
    array = read_array(values, parameter)
    shape, dtype = tuple(form["shape"]), getattr(torch, form["dtype"])
    if array.ndim == 1 and shape == (1,):
        array = array[:, None]
    if array.shape == (0,) and shape:  # an empty list says nothing of columns
        array = array.reshape(0, *shape)
    _check_shape(array.shape, parameter, shape, whole=not dtype.is_floating_point)
    if not dtype.is_floating_point and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise WorkloadError(
            f"Parameter `{parameter}` should hold whole numbers, as it did for training. "
            "Found fractions or missing values."
        )
    if not dtype.is_floating_point and array.dtype.kind in "fu" and array.size and np.abs(array).max() >= 2.0**63:
        raise WorkloadError(
            f"Parameter `{parameter}` should hold whole numbers that fit into int64, as it did for training. Found "
            f"{array.ravel()[int(np.abs(array).argmax())]}. The likely cause is a division by zero, or identifiers."
        )
    return torch.from_numpy(np.array(array, dtype=np.float64 if dtype.is_floating_point else np.int64, order="C"))


def _check_shape(found: tuple[int, ...], parameter: str, shape: tuple[int, ...], *, whole: bool) -> None:
    """Columns must be the same; images and token rows may have another size where the model can take it."""
    if len(found) == len(shape) + 1 and (found[1:] == shape or whole or len(shape) > 1):
        return
    expected = ", ".join(("rows", *map(str, shape)))
    hint = " One example alone is given as x[None]." if found == shape else ""
    if len(shape) == 1 and len(found) == 2:
        hint = " Give the same columns in the same order as for training."
    raise WorkloadError(f"Parameter `{parameter}` should have the shape ({expected}). Found {found}.{hint}")
