"""Batches of many streams, drawn for several steps at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from coterie.training.stream import BatchStream

# row numbers that are held at once, at most
_ENTRIES = 2**20


class Windows:
    """The rows of each step for the members of a population.

    Streams that yield the same batches are found and drawn once. While all members share one stream, a single list of
    rows stands for all of them, so that their inputs need not be repeated.

    Args:
        streams: one a member.
        device: where the row numbers are needed.
    """

    def __init__(self, streams: Sequence[BatchStream], device: torch.device) -> None:
        numbers: dict[object, int] = {}
        self._number = np.array([numbers.setdefault(stream.key, len(numbers)) for stream in streams])
        self._streams = [streams[int(np.flatnonzero(self._number == number)[0])] for number in range(len(numbers))]
        self._device = device
        self._start = self._stop = 0
        self._ids = np.zeros(0, int)

    def rows(self, step: int, ids: np.ndarray) -> tuple[Tensor, bool]:
        """Rows of a step (counted from 0) for some members, and whether entries of -1 are among them.

        Returns:
            (rows,) when these members share one stream, never padded; else (members, rows).
        """
        if step >= self._stop or len(ids) != len(self._ids):
            self._draw(step, ids)
        offset = step - self._start
        length = self._lengths[:, offset]
        if len(length) == 1:
            return self._window[0, offset, : length[0]], False
        longest = length.max()
        return self._window[self._place, offset, :longest], bool((length < longest).any())

    def _draw(self, step: int, ids: np.ndarray) -> None:
        used, place = np.unique(self._number[ids], return_inverse=True)
        streams = [self._streams[number] for number in used]
        width = max(stream.width for stream in streams)
        count = max(1, min(64, _ENTRIES // (width * len(streams))))
        window = torch.stack([stream.window(step, step + count, width) for stream in streams])
        self._lengths = (window >= 0).sum(-1).numpy()
        self._window = window.to(self._device)
        self._place = torch.from_numpy(place).to(self._device)
        self._start, self._stop, self._ids = step, step + count, ids
