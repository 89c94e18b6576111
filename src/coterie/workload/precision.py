"""Numbers brought to a common scale in float64 and rounded to float32 afterwards, never before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._surface import warn
from coterie.errors import DataWarning

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
