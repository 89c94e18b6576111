"""A small convolutional decoder, shared by all tasks with dense predictions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate


class Decoder(nn.Module):
    """From the maps of all stages to one map at the resolution of the first.

    Every map is projected to `width` features. From the coarsest on, what there is is enlarged, added to the next
    finer map and convolved. The source mirrors the Swin stages instead; this decoder is smaller, and the same for all
    backbones. As in the source's figure, tasks share it and differ in their heads. The released code gives every task
    a decoder of its own.

    Args:
        widths: features of the maps, finest first.
        width: features inside.

    Example:
        >>> import torch
        >>> maps = [torch.randn(2, 8, 14, 14), torch.randn(2, 16, 7, 7)]
        >>> tuple(Decoder([8, 16], 4)(maps).shape)
        (2, 4, 14, 14)
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.lateral = nn.ModuleList([nn.Conv2d(found, width, 1) for found in widths])
        self.smooth = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in widths])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (rows, features, h, w), finest first, to (rows, width, h, w) of the finest."""
        levels = [layer(found) for layer, found in zip(self.lateral, maps, strict=True)]
        merged = [self.smooth[-1](gelu(levels[-1]))]
        for index, (_, finer) in enumerate(pairwise(reversed(levels)), start=2):
            larger = interpolate(merged[-1], size=finer.shape[-2:], mode="bilinear", align_corners=False)
            merged.append(self.smooth[-index](gelu(finer + larger)))
        return merged[-1]
