"""The smallest useful PNG: an indexed picture as a data URI, for matrices too large to draw cell by cell."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from coterie.report.palette import Rgb


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(indices: np.ndarray, colours: Sequence[Rgb], transparent: int | None = None) -> bytes:
    """Encode an indexed picture.

    Args:
        indices: (height, width), numbers of ``colours``.
        colours: at most 256 colours.
        transparent: the index that is not painted, if any.
    """
    height, width = indices.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # a leading 0 a line: no filter
    lines[:, 1:] = indices
    alpha = bytes(0 if i == transparent else 255 for i in range(len(colours)))
    chunks = (
        _chunk(b"IHDR", header),
        _chunk(b"PLTE", bytes(v for rgb in colours for v in rgb)),
        _chunk(b"tRNS", alpha),
        _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
        _chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data_uri(picture: bytes) -> str:
    """A picture as a ``data:`` address, so that a page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
