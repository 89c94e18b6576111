"""Noise schedules from the schedulers of diffusers."""

from __future__ import annotations

from typing import Any

from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import SettingError

#: what diffusers calls a prediction -> what we call it
_WORDS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}


def from_diffusers(scheduler: Any) -> NoiseSchedule:
    """See :meth:`NoiseSchedule.from_diffusers`."""
    config = getattr(scheduler, "config", None)
    name = type(scheduler).__name__
    if config is None or not hasattr(type(scheduler), "from_config"):
        raise SettingError(f"Parameter `scheduler` should be a scheduler of diffusers. Found {name}.")
    if "sigma_data" in config:
        raise SettingError(
            f"Parameter `scheduler` is {name}, one of the EDM family: the raw output of its network is neither noise, "
            "image nor velocity, but what its preconditioning (c_skip, c_out, c_in around sigma_data) turns into an "
            "image. Wrap network and preconditioning into one denoiser D(x, sigma) and describe that: "
            "NoiseSchedule(signal=torch.ones(T), noise=sigmas, prediction='sample', given=sigmas), sigmas ascending."
        )
    # set_timesteps overwrites the arrays of training with those of sampling: a new scheduler has the former
    # (less the private entries: from_config would reset what was passed by position to its default)
    fresh = type(scheduler).from_config({key: value for key, value in config.items() if not key.startswith("_")})
    if any("FlowMatch" in base.__name__ for base in type(scheduler).__mro__):
        return _from_flow(fresh, name)
    prediction = config.get("prediction_type", "epsilon")
    if not hasattr(fresh, "alphas_cumprod") or prediction not in _WORDS:
        raise SettingError(
            f"Parameter `scheduler` is {name} with prediction type {prediction!r}. Known are schedulers with "
            f"`alphas_cumprod` that predict one of {tuple(_WORDS)}, and those of flow matching. For a flow pass "
            "its FlowMatchEulerDiscreteScheduler or use NoiseSchedule.from_sigmas; for anything else describe signal "
            "and noise of each step: NoiseSchedule(signal, noise, prediction, given)."
        )
    return NoiseSchedule.from_alphas_cumprod(fresh.alphas_cumprod, _WORDS[prediction])


def _from_flow(fresh: Any, name: str) -> NoiseSchedule:
    if fresh.config.get("invert_sigmas", False):
        raise SettingError(
            f"Parameter `scheduler` is {name} with invert_sigmas=True, which gives the network the time of the image, "
            "not of the noise. Use NoiseSchedule.from_sigmas(sigmas, given), with the times that the network expects."
        )
    return NoiseSchedule.from_sigmas(fresh.sigmas.flip(0), fresh.timesteps.flip(0))
