"""The order in which rows are seen: the same for every backend and every device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from coterie.errors import SettingError


class BatchStream:
    """Batches of row numbers, reshuffled every epoch.

    The order of an epoch depends on the seed, the epoch and the number of rows alone and is drawn on the CPU, so any
    step can be asked for at any time and on any device. A last batch of a single row is left out of its epoch
    (normalisation layers cannot train on it), unless it would be the only batch or batches have one row anyway.

    Args:
        rows: (n,) row numbers on the CPU.
        batch_size: rows of a batch; the last batch of an epoch may have fewer.
        seed: of the order.

    Raises:
        SettingError: when there are no rows.

    Example:
        >>> stream = BatchStream(torch.arange(10), batch_size=4, seed=0)
        >>> [len(stream.batch(step)) for step in range(4)]
        [4, 4, 2, 4]
    """

    def __init__(self, rows: Tensor, batch_size: int, seed: int) -> None:
        if rows.dim() != 1 or not len(rows):
            raise SettingError(
                f"Parameter `rows` should hold at least one row number. Found shape {tuple(rows.shape)}."
            )
        self.rows = rows
        self.seed = seed
        self.width = min(batch_size, len(rows))
        full, rest = divmod(len(rows), self.width)
        #: batches of an epoch
        self.steps_per_epoch = full + (rest > 1)
        self._epoch: tuple[int, Tensor] | None = None

    @property
    def key(self) -> tuple[int, int, bytes]:
        """Equal for streams that yield the same batches."""
        return self.seed, self.width, self.rows.numpy().tobytes()

    def order(self, epoch: int) -> Tensor:
        """Row numbers of an epoch, in the order in which they are seen."""
        if self._epoch is None or self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, epoch))
            order = self.rows[torch.randperm(len(self.rows), generator=generator)]
            self._epoch = (epoch, order[: self.steps_per_epoch * self.width])
        return self._epoch[1]

    def batch(self, step: int) -> Tensor:
        """Row numbers of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[position * self.width : (position + 1) * self.width]

    def window(self, start: int, stop: int, width: int) -> Tensor:
        """(stop - start, width) row numbers of several steps, padded with -1."""
        first, last = start // self.steps_per_epoch, (stop - 1) // self.steps_per_epoch
        blocks = torch.full((last - first + 1, self.steps_per_epoch * self.width), -1, dtype=torch.int64)
        for epoch in range(first, last + 1):
            order = self.order(epoch)
            blocks[epoch - first, : len(order)] = order
        blocks = blocks.view(-1, self.width)[start - first * self.steps_per_epoch :][: stop - start]
        return torch.nn.functional.pad(blocks, (0, width - self.width), value=-1)


def derive(seed: int, *path: int) -> int:
    """An independent seed for each path of numbers below a seed."""
    mixed = np.random.SeedSequence([seed % 2**64, *path]).generate_state(1, np.uint64)
    return int(mixed[0]) % 2**63
