"""Named arrays to safetensors bytes and back. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as _load
from safetensors.torch import save as _save
from torch import Tensor

from coterie.errors import StoreError

Array = np.ndarray[Any, Any] | Tensor


def kinds_of(arrays: Mapping[str, Array]) -> dict[str, str]:
    """``"numpy"`` or ``"torch"`` for each array, so that it comes back as what it was."""
    return {name: "torch" if isinstance(value, Tensor) else "numpy" for name, value in arrays.items()}


def plain_arrays(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Own, contiguous copies in main memory without gradients: exactly what :func:`decode` would give back."""
    return {
        name: _tensor(name, value) if isinstance(value, Tensor) else _tensor(name, value).numpy()
        for name, value in arrays.items()
    }


def encode(arrays: Mapping[str, Array]) -> bytes:
    """The safetensors bytes of what :func:`plain_arrays` returned.

    Raises:
        StoreError: for a type of numbers that safetensors does not know.
    """
    try:
        return _save(
            {name: value if isinstance(value, Tensor) else torch.from_numpy(value) for name, value in arrays.items()}
        )
    except KeyError as error:
        raise StoreError(f"Arrays of type {error} cannot be stored. Convert them to real or whole numbers.") from error


def decode(data: bytes, kinds: Mapping[str, str] | None) -> dict[str, Array]:
    """The inverse of :func:`encode`, in the order of `kinds`; all as tensors when `kinds` is None.

    Raises:
        StoreError: when the bytes are not whole.
    """
    try:
        tensors = _load(data)
        kinds = kinds if kinds is not None else dict.fromkeys(tensors, "torch")
        return {name: tensors[name] if kind == "torch" else tensors[name].numpy() for name, kind in kinds.items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"These are not the safetensors that were written ({error}).") from error


def _tensor(name: str, value: Array) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    try:
        # ascontiguousarray would turn a scalar array into one of length 1
        native = value.astype(value.dtype.newbyteorder("="), order="C", copy=True)
        return torch.from_numpy(np.asarray(native))
    except (TypeError, AttributeError) as error:
        found = getattr(value, "dtype", type(value).__name__)
        raise StoreError(f"Array {name!r} should hold numbers. Found {found}; text belongs into `meta`.") from error
