"""Hidden states of rows, taken once and kept in memory or on disk, without their padding."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class KeptStates:
    """Hidden states below the lowest adapter, row by row; padding takes no place.

    Args:
        lengths: (rows,) tokens of each row up to its last one that is no padding, on the device of the rows.
        width: numbers of a token.
        dtype: of the numbers.
        on_disk: keep them in a temporary file, which is deleted with this object or at the end of the process; the
            system holds as much of it in memory as is free.

    Example:
        >>> kept = KeptStates(torch.tensor([1, 2]), 3, torch.float32)
        >>> kept.put(torch.tensor([1]), torch.ones(1, 4, 3))
        >>> kept.missing(torch.tensor([0, 1])).tolist(), tuple(kept.take(torch.tensor([1]), 2).shape), kept.nbytes
        ([0], (1, 2, 3), 36)
    """

    def __init__(self, lengths: Tensor, width: int, dtype: torch.dtype, *, on_disk: bool = False) -> None:
        self._lengths, self._width = lengths, width
        self._start = lengths.cumsum(0) - lengths
        self._known = torch.zeros(len(lengths), dtype=torch.bool, device=lengths.device)
        shape = (int(lengths.sum()), width)
        if on_disk:
            self._values = _mapped(self, shape, dtype)
        else:
            self._values = torch.empty(shape, dtype=dtype, device=lengths.device)

    @property
    def nbytes(self) -> int:
        """Bytes of all hidden states."""
        return self._values.numel() * self._values.element_size()

    def missing(self, rows: Tensor) -> Tensor:
        """The rows that are not kept yet, each once."""
        return rows[~self._known[rows]].unique()

    def put(self, rows: Tensor, hidden: Tensor) -> None:
        """Keep (rows, tokens, width) hidden states; what is beyond the length of a row is dropped."""
        place = torch.arange(hidden.shape[1], device=rows.device)
        inside = place < self._lengths[rows, None]
        where = (self._start[rows, None] + place)[inside]
        self._values[where.to(self._values.device)] = hidden[inside].to(self._values.device)
        self._known[rows] = True

    def take(self, rows: Tensor, tokens: int) -> Tensor:
        """(rows, tokens, width); beyond its length a row repeats its last token, which is under the mask."""
        place = torch.arange(tokens, device=rows.device).minimum(self._lengths[rows, None] - 1)
        where = (self._start[rows, None] + place).reshape(-1)
        found = self._values.index_select(0, where.to(self._values.device))
        return found.view(len(rows), tokens, self._width).to(rows.device)


def free_bytes() -> int:
    """Bytes that are free where temporary files are put."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def _mapped(owner: Any, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    folder = Path(tempfile.mkdtemp(prefix="coterie-states-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    count = shape[0] * shape[1]
    return torch.from_file(str(folder / "states"), shared=True, size=count, dtype=dtype).view(shape)
