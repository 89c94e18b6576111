"""A description and its tensors, two files that are one thing: every byte of both is covered by checksums."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from coterie.errors import StoreError, StoreWarning
from coterie.store.arrays import Array, decode, encode, plain_arrays
from coterie.store.files import digest, json_bytes, read_bytes, read_json

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
