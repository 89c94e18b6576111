"""Images with the labels of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scenes:
    """Images and their labels; n scenes of S x S pixels with K classes of garments.

    Attributes:
        images: (n, 1, S, S) in [0, 1].
        segmentation: (n, S, S) int64; 0 is the background, k + 1 class k.
        depth: (n, 1, S, S) distances; the nearest possible is 1.
        edges: (n, 1, S, S) 1 on contours, else 0.
        normals: (n, 3, S, S) unit vectors (right, down, towards the viewer); NaN on the background.
        present: (n, K) 1 for classes of which at least `PRESENT` pixels are seen, else 0.
    """

    images: Tensor
    segmentation: Tensor
    depth: Tensor
    edges: Tensor
    normals: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def targets(self) -> dict[str, Tensor]:
        """The dense labels by the name of their task."""
        return {
            "segmentation": self.segmentation,
            "depth": self.depth,
            "edges": self.edges,
            "normals": self.normals,
        }

    def rows(self, rows: Tensor) -> Scenes:
        """Some of the scenes, by index."""
        return Scenes(**{name: values[rows] for name, values in vars(self).items()})

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on a device."""
        return Scenes(**{name: values.to(device) for name, values in vars(self).items()})
