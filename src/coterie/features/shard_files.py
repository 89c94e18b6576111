"""Files of feature shards: whole or not there, and a way to find out whether two processes see the same folder."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from coterie._files import make_directory, read_bytes, write_whole, writing
from coterie._sealed import pack, unpack
from coterie.errors import StoreError, StoreWarning

_KIND = "coterie features 3"


@contextmanager
def token(folder: Path | None) -> Generator[str]:
    """A file by which a worker knows that it sees the same folder."""
    name = f".coterie-{uuid.uuid4().hex}.tmp"
    if folder is None:
        yield name
        return
    make_directory(folder)
    with writing(folder / name):
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield name
    finally:
        (folder / name).unlink(missing_ok=True)


def encode(name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """The bytes of a shard, which say what they are and prove that they are whole."""
    return pack(_KIND, {"name": name, "facts": facts}, tensors)


def write(path: Path, data: bytes) -> None:
    """The whole file or none.

    Raises:
        StoreError: when it cannot be written.
    """
    write_whole(path, data)


def whole(path: Path) -> bool:
    """Whether the file is there and is the whole shard that its name says; one that is not is warned about."""
    if not path.exists():
        return False
    try:
        read(None, path.parent, path.name)
    except StoreError as error:
        warnings.warn(
            f"Stored features in {str(path.parent)!r} are damaged and are computed again ({error})",
            StoreWarning,
            stacklevel=2,
        )
        return False
    return True


def read(data: bytes | None, folder: Path | None, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a shard, from its bytes or from its file.

    Raises:
        StoreError: when it is damaged, or another shard than its name says.
    """
    path = name if folder is None else folder / name
    found, tensors = unpack(_KIND, read_bytes(path) if data is None else data, path)
    if found.get("name") != name:
        raise StoreError(f"The file {str(path)!r} holds the features of other rows, or of another model.")
    return tensors, found["facts"]
