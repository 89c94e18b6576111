"""Affinity of time steps by looking ahead: what one step of gradient descent on each does for every other."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from coterie._check import positive
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._surface import known_arguments
from coterie.diffusion.affinity import StepAffinity
from coterie.diffusion.gradients import (
    USUAL_PROBE,
    DenoiserProbe,
    ProbeSettings,
    check_gradient,
    probed_steps,
    probing,
)
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import ModelError
from coterie.grouping.matrix import FloatArray, IntArray


@keywords_into(probe=ProbeSettings, context=Context)
@known_arguments
def lookahead_affinity(
    model: nn.Module,
    images: Tensor,
    schedule: NoiseSchedule,
    probe: ProbeSettings = USUAL_PROBE,
    context: Context = DEFAULT_CONTEXT,
    *,
    learning_rate: float,
) -> StepAffinity:
    """Share of each step's loss that one step of gradient descent on another step's loss saves.

    Z[target, source] = 1 - L_target(theta - learning_rate g_source) / L_target(theta), with the same images and the
    same noise in both losses and for all steps. To first order it is learning_rate <g_target, g_source> / L_target:
    unlike a cosine it depends on how large gradients and losses are. The model is left as it was, bit for bit.

    Args:
        model: see :func:`coterie.diffusion.affinity.step_affinity`.
        images: (n, C, H, W), scaled as in training.
        schedule: noise schedule.
        probe: which steps, all as target and as source; which images; which parameters move.
        context: seed, which draws images and noise, and progress, told of the stage "lookahead"; nothing else of it is
            used.
        learning_rate: size of the step. Small ones give the first-order value, but below about 1e-6 of change the
            losses' rounding errors show.

    Raises:
        ModelError: for a gradient or a loss that is zero or not finite; the latter also after a step that was too long.
        SettingError: for an argument that is out of range.

    Cost:
        For m steps m backward and m (m + 2) forward passes over the examples. A second copy of the parameters.

    Source:
        Fifty et al., "Efficiently Identifying Task Groupings for Multi-Task Learning", arXiv 2109.04617, eq. 1, applied
        to time steps. Go et al., arXiv 2306.00354, use cosines instead.

    Example:
        >>> class Denoiser(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.scale = nn.Parameter(torch.tensor(0.5))
        ...
        ...     def forward(self, x, t):
        ...         return self.scale * x
        >>> images = torch.zeros(16, 1, 4, 4)
        >>> ends = ProbeSettings(stride=999)
        >>> found = lookahead_affinity(Denoiser(), images, NoiseSchedule.linear(1000), ends, learning_rate=0.1)
        >>> [[f"{value:+.2f}" for value in row] for row in found.values]
        [['+0.00', '+0.00'], ['+0.01', '+0.33']]
    """
    learning_rate = positive(learning_rate, "learning_rate")
    probed = probed_steps(schedule.n_steps, probe.steps, probe.stride)
    values = np.empty((len(probed), len(probed)))
    with probing(model, images, schedule, probe, context.seed) as found:
        before = _losses(found, probed)
        for column, source in enumerate(probed.tolist()):
            gradient = found.gradient(source)
            check_gradient(torch.stack([value.double().norm() for value in gradient.values()]), source)
            with moved(found.parameters, gradient, learning_rate):
                values[:, column] = 1 - _losses(found, probed) / before
            context.progress("lookahead", column + 1, len(probed))
        facts = {"examples": len(found.images), "seed": context.seed, "learning_rate": learning_rate}
    facts |= {"parameters": sum(found.sizes.values()), "prediction": schedule.prediction}
    return StepAffinity(probed, values, schedule.n_steps, "lookahead", facts)


@contextlib.contextmanager
def moved(parameters: Mapping[str, nn.Parameter], direction: Mapping[str, Tensor], size: float) -> Generator[None]:
    """Parameters less `size` times a direction; afterwards copies of what they were, not what adding up would give."""
    before = {name: value.detach().clone() for name, value in parameters.items()}
    try:
        with torch.no_grad():
            for name, value in parameters.items():
                value.sub_(direction[name], alpha=size)
        yield
    finally:
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(before[name])


def _losses(probe: DenoiserProbe, steps: IntArray) -> FloatArray:
    values = np.array([probe.loss(step) for step in steps.tolist()])
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        step = int(steps[wrong][0])
        raise ModelError(
            f"The loss at step {step} is {values[wrong][0]}, so that no share of it can be saved. A `learning_rate` "
            "that is too large, a training that diverged, or images that are all the same are likely causes."
        )
    return values
