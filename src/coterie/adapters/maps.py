"""Feature maps of a backbone: tokens laid out as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from coterie.adapters.sites import patch_grid, stages_of


def map_widths(base: Any) -> list[int]:
    """Features of the maps that :func:`feature_maps` gives: one a stage of a Swin, one of a ViT."""
    config = base.config
    if config.model_type == "vit":
        return [int(config.hidden_size)]
    return [int(config.embed_dim * 2**stage) for stage in range(len(config.depths))]


def feature_maps(
    base: Any, before: Sequence[tuple[Tensor, tuple[int, int]]], last: Tensor, image: tuple[int, int]
) -> list[Tensor]:
    """(rows, features, h, w) maps, finest first: what enters every patch merging, and the backbone's last states.

    Args:
        base: the backbone.
        before: tokens before every patch merging, with their height and width.
        last: (rows, tokens, features) last hidden states; class tokens first.
        image: height and width of the image in pixels.
    """
    height, width = patch_grid(base, *image)
    for stage in stages_of(base):
        if stage.downsample is not None:
            height, width = -(-height // 2), -(-width // 2)
    tokens = last[:, last.shape[1] - height * width :]
    return [_image(states, size, len(last)) for states, size in [*before, (tokens, (height, width))]]


def _image(states: Tensor, size: tuple[int, int], rows: int) -> Tensor:
    """What was recorded before the tasks parted is repeated for each of them."""
    return states.repeat(rows // len(states), 1, 1).unflatten(1, size).permute(0, 3, 1, 2)
