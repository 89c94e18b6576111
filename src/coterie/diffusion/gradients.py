"""Losses and gradients of single time steps, for the same images and the same noise at every step."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.diffusion.checks import check_denoiser, check_images
from coterie.diffusion.denoising import denoising_losses
from coterie.diffusion.modes import evaluating
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import ModelError, SettingError
from coterie.grouping.matrix import IntArray


@known_arguments
@dataclass(frozen=True, eq=False)
class ProbeSettings:
    """Which time steps of a denoiser are probed, on which images, and for which parameters.

    Args:
        steps: steps to probe; None: every `stride`-th one, and the last.
        stride: distance between probed steps.
        examples: number of images, drawn without replacement; all when there are fewer.
        batch: images in one backward pass; changes speed and memory only.
        condition: tensors with one row for each image, further arguments of the model.
        parameters: names of parameters, or of modules for all of theirs; None: all that are trained.

    Raises:
        SettingError: for a number that is out of range. Steps, condition and parameters are checked where they are
            used, against schedule, images and model.
    """

    steps: Sequence[int] | IntArray | None = None
    stride: int = 25
    examples: int = 256
    batch: int = 64
    condition: Sequence[Tensor] | None = None
    parameters: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("stride", "examples", "batch"):
            whole_number(getattr(self, name), name, low=1)


#: every 25th step, 256 images, all parameters that are trained
USUAL_PROBE = ProbeSettings()


@dataclass(frozen=True, eq=False)
class DenoiserProbe:
    """A denoiser, images and their noise.

    Attributes:
        parameters: name -> parameter of those that gradients are taken for.
        images: (n, C, H, W); noise: the same shape; condition: tensors with n rows each.
    """

    model: nn.Module
    schedule: NoiseSchedule
    parameters: dict[str, nn.Parameter]
    images: Tensor
    noise: Tensor
    condition: tuple[Tensor, ...]
    batch: int

    @property
    def sizes(self) -> dict[str, int]:
        """Number of entries of each parameter."""
        return {name: value.numel() for name, value in self.parameters.items()}

    def loss(self, step: int) -> float:
        """Mean loss of all images at a step."""
        with torch.no_grad():
            return sum(float(part.double()) for part in self._parts(step))

    def gradient(self, step: int) -> dict[str, Tensor]:
        """Gradient of the mean loss of all images at a step."""
        chosen = list(self.parameters.values())
        total = [torch.zeros_like(value) for value in chosen]
        with torch.enable_grad():
            for part in self._parts(step):
                if not part.requires_grad:
                    raise ModelError(
                        f"The loss at step {step} depends on none of the parameters, so that it has no gradient. A "
                        "model that runs under torch.no_grad() or detaches its output, or `parameters` that name "
                        "modules without influence on it, are likely causes."
                    )
                # not backward(): nothing may be left in, or added to, the .grad of the caller's parameters
                for sum_, value in zip(total, torch.autograd.grad(part, chosen, allow_unused=True), strict=True):
                    if value is not None:  # pyright: ignore[reportUnnecessaryComparison] - allow_unused gives None
                        sum_.add_(value)
        return dict(zip(self.parameters, total, strict=True))

    def _parts(self, step: int) -> Generator[Tensor]:
        """The share of each batch in the mean loss."""
        device, count = next(iter(self.parameters.values())).device, len(self.images)
        for start in range(0, count, self.batch):
            rows = slice(start, start + self.batch)
            clean, noise, *condition = (x[rows].to(device) for x in (self.images, self.noise, *self.condition))
            t = torch.full((len(clean),), step, dtype=torch.long, device=device)
            yield denoising_losses(self.model, self.schedule, clean, noise, t, *condition).sum() / count


@contextlib.contextmanager
def probing(
    model: nn.Module, images: Tensor, schedule: NoiseSchedule, settings: ProbeSettings, seed: int
) -> Generator[DenoiserProbe]:
    """A probe of a model in evaluation mode; afterwards modes, random numbers and `requires_grad` are as before."""
    _check(model, images, settings.condition)
    chosen = choose(model, settings.parameters)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[: settings.examples]
    noise = torch.randn((len(rows), *images.shape[1:]), generator=generator).to(images.dtype)
    given = tuple(value[rows.to(value.device)] for value in settings.condition or ())
    flags = {value: value.requires_grad for value in chosen.values()}
    try:
        device = next((value.device for value in chosen.values()), torch.device("cpu"))
        with evaluating(model), random_numbers(device):
            for value in flags:  # the shadow copies of a moving average often ask for no gradient
                value.requires_grad_(True)
            yield DenoiserProbe(model, schedule, chosen, images[rows.to(images.device)], noise, given, settings.batch)
    finally:
        for value, flag in flags.items():
            value.requires_grad_(flag)


def choose(model: nn.Module, parameters: Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Parameters by their names or the names of modules; None: those that are trained, or all when none is."""
    every = dict(model.named_parameters())
    if parameters is None:
        return {name: value for name, value in every.items() if value.requires_grad} or every
    wanted = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    if not wanted:
        raise SettingError(
            "Parameter `parameters` is empty, so that there is nothing to take gradients for. Leave it out for all "
            f"that are trained, or name some of {', '.join(dict.fromkeys(other.split('.')[0] for other in every))}."
        )
    for name in wanted:
        if not any(other == name or other.startswith(f"{name}.") for other in every):
            raise SettingError(
                f"Parameter `parameters` names {name!r}, which is neither a parameter of the model nor a module with "
                f"parameters. Its modules are {', '.join(dict.fromkeys(other.split('.')[0] for other in every))}."
            )
    return {k: v for k, v in every.items() if any(k == name or k.startswith(f"{name}.") for name in wanted)}


def probed_steps(n_steps: int, steps: Sequence[int] | IntArray | None, stride: int) -> IntArray:
    """Every stride-th step from 0, and always the last one; or the given ones, in order.

    Example:
        >>> probed_steps(10, None, 4).tolist()
        [0, 4, 8, 9]
    """
    if steps is None:
        return np.unique(np.append(np.arange(0, n_steps, stride), n_steps - 1)).astype(np.int64)
    found = np.unique(np.asarray(steps))
    if not len(found) or found.dtype.kind not in "iu" or found[0] < 0 or found[-1] >= n_steps:
        raise SettingError(
            f"Parameter `steps` should hold whole numbers from 0 to {n_steps - 1}. Found {list(steps)!r}. Leave it out "
            "to probe every `stride`-th step."
        )
    return found.astype(np.int64)


def check_gradient(sketch: Tensor, step: int) -> Tensor:
    """A gradient has a direction."""
    size = float(sketch.double().norm())
    if not np.isfinite(size) or size == 0:
        raise ModelError(
            f"The gradient at step {step} is {'zero' if size == 0 else 'not finite'}, so that it has no direction. "
            "Likely causes: parameters that the loss does not depend on (see `parameters`; layers before one that was "
            "initialised with zeros), a training that diverged, or images that are not finite."
        )
    return sketch


def _check(model: nn.Module, images: Tensor, condition: Sequence[Tensor] | None) -> None:
    check_denoiser(model)
    check_images(images)
    for number, value in enumerate(condition or ()):
        if len(value) != len(images):
            raise SettingError(
                f"Parameter `condition` should be tensors with one row for each of the {len(images)} images. Found "
                f"{len(value)} rows in number {number}. Pass a sequence of tensors, even when it is only one."
            )
