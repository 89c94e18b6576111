"""Heads: what turns the feature maps of an adapted backbone into the prediction of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from coterie._check import is_whole
from coterie._surface import known_arguments
from coterie.errors import SettingError


@known_arguments
@dataclass(frozen=True)
class Dense:
    """A map of the image's size.

    Args:
        channels: numbers a pixel: classes of a segmentation, 1 for depth or edges, 3 for normals.
    """

    channels: int

    def __post_init__(self) -> None:
        _check("channels", self.channels)


@known_arguments
@dataclass(frozen=True)
class Image:
    """A few numbers an image.

    Args:
        outputs: how many: classes, or 1 for a regression.
    """

    outputs: int

    def __post_init__(self) -> None:
        _check("outputs", self.outputs)


Head = Dense | Image
KINDS: dict[str, type[Dense] | type[Image]] = {"dense": Dense, "image": Image}


def _check(name: str, value: object) -> None:
    if not is_whole(value) or value < 1:
        raise SettingError(f"Parameter `{name}` of a head should be a whole number from 1 on. Found {value!r}.")


def head_to_dict(head: Head | None) -> dict[str, Any] | None:
    """JSON-ready.

    Example:
        >>> head_to_dict(Dense(3)), head_from_dict({"kind": "image", "outputs": 10})
        ({'kind': 'dense', 'channels': 3}, Image(outputs=10))
    """
    return None if head is None else {"kind": type(head).__name__.lower(), **asdict(head)}


def head_from_dict(data: Mapping[str, Any] | None) -> Head | None:
    """The inverse of :func:`head_to_dict`."""
    if data is None:
        return None
    return KINDS[data["kind"]](**{name: value for name, value in data.items() if name != "kind"})


class DenseHead(nn.Module):
    """Two convolutions on what the shared decoder gives, enlarged to the image by bilinear interpolation.

    Args:
        width: features of the decoder.
        channels: numbers a pixel.

    Example:
        >>> import torch
        >>> tuple(DenseHead(8, 3)(torch.randn(2, 8, 7, 7), (28, 28)).shape)
        (2, 3, 28, 28)
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, channels, 1))

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """(rows, width, h, w) to (rows, channels, *size)."""
        return interpolate(self.layers(features), size=size, mode="bilinear", align_corners=False)


class ImageHead(nn.Module):
    """A linear map of the mean of the last feature map.

    Args:
        width: features of the last map.
        outputs: numbers an image.

    Example:
        >>> import torch
        >>> tuple(ImageHead(8, 10)([torch.randn(2, 8, 7, 7)]).shape)
        (2, 10)
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The maps, of which the last is used, to (rows, outputs)."""
        return self.linear(maps[-1].mean((2, 3)))


def make_head(head: Head | None, decoder: int, width: int) -> nn.Module:
    """The module of a head; an identity for None.

    Args:
        head: what is wanted.
        decoder: features of the shared decoder.
        width: features of the backbone's last map.
    """
    if isinstance(head, Dense):
        return DenseHead(decoder, head.channels)
    return ImageHead(width, head.outputs) if isinstance(head, Image) else nn.Identity()
