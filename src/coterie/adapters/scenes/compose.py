"""Garments to scenes: what is drawn, and painting from far to near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from coterie._check import is_whole
from coterie._surface import known_arguments
from coterie.adapters.scenes.labels import contours, relief_normals, smooth
from coterie.adapters.scenes.scenes import Scenes
from coterie.errors import SettingError, require

BACKGROUND = 2.0
RELIEF = 4.0
#: a class counts as present in a scene when it shows at least this many pixels
PRESENT = 20
_COVERED = 0.1
_NOISE = 0.02
_GRID = 8


class SceneSizes(TypedDict, total=False):
    """Options of :func:`compose_scenes` about sizes."""

    side: int
    largest: int
    smallest: int
    objects: tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """SceneSizes of scenes and of what is in them, see :func:`compose_scenes`."""

    side: int = 56
    largest: int = 28
    smallest: int = 16
    objects: tuple[int, int] = (3, 5)

    def __post_init__(self) -> None:
        side, largest, smallest, objects = self.side, self.largest, self.smallest, self.objects
        if not (0 < smallest <= largest <= side and largest < BACKGROUND * smallest):
            raise SettingError(
                f"Parameters should have 0 < smallest <= largest <= side and largest < {BACKGROUND:g} x smallest (the "
                f"background is at distance {BACKGROUND:g}). Found smallest={smallest}, largest={largest}, side={side}."
            )
        if not 1 <= objects[0] <= objects[1]:
            raise SettingError(
                "Parameter `objects` should be the fewest and the most garments of a scene, from 1 on. Found "
                f"{objects}."
            )


@known_arguments
def compose_scenes(
    garments: Tensor,
    labels: Tensor,
    count: int,
    *,
    seed: int,
    classes: int | None = None,
    **sizes: Unpack[SceneSizes],
) -> Scenes:
    """Scenes by the recipe of :mod:`coterie.adapters.scenes`; the same seed gives the same scenes, on the CPU.

    Args:
        garments: (m, h, h) grey images in [0, 1] on black.
        labels: (m,) class of each, from 0.
        count: number of scenes, at least 1.
        seed: seed of everything that is drawn.
        classes: K; by default the largest label plus 1.
        sizes: `side` S, pixels of the canvas (56); `largest`, pixels of a garment at distance 1 (28); `smallest`,
            pixels of a garment at the farthest distance, largest / smallest, which must be below 2 (16); `objects`,
            fewest and most garments of a scene (3 and 5).

    Raises:
        SettingError: images, labels or sizes that do not fit.
        MissingDependencyError: scipy is not installed.

    Cost: about a millisecond a scene on one core.

    Example:
        >>> disc = (torch.cartesian_prod(torch.arange(9.0), torch.arange(9.0)) - 4).norm(dim=1).reshape(1, 9, 9) < 4
        >>> scenes = compose_scenes(disc.float(), torch.tensor([0]), 2, seed=0)
        >>> tuple(scenes.images.shape), scenes.segmentation.unique().tolist()
        ((2, 1, 56, 56), [0, 1])
    """
    _check(garments, labels, count, classes)
    canvas = Canvas(**sizes)
    garments, labels = garments.detach().cpu().float(), labels.detach().cpu().long()
    classes = classes or int(labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    parts = [_scene(garments, labels, canvas, generator) for _ in range(count)]
    images, segmentation, depth, normals = (torch.stack(part) for part in zip(*parts, strict=True))
    counts = torch.stack([(segmentation == k + 1).sum((1, 2)) for k in range(classes)], 1)
    return Scenes(images, segmentation, depth, contours(depth), normals, (counts >= PRESENT).float())


def _scene(
    garments: Tensor, labels: Tensor, canvas: Canvas, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, segmentation, depth and normals of one scene, painted from far to near."""
    side, largest = canvas.side, canvas.largest
    grid = torch.rand(1, 1, _GRID, _GRID, generator=generator)
    image = 0.05 + 0.2 * interpolate(grid, size=(side, side), mode="bicubic", align_corners=True)[0].clamp(0, 1)
    segmentation = torch.zeros(side, side, dtype=torch.long)
    depth = torch.full((1, side, side), BACKGROUND)
    normals = torch.full((3, side, side), torch.nan)
    count = int(torch.randint(canvas.objects[0], canvas.objects[1] + 1, (), generator=generator))
    chosen = torch.randint(len(labels), (count,), generator=generator)
    distances = 1 + (largest / canvas.smallest - 1) * torch.rand(count, generator=generator)
    for which, z in zip(chosen.tolist(), distances.sort(descending=True).values.tolist(), strict=True):
        size = round(largest / z)
        top, left = torch.randint(side - size + 1, (2,), generator=generator).tolist()
        window = (slice(None), slice(top, top + size), slice(left, left + size))
        garment = interpolate(garments[which][None, None], size=(size, size), mode="bilinear", antialias=True)[0, 0]
        seen = _cover(garment)
        image[window] = torch.where(seen, garment / z, image[window])
        depth[window] = torch.where(seen, z, depth[window])
        normals[window] = torch.where(seen, relief_normals(RELIEF * smooth(garment)), normals[window])
        segmentation[window[1:]] = torch.where(seen, labels[which] + 1, segmentation[window[1:]])
    noise = _NOISE * torch.randn(image.shape, generator=generator)
    return (image + noise).clamp(0, 1), segmentation, depth, normals


def _cover(garment: Tensor) -> Tensor:
    ndimage = require("scipy.ndimage", extra="all", purpose="Composing scenes")
    return torch.from_numpy(ndimage.binary_fill_holes((garment > _COVERED).numpy()))


def _check(garments: Tensor, labels: Tensor, count: object, classes: int | None) -> None:
    if not is_whole(count) or count < 1:
        raise SettingError(f"Parameter `count` should be a whole number of scenes from 1 on. Found {count!r}.")
    if garments.ndim != 3 or garments.shape[1] != garments.shape[2] or len(garments) != len(labels):
        raise SettingError(
            "Parameters `garments` and `labels` should be (m, h, h) grey images and their (m,) classes. Found shapes "
            f"{tuple(garments.shape)} and {tuple(labels.shape)}. Drop a dimension of channels with `garments[:, 0]`."
        )
    if not len(garments):
        raise SettingError(
            "Parameter `garments` should hold at least one image. Found none. The likely cause is a selection of a "
            "class that the data do not have."
        )
    if int(labels.min()) < 0:
        raise SettingError(
            f"Parameter `labels` should be classes from 0 on. Found {int(labels.min())}. Leave out images without a "
            "class."
        )
    if classes is not None and classes <= int(labels.max()):
        raise SettingError(
            f"Parameter `classes` should exceed every label. Found classes={classes} and label {int(labels.max())}; "
            "labels start at 0."
        )
    if not bool((garments.min() >= 0) & (garments.max() <= 1)):
        raise SettingError(
            "Parameter `garments` should lie in [0, 1]. Found values between "
            f"{float(garments.min())} and {float(garments.max())}; bytes are divided by 255."
        )
