"""The loss of a denoiser at given time steps, for each example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import ModelError

#: called as ``model(x_t, time, *condition)``
Denoiser = Callable[..., Any]


def as_output(result: Any) -> Tensor:
    """The tensor that a denoiser returned: itself, the `sample` of an output of diffusers, or a tuple's first entry.

    Raises:
        ModelError: when there is no tensor.

    Example:
        >>> import torch
        >>> as_output((torch.ones(2), "more")).tolist()
        [1.0, 1.0]
    """
    found = result
    if not isinstance(found, Tensor):
        found = result[0] if isinstance(result, tuple) and result else getattr(result, "sample", None)
    if not isinstance(found, Tensor):
        raise ModelError(
            "The model should return a tensor, an object with a tensor `sample`, or a tuple that starts with a tensor. "
            f"Found {type(result).__name__}. Wrap it in a function that returns the prediction."
        )
    return found


def denoising_losses(
    model: Denoiser, schedule: NoiseSchedule, clean: Tensor, noise: Tensor, t: Tensor, *condition: Any
) -> Tensor:
    """Mean squared error of the prediction for each example, not weighted by the time step; lower is better.

    Args:
        model: called as ``model(x_t, schedule.model_time(t), *condition)``. When its output has twice the channels of
            the images, the second half is a learned variance and is not looked at.
        schedule: noise schedule.
        clean: (B, C, H, W) images.
        noise: the noise that is added, of the same shape.
        t: (B,) time steps.
        condition: further arguments of the model.

    Returns:
        (B,) means over C, H and W, with the graph.

    Raises:
        ModelError: when the prediction does not have the shape of the images.

    Source:
        Ho et al., arXiv 2006.11239, eq. 14 (L_simple), for the noise as target.

    Example:
        >>> import torch
        >>> schedule = NoiseSchedule.linear(10)
        >>> clean, noise = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
        >>> denoising_losses(lambda x, t: 0 * x, schedule, clean, noise, torch.tensor([0, 5, 9])).tolist()
        [1.0, 1.0, 1.0]
    """
    output = as_output(model(schedule.add_noise(clean, noise, t), schedule.model_time(t), *condition))
    if output.ndim == clean.ndim and output.ndim > 1 and output.shape[1] == 2 * clean.shape[1]:
        output = output[:, : clean.shape[1]]
    if output.shape != clean.shape:
        raise ModelError(
            f"The model should return a prediction of the shape of its images, {tuple(clean.shape)}. Found "
            f"{tuple(output.shape)}."
        )
    return (output - schedule.target(clean, noise, t)).square().flatten(1).mean(1)
