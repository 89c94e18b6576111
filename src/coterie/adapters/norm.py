"""Task-scaled layer normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from coterie.adapters.film import Film


class TaskScaledNorm(nn.Module):
    """Layer normalisation with the frozen weight w modulated by the task: weight ``(1 + gamma) * w + beta``.

    The weight has the form of the released code. That code trains the bias as well; here the frozen bias stays as it
    is. The authors' slides have another weight, ``gamma' * gamma_t + beta'`` with the pretrained weight gamma' and bias
    beta'. It is not offered: no start of it gives back the frozen model, whose bias is added and not part of the scale.

    Args:
        embedding: length of z.
        width: number of features.

    Source: D. Bhattacharjee et al., ICCV 2023, arXiv 2308.12372, task-scaled norm, its weight in the form of its code.

    Example:
        >>> frozen, x = nn.LayerNorm(4), torch.randn(2, 3, 4)
        >>> bool((TaskScaledNorm(8, 4)(x, frozen, torch.ones(1, 8)) == frozen(x)).all())
        True
    """

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.ln_weight_modulation = Film(embedding, width)

    def forward(self, x: Tensor, frozen: nn.LayerNorm, z: Tensor) -> Tensor:
        """(tasks * rows, ..., width) with rows ordered by task to the same shape."""
        gamma, beta = self.ln_weight_modulation(z)
        weights = (1 + gamma) * frozen.weight + beta
        parts = x.unflatten(0, (len(weights), -1))
        # the same kernel as the frozen one, so that nothing is rounded in another way
        return torch.cat(
            [
                layer_norm(part, frozen.normalized_shape, weight, frozen.bias, frozen.eps)
                for part, weight in zip(parts, weights, strict=True)
            ]
        )
