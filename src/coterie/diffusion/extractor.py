"""Features of small images for the Frechet distance: a small classifier trained on the labelled images themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._random import random_numbers
from coterie._units import NoStore, Payload, UnitStore
from coterie.affinity.costs import digest
from coterie.datasets.images import Images
from coterie.diffusion.train import batches


@dataclass(frozen=True, eq=False)
class Extractor:
    """A classifier whose last hidden layer gives the features.

    Attributes:
        model: its first part gives the features, its second the classes.
        accuracy: share of the validation images that it classifies correctly.
        width: number of features.
    """

    model: nn.Sequential
    accuracy: float
    width: int

    @torch.no_grad()
    def features(self, images: Tensor, batch: int = 512) -> NDArray[np.float64]:
        """(n, width) features of images in [-1, 1]; values outside are clipped, as they would be when shown."""
        device = next(self.model.parameters()).device
        trunk = self.model[0].eval()
        parts = [trunk(part.clamp(-1, 1).to(device)).double().cpu() for part in images.split(batch)]
        return torch.cat(parts).numpy()


def train_extractor(
    images: Images, *, width: int = 32, epochs: int = 3, batch: int = 128, seed: int = 0, store: UnitStore | None = None
) -> Extractor:
    """Train the classifier on the training images; its accuracy is that on the validation images.

    Two convolutions with 16 and 32 channels, each followed by a maximum over 2 x 2 pixels, and a hidden layer. It is
    not the network of FID, so distances with it are not FID: they compare samples of the same data set, with the same
    extractor, only.

    Args:
        images: labelled images of at least 4 x 4 pixels.
        width: number of features. Few, because a covariance needs many more samples than features.
        epochs: rounds through the training images; few images get at least 500 steps.
        batch: images of a step.
        seed: of the weights and batches.
        store: an opened run; a finished training is read from it.

    Raises:
        SettingError: a count out of range, or images that are too small.

    Cost: seconds on Fashion-MNIST at 16 x 16 on one core and less on the digits.
    """
    for name, value in (("width", width), ("epochs", epochs), ("batch", batch)):
        whole_number(value, name, low=1)
    whole_number(min(images.shape[1:]), "size", low=4)
    classes = int(max(images.train_labels.max(), images.validation_labels.max())) + 1
    with random_numbers(seed=whole_number(seed, "seed", low=0)):
        model = _network(images.shape, width, classes)

    def compute() -> Payload:
        _fit(model, images, epochs, batch, seed)
        return Payload(dict(model.state_dict()), {"accuracy": _accuracy(model, images)})

    key: dict[str, Any] = {"width": width, "epochs": epochs, "batch": batch, "seed": seed, "data": _digest(images)}
    payload = (store or NoStore()).unit("extractor", key, compute)
    model.load_state_dict({name: torch.as_tensor(value) for name, value in payload.arrays.items()})
    return Extractor(model.eval(), float(payload.meta["accuracy"]), width)


def _network(shape: tuple[int, ...], width: int, classes: int) -> nn.Sequential:
    channels, rows, columns = shape
    flat = 32 * (rows // 4) * (columns // 4)
    trunk = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(flat, width), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(trunk, nn.Linear(width, classes))


def _fit(model: nn.Sequential, images: Images, epochs: int, batch: int, seed: int) -> None:
    steps = max(500, epochs * (len(images.train) // batch))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    stream = batches(len(images.train), batch, torch.Generator().manual_seed(seed))
    model.train()
    for _ in range(steps):
        rows = next(stream)
        loss = nn.functional.cross_entropy(model(images.train[rows]), images.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()


@torch.no_grad()
def _accuracy(model: nn.Sequential, images: Images) -> float:
    model.eval()
    pairs = zip(images.validation.split(1024), images.validation_labels.split(1024), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs)
    return right / len(images.validation)


def _digest(images: Images) -> str | None:
    parts = ("train", "train_labels", "validation", "validation_labels")
    return digest({part: getattr(images, part) for part in parts})
