"""Validation losses of a denoiser, interval by interval, and what they say about negative transfer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.diffusion.checks import check_denoiser, check_images
from coterie.diffusion.denoising import denoising_losses
from coterie.diffusion.modes import evaluating
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import SettingError
from coterie.evaluation.intervals import Figure, Interval, Noise, resample, t_interval, weighted_mean
from coterie.grouping.intervals.programme import Intervals

Floats = NDArray[np.float64]
_RESAMPLES = 2000


@known_arguments
@torch.no_grad()
def step_losses(
    model: nn.Module,
    images: Tensor,
    schedule: NoiseSchedule,
    intervals: Intervals,
    *,
    draws: int = 4,
    seed: int = 0,
    batch: int = 256,
    only: Sequence[int] | None = None,
) -> Floats:
    """Mean loss of each image in each interval, with fixed time steps and noise; lower is better.

    For every image and interval, `draws` steps are drawn, one from each of as many equal parts of the interval, each
    with noise of its own. They depend on `seed` and the order of the images only, so that two models see the same and
    their losses can be subtracted image by image.

    Args:
        model: put in evaluation mode for the while, and left as it was.
        images: (n, C, H, W) validation images in [-1, 1].
        schedule: noise schedule.
        intervals: of its time steps.
        draws: time steps for each image and interval.
        seed: of steps and noise.
        batch: examples in a forward pass; it does not change what is drawn.
        only: numbers of the intervals that are wanted, for an expert; the columns of the others are NaN.

    Returns:
        (n, k) float64.

    Raises:
        SettingError: a count out of range, something else in place of model or images, or intervals of another number
            of time steps.

    Cost: n k draws forward passes of an example.
    """
    draws, batch = whole_number(draws, "draws", low=1), whole_number(batch, "batch", low=1)
    check_denoiser(model)
    check_images(images)
    if intervals.n != schedule.n_steps:
        raise SettingError(
            f"Parameter `intervals` should be about the schedule's {schedule.n_steps} time steps. Found {intervals.n}."
        )
    wanted = (
        range(intervals.k)
        if only is None
        else sorted({whole_number(i, "only", low=0, high=intervals.k - 1) for i in only})
    )
    device = next(model.parameters()).device
    streams = np.random.SeedSequence(whole_number(seed, "seed", low=0)).spawn(2)
    step_rng, noise_rng = (np.random.default_rng(stream) for stream in streams)
    found = np.full((len(images), intervals.k), np.nan)
    size = max(1, batch // draws)
    with evaluating(model):
        for left in range(0, len(images), size):
            clean = images[left : left + size]
            shape = (len(clean), intervals.k, draws)
            t = _spread(intervals, step_rng.random(shape))
            noise = noise_rng.standard_normal((*shape, *clean.shape[1:]), dtype=np.float32)
            repeated = clean.repeat_interleave(draws, 0).to(device)
            for i in wanted:
                eps = torch.from_numpy(noise[:, i]).flatten(0, 1).to(repeated)
                losses = denoising_losses(model, schedule, repeated, eps, t[:, i].flatten().to(device))
                found[left : left + len(clean), i] = losses.double().view(-1, draws).mean(1).cpu().numpy()
    return found


def negative_transfer_gap(expert: ArrayLike, shared: ArrayLike) -> tuple[Interval, ...]:
    """Loss of each interval's expert less that of the model that all intervals share; below 0 is negative transfer.

    The sign is that of the paper: where an expert is better than the shared model, the gap is negative.

    Args:
        expert: (n, k) losses of n images, or (seeds, n, k); column i from a model that was trained on interval i only,
            see :func:`step_losses`.
        shared: the same of the shared model, with the same images, steps, noise and seeds of training.

    Returns:
        k means with 95 % intervals, see :func:`mean_difference`.

    Raises:
        SettingError: shapes that differ, or losses that are not finite.

    Source: Go et al., NeurIPS 2023, section 3; they take FID in place of the loss.

    Example:
        >>> gaps = negative_transfer_gap(np.full((4, 2), 0.5), [[0.75, 0.25]] * 4)
        >>> [gap.mean for gap in gaps]
        [-0.25, 0.25]
    """
    return mean_difference(expert, shared)


def mean_difference(one: ArrayLike, other: ArrayLike, *, relative: bool = False) -> tuple[Interval, ...]:
    """Mean of ``one - other`` for each column, paired image by image and seed by seed, with 95 % intervals.

    With several seeds the interval covers seeds and images (Student's t, see
    :func:`coterie.evaluation.intervals.t_interval`). With one it covers the images only (bootstrap, percentiles), and
    nothing is known about another training.

    Args:
        one: (n, k) or (seeds, n, k) losses.
        other: of the same shape.
        relative: divide by the mean of `other`, seed by seed.

    Returns:
        k intervals; below 0 means that `one` is lower.

    Raises:
        SettingError: shapes that differ, or losses that are not finite.

    Example:
        >>> mean_difference([[0.5], [0.5]], [[1.0], [1.0]], relative=True)[0].mean
        -0.5
    """
    a, b = _losses(one), _losses(other)
    if a.shape != b.shape:
        raise SettingError(f"Losses that are compared should have the same shape. Found {a.shape} and {b.shape}.")
    return tuple(_interval(a[:, :, i], b[:, :, i], relative) for i in range(a.shape[2]))


def _interval(a: Floats, b: Floats, relative: bool) -> Interval:
    """Of (seeds, n) losses."""
    seeds, n = a.shape
    base = b.mean(1) if relative else np.ones(seeds)
    by_seed = (a - b).mean(1) / base
    if seeds == 1:
        weights = resample(n, _RESAMPLES, seed=0)
        change = weighted_mean((a - b)[0], weights)
        return Figure(change / weighted_mean(b[0], weights) if relative else change).interval()
    # what an image adds to the mean; for a ratio, to first order
    slope = by_seed[:, None] * b if relative else by_seed[:, None]
    residual = ((a - b - slope) / base[:, None]).mean(0)
    noise = Noise(float(residual.var(ddof=1)) / n, n - 1) if n > 1 else None
    return t_interval(by_seed, noise)


def _spread(intervals: Intervals, uniform: Floats) -> Tensor:
    """(n, k, draws) steps from as many numbers in 0..1, one in each part of the interval."""
    draws = uniform.shape[2]
    inside = (np.arange(draws) + uniform) / draws
    starts = np.array(intervals.starts)[None, :, None]
    lengths = np.diff([*intervals.starts, intervals.n])[None, :, None]
    return torch.from_numpy(starts + np.minimum((inside * lengths).astype(np.int64), lengths - 1))


def _losses(value: ArrayLike) -> Floats:
    try:
        losses = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"Losses should be numbers in an array (images, intervals) or (seeds, images, intervals). Found "
            f"{type(value).__name__}: {error}. Rows of different lengths are a likely cause."
        ) from error
    losses = losses[None] if losses.ndim == 2 else losses
    if losses.ndim != 3 or not losses.size or not np.isfinite(losses).all():
        raise SettingError(
            "Losses should be finite numbers in an array (images, intervals) or (seeds, images, intervals). Found "
            f"shape {losses.shape} with {int((~np.isfinite(losses)).sum())} that are not finite. Intervals that an "
            "expert was not evaluated on are a likely cause."
        )
    return losses
