"""Images, read from their files."""

import gzip

import numpy as np
import pytest
import torch

from coterie.datasets.images import load_images, read_idx
from coterie.errors import SettingError, WorkloadError


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def make_folder(folder):
    rng, made = np.random.default_rng(0), {}
    for part, n in (("train", 30), ("t10k", 10)):
        made[part] = rng.integers(0, 256, size=(n, 28, 28)), rng.integers(0, 10, size=n)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", made[part][0])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", made[part][1])
    return made


def test_digits():
    images = load_images("digits")
    assert images.train.shape == (1400, 1, 8, 8)
    assert images.validation.shape == (397, 1, 8, 8)
    assert images.train.dtype == torch.float32
    assert (float(images.train.min()), float(images.train.max())) == (-1, 1)
    assert images.train_labels.shape == (1400,)
    assert set(images.train_labels.tolist()) == set(range(10))
    assert torch.equal(images.train, load_images("digits").train)


def test_digits_and_labels_belong_together():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    known = {row.tobytes(): int(label) for row, label in zip(pixels, labels, strict=True)}
    images = load_images("digits")
    for part, classes in ((images.train, images.train_labels), (images.validation, images.validation_labels)):
        for image, label in zip(part, classes, strict=True):
            assert known[((image.double() + 1) * 8).numpy().tobytes()] == int(label)


def test_files_of_fashion_mnist(tmp_path):
    made = make_folder(tmp_path)
    images = load_images("fashion-mnist", tmp_path)
    assert images.shape == (1, 28, 28)
    for part, (pixels, labels) in (("train", made["train"]), ("validation", made["t10k"])):
        np.testing.assert_allclose(getattr(images, part)[:, 0].numpy(), pixels / 127.5 - 1, atol=1e-6)
        assert getattr(images, f"{part}_labels").tolist() == labels.tolist()


def test_pixels_are_means_over_areas(tmp_path):
    make_folder(tmp_path)
    whole, small = (load_images("fashion-mnist", tmp_path, size=size).train for size in (None, 14))
    expected = whole.view(30, 1, 14, 2, 14, 2).mean((3, 5))
    torch.testing.assert_close(small, expected)
    assert load_images("fashion-mnist", tmp_path, size=16).shape == (1, 16, 16)
    torch.testing.assert_close(load_images("fashion-mnist", tmp_path, size=1).train.flatten(), whole.mean((1, 2, 3)))


def test_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(SettingError, match="dataset-fashion-mnist"):
        load_images("fashion-mnist", tmp_path)
    make_folder(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    data = path.read_bytes()
    for broken in (data[:100], b"something else", gzip.compress(b"text"), gzip.compress(b"")):
        path.write_bytes(broken)
        with pytest.raises(WorkloadError, match="IDX"):
            load_images("fashion-mnist", tmp_path)
    path.write_bytes(gzip.compress(gzip.decompress(data)[:-1]))
    with pytest.raises(WorkloadError, match="cut off"):
        load_images("fashion-mnist", tmp_path)
    write_idx(path, np.zeros((9, 28, 28)))
    with pytest.raises(WorkloadError, match="as many labels"):
        load_images("fashion-mnist", tmp_path)


def test_unknown_names_and_sizes():
    with pytest.raises(SettingError, match="fashion-mnist"):
        load_images("fashion")
    with pytest.raises(SettingError, match="from 1 to 8"):
        load_images("digits", size=16)


def test_idx_of_any_shape(tmp_path):
    values = np.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / "x.gz", values)
    np.testing.assert_array_equal(read_idx(tmp_path / "x.gz"), values)
