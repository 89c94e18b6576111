"""A small U-Net for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.errors import SettingError, require

_GROUPS = 8


@known_arguments
def make_unet(channels: Sequence[int] = (16, 32, 64), image_channels: int = 1, size: int = 16) -> nn.Module:
    """A ``UNet2DModel`` of diffusers without attention: one block at each resolution, halved between them.

    Its initial weights come from PyTorch's random numbers: call ``torch.manual_seed`` before.

    Args:
        channels: of each resolution, from the finest; multiples of 8.
        image_channels: of the images, and of the prediction.
        size: rows and columns of the images; a multiple of 2 for every resolution but the first.

    Raises:
        SettingError: numbers of channels or a size that do not fit.
        MissingDependencyError: when diffusers is not installed.

    Source: Ho, Jain and Abbeel, NeurIPS 2020, made small.

    Example:
        >>> import torch
        >>> unet = make_unet((8, 16), size=8)
        >>> unet(torch.zeros(2, 1, 8, 8), torch.tensor([0, 7])).sample.shape
        torch.Size([2, 1, 8, 8])
    """
    try:
        widths = tuple(whole_number(width, "channels", low=_GROUPS) for width in channels)
    except TypeError:  # one number in place of a sequence
        widths = ()
    if not widths or any(width % _GROUPS for width in widths):
        raise SettingError(
            f"Parameter `channels` should be multiples of {_GROUPS}, one number a resolution. Found {channels!r}. For "
            "example channels=(16, 32, 64)."
        )
    size, image_channels = whole_number(size, "size", low=1), whole_number(image_channels, "image_channels", low=1)
    if size % 2 ** (len(widths) - 1):
        raise SettingError(
            f"Parameter `size` should be a multiple of {2 ** (len(widths) - 1)}, as {len(widths)} resolutions halve it "
            f"{len(widths) - 1} times. Found {size}. Give fewer numbers of channels or another size."
        )
    diffusers = require("diffusers", extra="diffusion", purpose="A U-Net")
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=image_channels,
        out_channels=image_channels,
        layers_per_block=1,
        block_out_channels=widths,
        norm_num_groups=_GROUPS,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        add_attention=False,
    )
