"""Tensors and facts in one safetensors file that proves that it is whole, and what it is. Nothing is ever unpickled.

The header has one text: the facts, the kind of file, and a SHA-256 over them, the names, types and shapes of the
tensors, and every byte of the numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from coterie._files import read_bytes
from coterie._json import canonical, parse_json, to_plain
from coterie.errors import StoreError

_SEAL = "coterie"


def pack(kind: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a file.

    Args:
        kind: what it is and which version of it; :func:`unpack` takes no other.
        facts: JSON-ready.
        tensors: by name; gradients and devices are left behind.
    """
    from safetensors.torch import save

    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    head, body = _split(save(own))
    plain = to_plain(facts)
    text = json.dumps({"kind": kind, "facts": plain, "sha256": _digest(kind, plain, head, body)})
    header = json.dumps({"__metadata__": {_SEAL: text}, **head}).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, body))


def unpack(kind: str, data: bytes, source: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of the bytes that :func:`pack` made.

    Args:
        kind: as given to :func:`pack`.
        data: the bytes.
        source: where they come from, for messages.

    Raises:
        StoreError: when they are something else or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        head, body = _split(data)
        sealed = parse_json(head.pop("__metadata__")[_SEAL])
        facts, found = sealed["facts"], sealed["kind"]
        if not isinstance(facts, dict) or not isinstance(found, str):
            raise ValueError("its facts are of another type")
        if found == kind and sealed["sha256"] != _digest(kind, facts, head, body):
            raise ValueError("its checksum is not that of its content")
        tensors = load(data)
    except (
        SafetensorError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise StoreError(
            f"The file {str(source)!r} is damaged, or not one of {kind!r} as coterie writes it ({str(error)[:200]}). "
            "Make it again."
        ) from error
    if found != kind:
        raise StoreError(f"The file {str(source)!r} is one of {found!r}, not of {kind!r}. Make it again.")
    return cast("dict[str, Any]", facts), tensors


def read_sealed(kind: str, path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of a file, see :func:`unpack`.

    Raises:
        StoreError: when it cannot be read, is something else or damaged.
    """
    return unpack(kind, read_bytes(path), path)


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header of safetensors bytes, and the numbers."""
    size = int.from_bytes(data[:8], "little")
    head = parse_json(data[8 : 8 + size])
    if not isinstance(head, dict):
        raise ValueError("its header is no object")
    return cast("dict[str, Any]", head), memoryview(data)[8 + size :]


def _digest(kind: str, facts: Any, head: Mapping[str, Any], body: memoryview) -> str:
    found = hashlib.sha256(canonical({"kind": kind, "facts": facts, "tensors": head}))
    found.update(body)
    return found.hexdigest()
