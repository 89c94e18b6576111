"""Diffusion models: time steps as tasks (ANT).

1. :func:`step_affinity` asks a denoiser which of its time steps want the same change of the parameters.
2. :func:`step_intervals` cuts the steps into k intervals by affinity, log SNR or time: an exact dynamic programme.
3. :class:`IntervalTasks` makes each interval a task of the training that any method of :mod:`coterie.balancing` weighs.

Names are loaded when they are used.
"""

from typing import TYPE_CHECKING

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.diffusion.affinity import StepAffinity, step_affinity
    from coterie.diffusion.config import DiffusionConfig
    from coterie.diffusion.denoising import denoising_losses
    from coterie.diffusion.evaluate import negative_transfer_gap, step_losses
    from coterie.diffusion.frechet import frechet_distance
    from coterie.diffusion.gradients import ProbeSettings
    from coterie.diffusion.intervals import step_intervals
    from coterie.diffusion.lookahead import lookahead_affinity
    from coterie.diffusion.sample import draw_samples
    from coterie.diffusion.schedule import NoiseSchedule
    from coterie.diffusion.study import run_study
    from coterie.diffusion.tasks import IntervalTasks
    from coterie.diffusion.train import DenoiserRecipe, train_denoiser
    from coterie.diffusion.unet import make_unet

__all__ = [
    "DenoiserRecipe",
    "DiffusionConfig",
    "IntervalTasks",
    "NoiseSchedule",
    "ProbeSettings",
    "StepAffinity",
    "denoising_losses",
    "draw_samples",
    "frechet_distance",
    "lookahead_affinity",
    "make_unet",
    "negative_transfer_gap",
    "run_study",
    "step_affinity",
    "step_intervals",
    "step_losses",
    "train_denoiser",
]

#: which module brings a name
_LAZY = {
    "DenoiserRecipe": "train",
    "DiffusionConfig": "config",
    "IntervalTasks": "tasks",
    "NoiseSchedule": "schedule",
    "ProbeSettings": "gradients",
    "StepAffinity": "affinity",
    "denoising_losses": "denoising",
    "draw_samples": "sample",
    "frechet_distance": "frechet",
    "lookahead_affinity": "lookahead",
    "make_unet": "unet",
    "negative_transfer_gap": "evaluate",
    "run_study": "study",
    "step_affinity": "affinity",
    "step_intervals": "intervals",
    "step_losses": "evaluate",
    "train_denoiser": "train",
}

__getattr__ = load_on_first_use(__name__, _LAZY, earlier(__name__))
