"""Files of feature shards: whole or not there, and a way to find out whether two processes see the same folder."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


@contextmanager
def token(folder: Path | None) -> Generator[str]:
    """A file by which a worker knows that it sees the same folder."""
    name = f".coterie-{uuid.uuid4().hex}.tmp"
    if folder is None:
        yield name
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    try:
        yield name
    finally:
        (folder / name).unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """The whole file or none."""
    temporary = path.parent / f".coterie-{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def whole(path: Path) -> bool:
    """Whether the file is there and its header fits it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return "facts" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read(data: bytes | None, folder: Path | None, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a shard, from its bytes or from its file."""
    from safetensors.torch import load

    if data is None and folder is not None:
        data = (folder / name).read_bytes()
    if data is None:
        raise FileNotFoundError(name)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return load(data), json.loads(header["__metadata__"]["facts"])
