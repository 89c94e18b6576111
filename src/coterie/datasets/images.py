"""Small labelled images for denoisers: handwritten digits, and Fashion-MNIST from the files of its distribution."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._check import choice, whole_number
from coterie._files import user_path
from coterie._show import short_repr
from coterie.errors import SettingError, WorkloadError, require

NAMES = ("digits", "fashion-mnist")
#: where Debian's package dataset-fashion-mnist puts the files
FOLDER = Path("/usr/share/datasets/fashion-mnist")
#: of the 1,797 digits
_VALIDATION_DIGITS = 397


@short_repr
@dataclass(frozen=True, eq=False)
class Images:
    """Images in two parts.

    Attributes:
        train: (N, C, H, W) float32 in [-1, 1].
        validation: (M, C, H, W), of which nothing is learnt.
        train_labels: (N,) long.
        validation_labels: (M,) long.
        name: of the data.
    """

    train: Tensor
    validation: Tensor
    train_labels: Tensor
    validation_labels: Tensor
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image."""
        return tuple(self.train.shape[1:])


def load_images(name: str, folder: str | Path | None = None, size: int | None = None) -> Images:
    """Images by name: ``"digits"`` (8 x 8, from scikit-learn) or ``"fashion-mnist"`` (28 x 28).

    Digits are cut into 1,400 for training and 397 for validation, always the same. For Fashion-MNIST the 60,000 images
    of the training files are for training and the 10,000 of the test files for validation.

    Args:
        name: one of `NAMES`.
        folder: has the four files of Fashion-MNIST: ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz``,
            ``t10k-images-idx3-ubyte.gz`` and ``t10k-labels-idx1-ubyte.gz``. None means `FOLDER`, where Debian's package
            dataset-fashion-mnist puts them.
        size: rows and columns wanted, at most those that the images have; None keeps them. Each new pixel is the mean
            over its area.

    Raises:
        SettingError: an unknown name, a size out of range, or no such files.
        WorkloadError: files that are damaged or something else.
        MissingDependencyError: when scikit-learn is not installed.

    Source: E. Alpaydin and C. Kaynak, UCI, 1998; Xiao, Rasul and Vollgraf, arXiv 1708.07747.

    Example:
        >>> load_images("digits").shape, len(load_images("digits", size=4).train)
        ((1, 8, 8), 1400)
    """
    choice(name, "name", NAMES)
    parts = _digits() if name == "digits" else _fashion(FOLDER if folder is None else user_path(folder))
    (train, train_labels), (validation, validation_labels) = parts
    return Images(_resized(train, size), _resized(validation, size), train_labels, validation_labels, name)


def _digits() -> list[tuple[Tensor, Tensor]]:
    sklearn = require("sklearn.datasets", extra="data", purpose="The images 'digits'")
    pixels, labels = sklearn.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8)).float() / 8 - 1
    classes = torch.from_numpy(labels).long()
    cut = len(order) - _VALIDATION_DIGITS
    return [(images[rows], classes[rows]) for rows in (order[:cut], order[cut:])]


def _fashion(folder: Path) -> list[tuple[Tensor, Tensor]]:
    parts: list[tuple[Tensor, Tensor]] = []
    for part in ("train", "t10k"):
        pixels = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
        if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
            raise WorkloadError(
                f"The files of {part!r} in {str(folder)!r} should have as many labels as images. Found shapes "
                f"{labels.shape} and {pixels.shape}."
            )
        images = torch.from_numpy(pixels.astype(np.float32)).unsqueeze(1) / 127.5 - 1
        parts.append((images, torch.from_numpy(labels.astype(np.int64))))
    return parts


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of bytes in a gzipped file of the IDX format.

    Raises:
        SettingError: when the file is not there.
        WorkloadError: when it is damaged or something else.
    """
    if not path.is_file():
        raise SettingError(
            f"Parameter `folder` should be the folder with the four files of Fashion-MNIST (...-ubyte.gz). There is no "
            f"{path.name!r} in {str(path.parent)!r}. Install Debian's package dataset-fashion-mnist or give the folder."
        )
    try:
        data = gzip.decompress(path.read_bytes())
        known, ndim = data[:3] == b"\0\0\x08", data[3]
        shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=ndim, offset=4))
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * ndim)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise WorkloadError(
            f"The file {str(path)!r} is not a whole gzipped IDX file ({error}). Fetch it anew."
        ) from error
    if not known or values.size != int(np.prod(shape)):
        raise WorkloadError(
            f"The file {str(path)!r} should hold an IDX array of bytes. Found shape {shape} and {values.size} bytes. "
            "A file of something else, or one that was cut off, is the likely cause."
        )
    return values.reshape(shape)


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None:
        return images
    size = whole_number(size, "size", low=1, high=min(images.shape[-2:]))
    return torch.nn.functional.adaptive_avg_pool2d(images, size)
