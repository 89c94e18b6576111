"""Tokens cut into blocks: the size of a block, and the block-diagonal matrix."""

from __future__ import annotations

import math

from torch import Tensor, diag_embed
from torch.nn.functional import pad

from coterie.errors import SettingError


def block_size(tokens: int) -> int:
    """The divisor of the number of tokens that is nearest to its square root; the smaller one of two that tie.

    A window of 7 x 7 tokens has blocks of 7, as in the source. Other numbers of tokens are this library's
    generalisation.

    Raises:
        SettingError: when there is no token.

    Example:
        >>> [block_size(tokens) for tokens in (49, 16, 196, 12, 13)]
        [7, 4, 14, 3, 1]
    """
    if tokens < 1:
        raise SettingError(f"Parameter `tokens` should be at least 1. Found {tokens}.")
    root = math.sqrt(tokens)
    return min((size for size in range(1, tokens + 1) if tokens % size == 0), key=lambda size: (abs(size - root), size))


def block_diagonal(chunks: Tensor, before: int = 0) -> Tensor:
    """(..., tokens, block) rows to (..., before + tokens, before + tokens), zero outside the blocks.

    Rows ``k * block`` to ``(k + 1) * block`` are the k-th block. The first `before` rows and columns, those of a class
    token, are zero.

    Source: D. Bhattacharjee et al., ICCV 2023, arXiv 2308.12372, figure of the task-adapted attention.

    Example:
        >>> import torch
        >>> block_diagonal(torch.arange(1.0, 9.0).reshape(4, 2))
        tensor([[1., 2., 0., 0.],
                [3., 4., 0., 0.],
                [0., 0., 5., 6.],
                [0., 0., 7., 8.]])
    """
    tokens, size = chunks.shape[-2:]
    if tokens % size:
        raise SettingError(
            f"Parameter `chunks` should have a number of rows that its columns divide. Found {tokens} and {size}."
        )
    blocks = chunks.unflatten(-2, (tokens // size, size)).movedim(-3, -1)
    matrix = diag_embed(blocks, dim1=-4, dim2=-2).flatten(-4, -3).flatten(-2, -1)
    return pad(matrix, (before, 0, before, 0))
