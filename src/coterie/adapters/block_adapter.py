"""The adapter of one transformer block."""

from __future__ import annotations

from torch import nn

from coterie.adapters.attention import TaskAdaptedAttention
from coterie.adapters.bottleneck import Bottleneck
from coterie.adapters.norm import TaskScaledNorm


class BlockAdapter(nn.Module):
    """What one frozen block gets: task-adapted attention, two task-scaled norms, and a bottleneck after it.

    Args:
        tokens: number of tokens that attend to each other.
        block: size of a block of the attention's matrix.
        width: number of features.
        embedding: length of the task's representation.

    Example:
        >>> adapter = BlockAdapter(49, 7, 24, 343)
        >>> sum(p.numel() for p in adapter.parameters())
        55111
    """

    def __init__(self, tokens: int, block: int, width: int, embedding: int) -> None:
        super().__init__()
        self.attention = TaskAdaptedAttention(tokens, block, embedding)
        self.norms = nn.ModuleList([TaskScaledNorm(embedding, width) for _ in range(2)])
        self.bottleneck = Bottleneck(embedding, width)
