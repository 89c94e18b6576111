"""Checks of arguments that several functions of this package share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from coterie.errors import SettingError


def check_images(images: Any, *, ndim: int | None = None) -> None:
    """Raise SettingError unless these are images that a denoiser can be given.

    Args:
        images: what was given.
        ndim: number of dimensions; None takes two or more.
    """
    fits = isinstance(images, Tensor) and images.is_floating_point() and len(images.shape) >= 2 and len(images) > 0
    if not fits or (ndim is not None and images.ndim != ndim):
        found = (
            f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise SettingError(
            "Parameter `images` should be a floating-point tensor (n, C, H, W), scaled as in training, usually to "
            f"[-1, 1]. Found {found}. Arrays of numpy become a tensor with torch.from_numpy(images).float()."
        )


def check_denoiser(model: Any) -> None:
    """Raise SettingError unless this is a module with parameters."""
    if not isinstance(model, nn.Module) or not any(True for _ in model.parameters()):
        raise SettingError(
            f"Parameter `model` should be a torch.nn.Module with parameters. Found {type(model).__name__}. Put a "
            "function that calls a network into the forward of a module that holds it."
        )
