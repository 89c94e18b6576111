"""What a trained denoiser of a study is worth: validation losses, drawn images, their Frechet distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._units import Payload, UnitStore
from coterie.datasets.images import Images
from coterie.diffusion.config import DiffusionConfig
from coterie.diffusion.evaluate import step_losses
from coterie.diffusion.extractor import Extractor, train_extractor
from coterie.diffusion.frechet import frechet_distance
from coterie.diffusion.sample import draw_samples
from coterie.diffusion.schedule import NoiseSchedule
from coterie.errors import SettingError
from coterie.grouping.intervals.programme import Intervals

#: images that are shown
SHOWN = 64


@dataclass(frozen=True, eq=False)
class QualityEvaluator:
    """Judges denoisers of one study, all on the same images, time steps and noise.

    Attributes:
        config: of the study.
        images: of the study; only validation images are used.
        schedule: of the noise.
        intervals: whose losses are measured.
        extractor: makes the features of the Frechet distance.
        reference: (n, d) features of the validation images.
    """

    config: DiffusionConfig
    images: Images
    schedule: NoiseSchedule
    intervals: Intervals
    extractor: Extractor
    reference: NDArray[np.float64]

    @classmethod
    def of(
        cls, config: DiffusionConfig, images: Images, schedule: NoiseSchedule, intervals: Intervals, store: UnitStore
    ) -> QualityEvaluator:
        """A judge with a trained extractor."""
        extractor = train_extractor(images, store=store)
        return cls(config, images, schedule, intervals, extractor, extractor.features(images.validation))

    def __call__(self, model: nn.Module, seed: int) -> Payload:
        """Losses (images, k) and shown images; the Frechet distance of the drawn ones. Noise of samples: the seed's.

        Raises:
            SettingError: the training diverged.
        """
        part, drawn = self.config.evaluation, self.config.samples
        losses = step_losses(
            model, self.images.validation[: part.images], self.schedule, self.intervals, draws=part.draws, seed=0
        )
        if not np.isfinite(losses).all():
            raise SettingError(
                "Key `training.learning_rate` of the configuration should let every training end with finite losses. "
                f"Found {self.config.training.learning_rate}, with which one did not; a rate that is too large is the "
                "likely cause. Lower it."
            )
        samples = draw_samples(model, self.schedule, drawn.count, self.images.shape, steps=drawn.steps, seed=seed)
        distance = frechet_distance(self.extractor.features(samples), self.reference)
        return Payload({"losses": losses, "shown": as_bytes(samples[:SHOWN])}, {"frechet": distance})

    def real(self) -> float:
        """Frechet distance of as many training images as are drawn, or of all when there are fewer.

        For orientation only: the classifier was fitted to these images, so it is somewhat too large.
        """
        rows = np.random.default_rng(0).permutation(len(self.images.train))[: self.config.samples.count]
        return frechet_distance(self.extractor.features(self.images.train[torch.from_numpy(rows)]), self.reference)

    def shown(self) -> NDArray[np.uint8]:
        """Real images for comparison."""
        return as_bytes(self.images.validation[:SHOWN])


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """(n, H, W) from 0 to 255 of images (n, C, H, W) in [-1, 1]; several channels are averaged.

    Example:
        >>> as_bytes(torch.tensor([[[[-1.0, 0.0, 3.0]]]])).tolist()
        [[[0, 128, 255]]]
    """
    grey = images.detach().cpu().mean(1).clamp(-1, 1)
    return ((grey + 1) * 127.5).round().to(torch.uint8).numpy()
