"""Arrays as bytes, units in memory, and a result of one JSON file and one of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as _load
from safetensors.torch import save as _save
from torch import Tensor

from coterie._units import Payload
from coterie.errors import StoreError, StoreWarning
from coterie.store.files import digest, json_bytes, read_bytes, read_json, to_plain

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


def settle(payload: Payload) -> Payload:
    """The payload as it would come back from disk, so that a first run and a resumed one go on with the same values."""
    return Payload(plain_arrays(payload.arrays), to_plain(payload.meta))


class MemoryRun:
    """The interface of :class:`RunDirectory` without a disk: units are remembered until the object is gone.

    Example:
        >>> with MemoryRun() as run:
        ...     first = run.unit("square", {"of": 3}, lambda: Payload(meta={"value": 9}))
        ...     again = run.unit("square", {"of": 3}, lambda: Payload(meta={"value": -1}))
        >>> again.meta["value"]
        9
    """

    path: None = None

    def __init__(self) -> None:
        self._units: dict[str, Payload] = {}
        self.result: dict[str, Any] | None = None

    def __enter__(self) -> MemoryRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def unit(self, name: str, key: Mapping[str, Any], compute: Callable[[], Payload]) -> Payload:
        """The unit of that name and key, computed at the first call."""
        found = digest({"name": name, "key": key})
        if found not in self._units:
            self._units[found] = settle(compute())
        return self._units[found]

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Keep the result, in the form that JSON would give back."""
        self.result = to_plain(result)

    def close(self) -> None:
        """Nothing to do."""


_TENSORS, _ALL = "sha256", "checksum"
#: the format that had no checksum of the description
_WITHOUT = 1


def sealed_pair(
    names: tuple[str, str], description: Mapping[str, Any], arrays: Mapping[str, Array]
) -> dict[str, bytes]:
    """Name -> content of the two files, in the order in which they are to be written.

    Args:
        names: of the file of the description (JSON) and of that of the tensors (safetensors).
        description: JSON-ready, with an entry ``"format"``.
        arrays: by name.
    """
    data = encode(plain_arrays(arrays))
    described = {**description, _TENSORS: digest(data)}
    # the description is written last: its checksums say that both belong together, and that it is whole itself
    return {names[1]: data, names[0]: json_bytes({**described, _ALL: digest(described)})}


def read_pair(folder: Path, names: tuple[str, str], *formats: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of the files that :func:`sealed_pair` made, without the checksums.

    Args:
        folder: where they are.
        names: as given to :func:`sealed_pair`.
        formats: values of the entry ``"format"`` that the caller reads.

    Raises:
        StoreError: when they cannot be read, are damaged, do not belong together, or are of another format.
    """
    path, tensors = (folder / name for name in names)
    found = read_json(path)
    described = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    version = described.get("format")
    if isinstance(version, bool) or version not in formats:
        raise StoreError(
            f"The file {str(path)!r} is not of a format that this version reads, {formats}. It was damaged, or another "
            "version wrote it: read it with that one, or write it again. A finished run is repeated from its units."
        )
    checksum = described.pop(_ALL, None)
    if checksum is None and version == _WITHOUT:
        warnings.warn(
            f"The file {str(path)!r} was written by an earlier version and has no checksum: whether it was changed "
            "cannot be told. Write it again to have one.",
            StoreWarning,
            stacklevel=4,
        )
    elif checksum != digest(described):
        raise StoreError(
            f"The file {str(path)!r} is damaged or was changed: its checksum is not that of its content. Write it "
            "again. A finished run is repeated from its units."
        )
    data = read_bytes(tensors)
    if digest(data) != described.pop(_TENSORS, None):
        raise StoreError(
            f"The file {str(tensors)!r} is damaged: its checksum is not that of {names[0]}. Write it again. A finished "
            "run is repeated from its units."
        )
    return described, cast("dict[str, Tensor]", decode(data, None))
