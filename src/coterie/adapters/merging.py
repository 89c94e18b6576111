"""What an adapter hands to the next one, taken through the backbone's patch merging."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


def merge_skip(skip: Tensor, size: tuple[int, int], reduction: nn.Linear) -> Tensor:
    """(rows, height * width, C) to (rows, ceil(height / 2) * ceil(width / 2), 2 C), linear, without a parameter.

    Every 2 x 2 neighbours are put side by side and go through the frozen reduction of the backbone's own patch
    merging, without its normalisation: that would blow up a skip near zero. So a skip of 0 stays 0, and features keep
    the meaning that the backbone gives them. The released code trains a patch merging for the skip.

    Args:
        skip: tokens row by row.
        size: height and width in tokens.
        reduction: (4 C to 2 C) without a bias.

    Example:
        >>> reduction = nn.Linear(4, 2, bias=False)
        >>> tuple(merge_skip(torch.ones(1, 9, 1), (3, 3), reduction).shape)
        (1, 4, 2)
    """
    height, width = size
    grid = pad(skip.unflatten(1, (height, width)), (0, 0, 0, width % 2, 0, height % 2))
    # the order of the neighbours is that of Swin and Swin-V2 in transformers
    near = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return reduction(torch.cat(near, -1)).flatten(1, 2)
