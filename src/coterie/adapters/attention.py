"""Task-adapted attention: a block-diagonal matrix, modulated by the task, on the attention logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coterie.adapters.blocks import block_diagonal
from coterie.adapters.film import Film


class TaskAdaptedAttention(nn.Module):
    """The matrix A' that a task adds to the attention logits of a window, before the softmax.

    A learnt matrix A (tokens, block), zero at first, becomes ``A' = (1 + gamma) A + beta`` with gamma and beta
    (1, block) from z. Its chunks of (block, block) lie on the diagonal of a (tokens, tokens) matrix that is zero
    elsewhere. All windows and heads share it. The backbone's scale of the logits stays: the released code passes
    ``qk_scale=True``, which makes the scale 1.

    Args:
        tokens: number of tokens that attend to each other, without class tokens.
        block: size of a block, a divisor of `tokens`.
        embedding: length of z.

    Source: D. Bhattacharjee et al., ICCV 2023, arXiv 2308.12372, figure of FiLM in the attention, and its code. 49
    tokens in 7 blocks of 7, with an embedding of 343 numbers.

    Example:
        >>> taa = TaskAdaptedAttention(49, 7, 343)
        >>> bias = taa(torch.ones(1, 343))
        >>> tuple(bias.shape), float(bias.detach().abs().max())
        ((1, 49, 49), 0.0)
    """

    def __init__(self, tokens: int, block: int, embedding: int) -> None:
        super().__init__()
        self.random_weight_matrix = nn.Parameter(torch.zeros(tokens, block))
        self.film = Film(embedding, block)

    @property
    def tokens(self) -> int:
        """Number of tokens that the matrix is for."""
        return len(self.random_weight_matrix)

    def forward(self, z: Tensor) -> Tensor:
        """(tasks, embedding) to (tasks, tokens, tokens)."""
        gamma, beta = self.film(z)
        return block_diagonal((1 + gamma[:, None]) * self.random_weight_matrix + beta[:, None])
