"""Where projected gradients are written to: one (pairs, directions) matrix, in memory or in a mapped file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coterie.errors import ModelError, ResourceError
from coterie.features.pairs import Pairs

_CODES = {torch.float32: ("F32", "<f4"), torch.float64: ("F64", "<f8")}


class Sink:
    """Collects blocks of features.

    Args:
        pairs: the labelled (example, task) pairs.
        width: number of directions.
        dtype: of the features.
        file: a new safetensors file to map; None keeps the features in memory, next to the labels.
    """

    def __init__(self, pairs: Pairs, width: int, dtype: torch.dtype, file: Path | None = None) -> None:
        self._pairs = pairs
        shape = (pairs.count, width)
        device = pairs.local.device
        self.features = torch.empty(shape, dtype=dtype, device=device) if file is None else _mapped(file, shape, dtype)

    def write(self, block: Tensor, row: int, column: int) -> None:
        """Store a (directions, rows, tasks) block that starts at a row (of the labelled rows) and a direction."""
        width, rows, tasks = block.shape
        pairs = self._pairs
        # in two steps, so that memory is read and written in runs: directions last, then sort by task
        values = block.reshape(width, rows * tasks).T.contiguous().to(self.features.dtype)
        _refuse_not_finite(values)
        if pairs.dense:
            target = self.features.view(tasks, len(pairs.rows), -1)[:, row : row + rows, column : column + width]
            target.copy_(values.view(rows, tasks, width).transpose(0, 1))
            return
        position = pairs.position[row : row + rows].T
        task, local = (position >= 0).nonzero(as_tuple=True)
        self.put(position[task, local], values[local * tasks + task], column)

    def put(self, index: Tensor, values: Tensor, column: int) -> None:
        """Store (n, directions) values of the pairs `index`."""
        _refuse_not_finite(values)
        target = self.features[:, column : column + values.shape[1]]
        target[index.to(target.device)] = values.to(target.device, target.dtype)


def _refuse_not_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise ModelError(
            "The gradients of the model contain NaN or infinite values. Likely causes: a parameter or an input is not "
            "finite, or the model divides by zero or takes the root of zero. Run coterie.workload.validate(workload)."
        )


def _mapped(file: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A new safetensors file with one tensor `g`, mapped for writing."""
    code, numpy_type = _CODES[dtype]
    size = shape[0] * shape[1] * dtype.itemsize
    file.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise ResourceError(
            f"The features need {size / 2**30:.2f} GiB on disk at {file.parent}, where {free / 2**30:.2f} GiB are "
            "free. Give `spill` another folder, or use fewer directions."
        )
    header = json.dumps({"g": {"dtype": code, "shape": list(shape), "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + size)
    return torch.from_numpy(np.memmap(file, numpy_type, "r+", offset=8 + len(header), shape=shape))
