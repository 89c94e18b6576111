"""Images from a trained denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.diffusion.checks import check_denoiser
from coterie.diffusion.denoising import as_output
from coterie.diffusion.modes import evaluating
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import SettingError


@known_arguments
@torch.no_grad()
def draw_samples(
    model: nn.Module,
    schedule: NoiseSchedule | Any,
    count: int,
    shape: Sequence[int],
    *,
    steps: int = 50,
    seed: int = 0,
    batch: int = 256,
    clip: bool = True,
) -> Tensor:
    """Draw images, deterministically from their first noise (DDIM with eta = 0; Euler steps for a flow).

    At each of the `steps` time steps the network's output gives an estimate of the image and of the noise, and the two
    are mixed again as the next time step has them. For straight paths (flow matching) this is the step of Euler. Time
    steps are spaced as diffusers' "trailing": from the last one in equal strides, and the last estimate of the image is
    the result. The same seed gives the same first noise for every model and batch size.

    Args:
        model: any denoiser that is a module; put in evaluation mode for the while, and left as it was.
        schedule: noise schedule, or a scheduler of diffusers, whose own steps are then taken.
        count: number of images.
        shape: (C, H, W) of an image.
        steps: forward passes, at most T.
        seed: of the first noise.
        batch: images in a forward pass.
        clip: keep estimates of the image in [-1, 1]; those of the noise stay as they are, as in diffusers. Not for a
            flow, and not for latents. A scheduler of diffusers has its own setting.

    Returns:
        (count, C, H, W) float32, on the CPU.

    Raises:
        SettingError: a count or shape out of range, something else in place of a model or schedule, or a schedule that
            does not fit the prediction.

    Source: Song, Meng and Ermon, ICLR 2021, equation 12; Lin et al., WACV 2024, table 2, for the spacing.

    Example:
        >>> blank = nn.Conv2d(1, 1, 1)
        >>> _ = blank.weight.data.zero_(), blank.bias.data.zero_()
        >>> class Denoiser(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = blank
        ...     def forward(self, x, t):
        ...         return self.layer(x)
        >>> draw_samples(Denoiser(), NoiseSchedule.cosine(100, "sample"), 2, (1, 4, 4), steps=5).abs().max()
        tensor(0.)
    """
    count, batch = whole_number(count, "count", low=1), whole_number(batch, "batch", low=1)
    check_denoiser(model)
    own = isinstance(schedule, NoiseSchedule)
    if not own and not (hasattr(schedule, "set_timesteps") and hasattr(schedule, "step")):
        raise SettingError(
            "Parameter `schedule` should be a NoiseSchedule or a scheduler of diffusers with `set_timesteps` and "
            f"`step`. Found {type(schedule).__name__}. For example schedule=NoiseSchedule.linear(1000)."
        )
    steps = whole_number(steps, "steps", low=1, high=schedule.n_steps if own else None)
    generator = torch.Generator().manual_seed(whole_number(seed, "seed", low=0))
    first = torch.randn((count, *_sides(shape)), generator=generator)
    device = next(model.parameters()).device
    with evaluating(model):
        parts = [
            (
                _ddim(model, schedule, part.to(device), steps, clip)
                if own
                else _scheduler(model, schedule, part.to(device), steps)
            ).cpu()
            for part in first.split(batch)
        ]
    return torch.cat(parts)


def _sides(shape: Any) -> tuple[int, ...]:
    """The shape of an image, whole numbers."""
    if isinstance(shape, str) or not isinstance(shape, Sequence) or not shape:
        raise SettingError(f"Parameter `shape` should be (C, H, W) of an image. Found {shape!r}.")
    return tuple(whole_number(side, "shape", low=1) for side in cast("Sequence[Any]", shape))


def trailing(n_steps: int, steps: int) -> list[int]:
    """Time steps of a sampler, from the last one in equal strides.

    Example:
        >>> trailing(1000, 4)
        [999, 749, 499, 249]
    """
    return (np.round(n_steps - np.arange(steps) * (n_steps / steps)).astype(np.int64) - 1).tolist()


def _ddim(model: nn.Module, schedule: NoiseSchedule, x: Tensor, steps: int, clip: bool) -> Tensor:
    visited = trailing(schedule.n_steps, steps)
    after = [(float(schedule.signal[t]), float(schedule.noise[t])) for t in visited[1:]] + [(1.0, 0.0)]
    for step, (signal, noise) in zip(visited, after, strict=True):
        t = torch.full((len(x),), step, device=x.device)
        output = as_output(model(x, schedule.model_time(t)))[:, : x.shape[1]]  # without a learned variance
        clean = schedule.estimate_clean(output, x, t)
        eps = _noise_of(schedule, output, clean, x, step)
        if clip and schedule.prediction != "flow":
            clean = clean.clamp(-1, 1)
        x = signal * clean + noise * eps
    return x


def _noise_of(schedule: NoiseSchedule, output: Tensor, clean: Tensor, x: Tensor, step: int) -> Tensor:
    """The noise that goes with an estimate of the image."""
    if schedule.prediction == "epsilon":
        return output
    if schedule.prediction == "flow":
        return output + clean
    a, s = float(schedule.signal[step]), float(schedule.noise[step])
    return (a * output + s * x) / (a * a + s * s) if schedule.prediction == "v" else (x - a * clean) / max(s, 1e-12)


def _scheduler(model: nn.Module, scheduler: Any, x: Tensor, steps: int) -> Tensor:
    """With the steps of a scheduler of diffusers."""
    scheduler.set_timesteps(steps)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = as_output(model(scaled, t.to(x.device).expand(len(x))))
        x = scheduler.step(output, t, x).prev_sample
    return x
