"""Where projected gradients are written to: one (pairs, directions) matrix, in memory or in a mapped file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coterie._files import atomic_write, make_directory
from coterie.errors import ModelError, ResourceError
from coterie.features.pairs import Pairs
from coterie.features.storage import ColumnScales, FeatureMatrix

#: in safetensors, and in numpy, which has no bfloat16 and maps its bits
_CODES = {
    torch.float32: ("F32", "<f4"),
    torch.float64: ("F64", "<f8"),
    torch.float16: ("F16", "<f2"),
    torch.bfloat16: ("BF16", "<i2"),
}


class FeatureWriter:
    """Collects blocks of features.

    Args:
        pairs: the labelled (example, task) pairs.
        width: number of directions.
        dtype: of the features.
        file: a new safetensors file to map (tensor ``g``, and ``scale`` where columns are scaled); None keeps the
            features in memory, next to the labels.
        stored: type of the stored numbers; None is `dtype`.
    """

    def __init__(
        self,
        pairs: Pairs,
        width: int,
        dtype: torch.dtype,
        file: Path | None = None,
        stored: torch.dtype | None = None,
    ) -> None:
        self._pairs, self._dtype = pairs, dtype
        shape, kind = (pairs.count, width), stored or dtype
        self._scale: Tensor | None = None
        if file is None:
            self.features = torch.empty(shape, dtype=kind, device=pairs.local.device)
        else:
            self.features, self._scale = _mapped(file, shape, kind)
        self._scales = ColumnScales(self.features) if kind == torch.float16 else None

    def finish(self) -> FeatureMatrix:
        """What has been stored, once all blocks are in."""
        if self._scales is None:
            return FeatureMatrix(self.features, None, self._dtype)
        if self._scale is not None:
            self._scale.copy_(self._scales.scale)
        return FeatureMatrix(self.features, self._scales.scale, self._dtype)

    def write(self, block: Tensor, row: int, column: int) -> None:
        """Store a (directions, rows, tasks) block that starts at a row (of the labelled rows) and a direction."""
        width, rows, tasks = block.shape
        pairs = self._pairs
        # in two steps, so that memory is read and written in runs: directions last, then sort by task
        values = block.reshape(width, rows * tasks).T.contiguous().to(self._dtype)
        _refuse_not_finite(values)
        if pairs.dense:
            values = self._fit(values, column)
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
        target[index.to(target.device)] = self._fit(values, column).to(target.device, target.dtype)

    def _fit(self, values: Tensor, column: int) -> Tensor:
        return values if self._scales is None else self._scales.fit(values, column)


def _refuse_not_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise ModelError(
            "The gradients of the model contain NaN or infinite values. Likely causes: a parameter or an input is not "
            "finite, or the model divides by zero or takes the root of zero. Run coterie.workload.validate(workload)."
        )


def _mapped(file: Path, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A new safetensors file with a tensor `g`, mapped for writing, and the scales of its columns for float16."""
    code, numpy_type = _CODES[dtype]
    first = 4 * shape[1] if dtype == torch.float16 else 0
    size = first + shape[0] * shape[1] * dtype.itemsize
    make_directory(file.parent)
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise ResourceError(
            f"The features need {size / 2**30:.2f} GiB on disk at {file.parent}, where {free / 2**30:.2f} GiB are "
            "free. Give `spill` another folder, or use fewer directions."
        )
    scale = {"scale": {"dtype": "F32", "shape": [shape[1]], "data_offsets": [0, first]}} if first else {}
    whole = {**scale, "g": {"dtype": code, "shape": list(shape), "data_offsets": [first, size]}}
    header = json.dumps(whole).encode()
    header += b" " * (-len(header) % 8)
    atomic_write(file, len(header).to_bytes(8, "little") + header)  # never into what stands there
    os.truncate(file, 8 + len(header) + size)
    start = 8 + len(header)
    numbers = torch.from_numpy(np.memmap(file, numpy_type, "r+", offset=start + first, shape=shape)).view(dtype)
    if not first:
        return numbers, None
    return numbers, torch.from_numpy(np.memmap(file, "<f4", "r+", offset=start, shape=shape[1:]))
