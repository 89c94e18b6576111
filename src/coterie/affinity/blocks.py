"""Task blocks as flat dicts of tensors, and back: for units of work and for saved models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from coterie.affinity.statistics import TaskBlock
from coterie.features.storage import compress
from coterie.workload import MarginLoss

_FIELDS = ("g", "head", "offset", "targets")


def pack_blocks(blocks: Sequence[TaskBlock]) -> dict[str, Tensor]:
    """The tensors of the blocks under "task/field"."""
    tensors = {f"{task}/{field}": getattr(block, field) for task, block in enumerate(blocks) for field in _FIELDS}
    # each its own, though tasks may share one: files take no tensors that share memory
    scales = {f"{task}/scale": block.scale.clone() for task, block in enumerate(blocks) if block.scale is not None}
    return tensors | scales


def unpack_blocks(losses: Sequence[MarginLoss], tensors: Mapping[str, Tensor]) -> tuple[TaskBlock, ...]:
    """The inverse of :func:`pack_blocks`, with the loss of each task; nothing for no tensors."""
    if not tensors:
        return ()
    return tuple(
        TaskBlock(*(tensors[f"{task}/{field}"] for field in _FIELDS), loss=loss, scale=tensors.get(f"{task}/scale"))
        for task, loss in enumerate(losses)
    )


def compressed(blocks: Sequence[TaskBlock], dtype: str) -> tuple[TaskBlock, ...]:
    """The blocks with `g` stored as ``"float32"`` (unchanged), ``"float16"`` or ``"bfloat16"``."""
    stored = [compress(block.g, dtype) for block in blocks]
    return tuple(replace(block, g=own.stored, scale=own.scale) for block, own in zip(blocks, stored, strict=True))


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
