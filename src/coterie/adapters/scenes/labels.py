"""Labels that follow from depth and relief."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def contours(depth: Tensor) -> Tensor:
    """(n, 1, S, S) 1 where a 4-neighbour is farther away, else 0; depth is constant within an object.

    Example:
        >>> contours(torch.tensor([[[[1.0, 1.0, 2.0]]]])).tolist()
        [[[[0.0, 1.0, 0.0]]]]
    """
    size = depth.shape[-2:]
    around = pad(depth, (1, 1, 1, 1), mode="replicate")
    neighbours = [around[..., i : i + size[0], j : j + size[1]] for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))]
    return (torch.stack(neighbours).amax(0) > depth).float()


def relief_normals(height: Tensor) -> Tensor:
    """(3, s, s) unit normals of a height field (s, s), by central differences; flat beyond the border.

    Example:
        >>> relief_normals(torch.ones(3, 3))[:, 1, 1].tolist()
        [0.0, 0.0, 1.0]
    """
    around = pad(height[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across = (around[1:-1, :-2] - around[1:-1, 2:]) / 2
    down = (around[:-2, 1:-1] - around[2:, 1:-1]) / 2
    normals = torch.stack([across, down, torch.ones_like(height)])
    return normals / normals.norm(dim=0)


def smooth(garment: Tensor) -> Tensor:
    """Twice the 3 x 3 binomial filter on an image (s, s), the border repeated.

    Example:
        >>> smooth(torch.ones(4, 4)).sum().item()
        16.0
    """
    kernel = garment.new_tensor([0.25, 0.5, 0.25])
    for _ in range(2):
        around = pad(garment[None, None], (1, 1, 1, 1), mode="replicate")
        garment = conv2d(around, (kernel[:, None] * kernel)[None, None])[0, 0]
    return garment
