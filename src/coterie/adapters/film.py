"""Feature-wise linear modulation (FiLM) by a task's representation."""

from __future__ import annotations

from torch import Tensor, nn


class Film(nn.Module):
    """Linear map from a task's representation z to a scale gamma and a shift beta: ``(1 + gamma) * x + beta``.

    Weight and bias start at zero, so that gamma and beta are exactly 0 and the modulation changes nothing. The
    released code starts the bias alone at zero.

    Args:
        embedding: length of z.
        width: length of gamma and of beta.

    Source: D. Bhattacharjee et al., ICCV 2023, arXiv 2308.12372, and its code.

    Example:
        >>> import torch
        >>> gamma, beta = Film(8, 3)(torch.ones(1, 8))
        >>> gamma.tolist(), beta.tolist()
        ([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]])
    """

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.gb_weights = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.gb_weights.weight)
        nn.init.zeros_(self.gb_weights.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(tasks, embedding) to gamma and beta, each (tasks, width)."""
        gamma, beta = self.gb_weights(z).chunk(2, dim=-1)
        return gamma, beta


def modulate(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """``(1 + gamma) * x + beta`` for rows that are ordered by task.

    Args:
        x: (tasks * rows, ..., width); the rows of the first task come first.
        gamma: (tasks, width).
        beta: (tasks, width).

    Example:
        >>> import torch
        >>> modulate(torch.ones(2, 1), torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)).tolist()
        [[1.0], [2.0]]
    """
    by_task = x.unflatten(0, (len(gamma), -1))
    shape = (len(gamma), *[1] * (by_task.dim() - 2), gamma.shape[-1])
    return ((1 + gamma.reshape(shape)) * by_task + beta.reshape(shape)).flatten(0, 1)
