"""Many rows through a model, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def in_pieces(batch: Mapping[str, Tensor], run: Callable[[dict[str, Tensor]], Tensor], rows: int) -> Tensor:
    """What `run` makes of all rows, in their order; those of similar lengths go through it together.

    Args:
        batch: token numbers and the like, with ``attention_mask``; at least one row.
        run: inputs of some rows -> (rows, ...).
        rows: that go through it at once; at least one does.

    Example:
        >>> mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
        >>> in_pieces({"attention_mask": mask}, lambda piece: piece["attention_mask"].sum(1), 2).tolist()
        [2, 1, 2]
    """
    order = torch.argsort(batch["attention_mask"].sum(1), stable=True)
    parts = [run({name: value[chosen] for name, value in batch.items()}) for chosen in order.split(max(1, rows))]
    return torch.cat(parts)[torch.argsort(order)]
