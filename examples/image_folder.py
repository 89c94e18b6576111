"""Pictures in folders, augmented at random while training: from files to groups that are served."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import coterie
from coterie.workload import from_dataset

TASKS = ["disc", "light", "striped", "coloured"]
SIZE = 16


def draw(rng: np.random.Generator, labels: dict[str, bool]) -> Image.Image:
    """A picture of a disc or a square, light or dark, plain or striped, grey or coloured."""
    y, x = np.mgrid[:SIZE, :SIZE] - rng.uniform(6, 9, size=(2, 1, 1))
    shape = x**2 + y**2 < 25 if labels["disc"] else (abs(x) < 4) & (abs(y) < 4)
    level = np.where(shape, 180 if labels["light"] else 90, 40)[..., None] * np.ones(3)
    if labels["striped"]:
        level[::2] *= 0.7
    if labels["coloured"]:
        level[..., 0] *= 1.3
    return Image.fromarray((level + rng.normal(0, 12, level.shape)).clip(0, 255).astype(np.uint8))


def write(folder: Path, count: int) -> None:
    """Folders train, validation and test, with the labels of a picture in its name; one label in four is not known."""
    rng = np.random.default_rng(0)
    for number in range(count):
        labels = {name: bool(rng.random() < 0.5) for name in TASKS}
        known = "".join("?" if rng.random() < 0.25 else str(int(labels[name])) for name in TASKS)
        place = folder / ("validation" if number % 5 == 3 else "test" if number % 5 == 4 else "train")
        place.mkdir(exist_ok=True)
        draw(rng, labels).save(place / f"{number:04}_{known.replace('?', 'x')}.png")


class Folder(Dataset[tuple[Tensor, dict[str, float]]]):
    """The pictures of a folder; mirrored, shifted and lightened at random when they are augmented."""

    def __init__(self, folder: Path, *, augment: bool = False) -> None:
        self.files, self.augment = sorted(folder.glob("*.png")), augment

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, float]]:
        file = self.files[number]
        with Image.open(file) as picture:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        if self.augment:
            pixels = pixels.flip(-1) if torch.rand(()) < 0.5 else pixels
            pixels = pixels.roll(int(torch.randint(-1, 2, ())), -1) + 0.05 * torch.randn(())
        known = file.stem.split("_")[1]
        return pixels, {name: float(mark) for name, mark in zip(TASKS, known, strict=True) if mark != "x"}


class Net(nn.Module):
    """A small convolutional trunk with a head a task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(144, 1) for name in TASKS})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(pixels)
        return {name: head(hidden) for name, head in self.heads.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), 200)
        workload = from_dataset(
            Folder(Path(folder, "train"), augment=True),
            validation=Folder(Path(folder, "validation")),
            test=Folder(Path(folder, "test")),
            tasks=TASKS,
            model=Net(),
            recipe=coterie.Recipe(epochs=4, batch_size=24, learning_rate=1e-2),
            name="pictures",
        )
        print(workload)
        result = coterie.run(workload, groups=2, seeds=2, method="cosine", out="runs/pictures", overwrite=True)
        print(result)
        pixels = torch.stack([Folder(Path(folder, "test"))[number][0] for number in range(4)])
        served = coterie.load("runs/pictures", workload=workload).predict(pixels)
        print({name: values.round(2).tolist() for name, values in served.items()})
