"""Noise schedules: how much of the image and how much noise each time step has, and what the network predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from coterie._check import choice, whole_number
from coterie._surface import known_arguments
from coterie.errors import SettingError

#: what a network may predict
PREDICTIONS = ("epsilon", "v", "sample", "flow")
#: largest share of the variance that one step replaces by noise
_MOST = 0.999


@known_arguments
@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The forward process x_t = signal[t] x_0 + noise[t] eps on T time steps; noise grows with t.

    Args:
        signal: (T,) factor of the image.
        noise: (T,) factor of the noise, a standard normal eps. Both are kept as float64 on the CPU.
        prediction: what the network predicts, its target. ``"epsilon"``: eps; ``"v"``: signal eps - noise x_0;
            ``"sample"``: x_0; ``"flow"``: eps - x_0, the velocity of a straight path.
        given: (T,) what the network is given as time; None: the indices 0..T-1.

    Raises:
        SettingError: unknown prediction, shapes that differ, values that are negative or not finite, a step with
            neither signal nor noise.

    Source:
        Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, eq. 4 (x_t, eps); Salimans and Ho,
        arXiv 2202.00512, appendix D (v); Lipman et al., arXiv 2210.02747 (flow).

    Example:
        >>> schedule = NoiseSchedule.cosine(100)
        >>> clean, noise, t = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4), torch.tensor([0, 99])
        >>> [f"{value:.3f}" for value in schedule.add_noise(clean, noise, t)[:, 0, 0, 0]]
        ['0.025', '1.000']
    """

    signal: Tensor
    noise: Tensor
    prediction: str = "epsilon"
    given: Tensor | None = None

    def __post_init__(self) -> None:
        choice(self.prediction, "prediction", PREDICTIONS)
        for name in ("signal", "noise"):
            object.__setattr__(self, name, _tensor(getattr(self, name), name, torch.float64))
        given = torch.arange(self.signal.numel()) if self.given is None else _tensor(self.given, "given")
        object.__setattr__(self, "given", given)
        shapes = {tuple(values.shape) for values in (self.signal, self.noise, given)}
        if len(shapes) > 1 or self.signal.ndim != 1 or not len(self.signal):
            raise SettingError(
                "Parameters `signal`, `noise` and `given` should have one entry for each time step. Found shapes "
                f"{[tuple(values.shape) for values in (self.signal, self.noise, given)]}."
            )
        both = torch.stack([self.signal, self.noise])
        wrong = ~(both.isfinite() & (both >= 0)).all(0) | (both.sum(0) == 0)
        if wrong.any():
            step = int(wrong.nonzero()[0])
            raise SettingError(
                "Parameters `signal` and `noise` should be finite, not negative, and not both 0. Found "
                f"{both[:, step].tolist()} at step {step}. Pass factors of image and noise, not their logarithms."
            )

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Tensor | ArrayLike, prediction: str = "epsilon") -> NoiseSchedule:
        """Variance preserving: signal and noise are the square roots of abar and 1 - abar.

        Example:
            >>> NoiseSchedule.from_alphas_cumprod([0.64, 0.36]).noise.numpy().round(6).tolist()
            [0.6, 0.8]
        """
        abar = _tensor(alphas_cumprod, "alphas_cumprod", torch.float64)
        if not ((abar >= 0) & (abar <= 1)).all():
            raise SettingError(
                "Parameter `alphas_cumprod` should lie in 0..1: the products of all alpha = 1 - beta up to each step. "
                f"Found {float(abar.min()):.4g}..{float(abar.max()):.4g}."
            )
        return NoiseSchedule(abar.sqrt(), (1 - abar).sqrt(), prediction)

    @staticmethod
    def from_sigmas(sigmas: Tensor | ArrayLike, given: Tensor | None = None) -> NoiseSchedule:
        """Straight paths x_t = (1 - sigma) x_0 + sigma eps, as in flow matching; `given` is None: T sigma.

        Example:
            >>> schedule = NoiseSchedule.from_sigmas([0.25, 0.5, 1.0])
            >>> schedule.prediction, schedule.signal.tolist()
            ('flow', [0.75, 0.5, 0.0])
        """
        sigma = _tensor(sigmas, "sigmas", torch.float64)
        return NoiseSchedule(1 - sigma, sigma, "flow", (sigma.numel() * sigma).float() if given is None else given)

    @staticmethod
    def from_diffusers(scheduler: Any) -> NoiseSchedule:
        """The schedule that a scheduler of diffusers trains with, whatever its ``set_timesteps`` was called with.

        Any scheduler with `alphas_cumprod` (DDPM, DDIM, PNDM, Euler, DPM-Solver, ...) and those of flow matching. The
        latter count from noise to image; here, as everywhere, the noise grows with t, and the network is given their
        `timesteps`. With dynamic shifting their steps are those before the shift.

        Raises:
            SettingError: for schedulers whose networks predict something else, such as those of EDM.

        Example:
            >>> from diffusers import DDPMScheduler
            >>> NoiseSchedule.from_diffusers(DDPMScheduler(prediction_type="v_prediction")).prediction
            'v'
        """
        from coterie.diffusion.convert import from_diffusers

        return from_diffusers(scheduler)

    @staticmethod
    def linear(n_steps: int = 1000, prediction: str = "epsilon") -> NoiseSchedule:
        """Betas from 1e-4 to 0.02, times 1000 / T so that every T ends in nearly pure noise.

        Source:
            Ho et al., arXiv 2006.11239, section 4, for T = 1,000.
        """
        n_steps = whole_number(n_steps, "n_steps", low=1)
        scale = 1000 / n_steps
        return _from_betas(np.linspace(1e-4 * scale, 0.02 * scale, n_steps), prediction)

    @staticmethod
    def cosine(n_steps: int = 1000, prediction: str = "epsilon") -> NoiseSchedule:
        """Abar falls like a squared cosine.

        Source:
            Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672, eq. 17.
        """
        n_steps = whole_number(n_steps, "n_steps", low=1)
        curve = np.cos((np.arange(n_steps + 1) / n_steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return _from_betas(1 - curve[1:] / curve[:-1], prediction)

    @property
    def n_steps(self) -> int:
        """T, the number of time steps."""
        return len(self.signal)

    @property
    def log_snr(self) -> Tensor:
        """(T,) float64: log(signal^2 / noise^2), always finite.

        At a step without signal (zero terminal SNR, the last step of flow matching) or without noise it would be
        infinite. Such steps at either end continue the line through their two nearest finite neighbours.
        """
        exact = 2 * (self.signal.log() - self.noise.log())
        finite = exact.isfinite().nonzero().flatten()
        if len(finite) == self.n_steps:
            return exact
        if len(finite) < 2 or int(finite[-1] - finite[0]) + 1 != len(finite):
            raise SettingError(
                "This schedule has too many steps without signal or without noise for a log SNR. Only its first and "
                f"its last steps may be so. Found {self.n_steps - len(finite)} of {self.n_steps}."
            )
        low, high = int(finite[0]), int(finite[-1])
        before, after = torch.arange(low), torch.arange(high + 1, self.n_steps)
        exact[before] = exact[low] + (before - low) * (exact[low + 1] - exact[low])
        exact[after] = exact[high] + (after - high) * (exact[high] - exact[high - 1])
        return exact

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of (B, ...) images and noise at (B,) steps."""
        a, s = self._at(t, clean)
        return (a * clean + s * noise).to(clean.dtype)

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a perfect network would predict."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        if self.prediction == "flow":
            return noise - clean
        a, s = self._at(t, clean)
        return (a * noise - s * clean).to(clean.dtype)

    def estimate_clean(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """x_0 from what the network predicts at x_t.

        Raises:
            SettingError: for noise predictions at a step without signal, which do not tell the image.
        """
        if self.prediction == "sample":
            return output
        a, s = self._at(t, noisy)
        if self.prediction == "epsilon":
            if not self.signal.all() and not a.all():
                raise SettingError(
                    "Parameter `t` has a step without signal, where a prediction of the noise says nothing about the "
                    "image. Networks for schedules with zero terminal SNR should predict 'v', 'sample' or 'flow'."
                )
            return ((noisy - s * output) / a).to(noisy.dtype)
        if self.prediction == "flow":
            return ((noisy - s * output) / (a + s)).to(noisy.dtype)
        return ((a * noisy - s * output) / (a * a + s * s)).to(noisy.dtype)

    def model_time(self, t: Tensor) -> Tensor:
        """(B,) what the network is given as the time of steps t."""
        assert self.given is not None  # noqa: S101 - set in __post_init__
        return self.given.to(t.device)[self._checked(t)]

    def _at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise of steps t, in a shape that multiplies images; at least in single precision."""
        index, dtype = self._checked(t).to(like.device), torch.promote_types(like.dtype, torch.float32)
        shape = (-1, *([1] * (like.ndim - 1)))
        a, s = (values.to(dtype).to(like.device)[index].view(shape) for values in (self.signal, self.noise))
        return a, s

    def _checked(self, t: Tensor) -> Tensor:
        """Whole numbers in 0..T-1. On an accelerator the range is not looked at: that would wait for the device."""
        whole = not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool)
        if not whole or (
            t.device.type == "cpu" and len(t.flatten()) and not 0 <= int(t.min()) <= int(t.max()) < self.n_steps
        ):
            raise SettingError(
                f"Parameter `t` should hold whole numbers from 0 to {self.n_steps - 1}: indices of time steps. Found "
                f"{t.dtype} {t.tolist() if t.numel() < 9 else f'from {t.min()} to {t.max()}'}. What the network is "
                "given as time is made from them by `model_time`."
            )
        return t


def _tensor(values: Any, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of the time steps as a tensor on the CPU."""
    try:
        return torch.as_tensor(values, dtype=dtype).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(
            f"Parameter `{name}` should be a tensor, or an array, of one number for each time step. Found "
            f"{type(values).__name__}: {error}."
        ) from error


def _from_betas(betas: NDArray[np.float64], prediction: str) -> NoiseSchedule:
    return NoiseSchedule.from_alphas_cumprod(np.cumprod(1 - np.minimum(betas, _MOST)), prediction)
