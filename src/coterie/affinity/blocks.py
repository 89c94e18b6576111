"""Task blocks as flat dicts of tensors, and back: for units of work and for saved models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from coterie.affinity.statistics import TaskBlock
from coterie.workload import MarginLoss

_FIELDS = ("g", "head", "offset", "targets")


def pack_blocks(blocks: Sequence[TaskBlock]) -> dict[str, Tensor]:
    """The tensors of the blocks under "task/field"."""
    return {f"{task}/{field}": getattr(block, field) for task, block in enumerate(blocks) for field in _FIELDS}


def unpack_blocks(losses: Sequence[MarginLoss], tensors: Mapping[str, Tensor]) -> tuple[TaskBlock, ...]:
    """The inverse of :func:`pack_blocks`, with the loss of each task; nothing for no tensors."""
    if not tensors:
        return ()
    return tuple(
        TaskBlock(*(tensors[f"{task}/{field}"] for field in _FIELDS), loss=loss) for task, loss in enumerate(losses)
    )


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
