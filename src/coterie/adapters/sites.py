"""Where adapters go: the blocks of a frozen Swin, Swin-V2 or ViT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coterie.errors import SettingError

#: types of model of Hugging Face transformers that adapters fit
BACKBONES = ("swin", "swinv2", "vit")


@dataclass(frozen=True, eq=False)
class Site:
    """One transformer block.

    Attributes:
        index: among all blocks, from the input on.
        block: the block.
        attention: its attention.
        norms: its two layer normalisations.
        width: number of features.
        tokens: number of tokens that attend to each other, without class tokens.
        prefix: number of class tokens.
    """

    index: int
    block: nn.Module
    attention: nn.Module
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    width: int
    tokens: int
    prefix: int


def base_of(model: Any) -> Any:
    """The backbone inside a model of transformers.

    Raises:
        SettingError: when it is none of :data:`BACKBONES`.
    """
    found = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if found not in BACKBONES or not hasattr(model, "base_model"):
        raise SettingError(
            f"Parameter `model` should be a Swin, Swin-V2 or ViT of Hugging Face transformers (`model_type` one of "
            f"{BACKBONES}). Found {found!r}."
        )
    return model.base_model


def place_of(base: Any) -> tuple[torch.device, torch.dtype]:
    """The device and the precision of a backbone's weights.

    Raises:
        SettingError: when there are several, among which adapters could not choose.
    """
    found = {(parameter.device, parameter.dtype) for parameter in base.parameters()}
    if len(found) != 1:
        words = sorted(f"{dtype} on {device}" for device, dtype in found)
        raise SettingError(
            "Parameter `model` should have all of its weights on one device and in one precision. Found "
            f"{', '.join(words) or 'no weights'}. The likely cause is a `device_map`, or a precision that was set for "
            "some parts only. Move the whole backbone with `model.to(device, dtype)`."
        )
    return found.pop()


def stages_of(base: Any) -> list[Any]:
    """The stages of a Swin or Swin-V2; none for a ViT."""
    return [] if base.config.model_type == "vit" else list(base.encoder.layers)


def patch_grid(base: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of an image; Swin pads what is left over, ViT drops it."""
    patch = base.config.patch_size
    rows, columns = patch if isinstance(patch, list | tuple) else (patch, patch)
    if base.config.model_type == "vit":
        return height // rows, width // columns
    return -(-height // rows), -(-width // columns)


def find_sites(base: Any) -> list[Site]:
    """All blocks, from the input on, for images of the size in the configuration."""
    size = base.config.image_size
    grid = patch_grid(base, *(size if isinstance(size, list | tuple) else (size, size)))
    if base.config.model_type == "vit":
        # the blocks moved between versions of transformers
        blocks = list(base.layers if hasattr(base, "layers") else base.encoder.layer)
        return [_site(index, block, grid[0] * grid[1], 1) for index, block in enumerate(blocks)]
    sites: list[Site] = []
    for stage in stages_of(base):
        # Swin-V2 fixes its window when it is built, Swin makes it smaller while it runs
        fixed = base.config.model_type == "swinv2"
        for block in stage.blocks:
            window = block.window_size if fixed else min(base.config.window_size, *grid)
            sites.append(_site(len(sites), block, window**2, 0))
        grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    return sites


def _site(index: int, block: Any, tokens: int, prefix: int) -> Site:
    norms = (block.layernorm_before, block.layernorm_after)
    return Site(index, block, block.attention, norms, int(norms[0].normalized_shape[0]), tokens, prefix)
