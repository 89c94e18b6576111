"""The bottleneck of an adapter, with a skip from the adapter before it."""

from __future__ import annotations

from torch import Tensor, nn

from coterie.adapters.film import Film, modulate


class Bottleneck(nn.Module):
    """``h_i = Up(Down(FiLM(z', x_i + h_{i-1})))`` without a non-linearity; Down has a third of the features.

    Up starts at zero, so that h_i is exactly 0. The released code starts it at random and takes h as the output of
    the encoder; here h is added to the output of the frozen block, so that the adapted model starts as the frozen one.

    Args:
        embedding: length of z'.
        width: number of features.

    Source: D. Bhattacharjee et al., ICCV 2023, arXiv 2308.12372, adapter in its code.

    Example:
        >>> import torch
        >>> h = Bottleneck(8, 6)(torch.randn(2, 4, 6), None, torch.ones(1, 8))
        >>> tuple(h.shape), float(h.detach().abs().max())
        ((2, 4, 6), 0.0)
    """

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.film = Film(embedding, width)
        self.down = nn.Linear(width, max(1, width // 3))
        self.up = nn.Linear(max(1, width // 3), width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, skip: Tensor | None, z: Tensor) -> Tensor:
        """(tasks * rows, tokens, width) with rows ordered by task to the same shape; `skip` is h of the one before."""
        return self.up(self.down(modulate(x if skip is None else x + skip, *self.film(z))))
