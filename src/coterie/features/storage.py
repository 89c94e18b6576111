"""Stored gradient features: what they are of, how they are kept, and who writes them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coterie._check import choice
from coterie._files import atomic_write, make_directory
from coterie._show import short_repr
from coterie.errors import ModelError, ResourceError, WorkloadError
from coterie.workload.workload import Workload

#: name -> type of the stored numbers; None is that of the features themselves
STORED: dict[str, torch.dtype | None] = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: the largest number of a column of float16 is brought to 2 ** _PEAK; numbers 16 times as large still fit
_PEAK, _LIMIT = 11, 2.0**15
#: exponents of scales, so that scales are ordinary single-precision numbers
_LEAST, _MOST = -100, 127
#: stored numbers that are scaled anew at a time
_ANEW = 2**18


def stored_type(name: str, full: torch.dtype) -> torch.dtype:
    """The type that a name stands for.

    Raises:
        SettingError: for an unknown name.
    """
    choice(name, "dtype", tuple(STORED))
    return STORED[name] or full


@short_repr
@dataclass(frozen=True, eq=False)
class FeatureMatrix:
    """(N, d) features as they are stored; they are read in full precision.

    A bfloat16 number is kept to 2**-8 of itself (0.4 %), however large or small it is; a float16 number to 2**-11 of
    itself (0.05 %), or to 2**-34 of the largest of its column where that is more.

    Attributes:
        stored: (N, d) numbers in memory or in a mapped file.
        scale: (d,) powers of two that columns are multiplied by on reading; None for no scaling.
        dtype: type of the numbers that are read.

    Example:
        >>> matrix = FeatureMatrix(torch.tensor([[0.5, 0.25]], dtype=torch.float16), torch.tensor([4.0, 1.0]))
        >>> matrix.read().tolist(), matrix.read().dtype
        ([[2.0, 0.25]], torch.float32)
    """

    stored: Tensor
    scale: Tensor | None = None
    dtype: torch.dtype = torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes of the stored numbers."""
        return self.stored.numel() * self.stored.element_size()

    def rows(self, which: slice) -> FeatureMatrix:
        """Some of the rows: a view, nothing is read."""
        return FeatureMatrix(self.stored[which], self.scale, self.dtype)

    def read(self, device: torch.device | None = None) -> Tensor:
        """(N, d) in full precision: the stored numbers themselves where these are of that type."""
        values = self.stored.to(device or self.stored.device).to(self.dtype, copy=self.scale is not None)
        return values if self.scale is None else values.mul_(self.scale.to(values.device, self.dtype))


def compress(values: Tensor, name: str) -> FeatureMatrix:
    """Full (n, d) numbers, stored as ``"float32"`` (unchanged), ``"float16"`` or ``"bfloat16"``.

    Example:
        >>> compress(torch.tensor([[2.0**30], [3.0]]), "float16").read().tolist()
        [[1073741824.0], [3.0]]
    """
    kind = stored_type(name, values.dtype)
    if kind == values.dtype:
        return FeatureMatrix(values, None, values.dtype)
    if kind != torch.float16:
        return FeatureMatrix(values.to(kind), None, values.dtype)
    scales = ColumnScales(torch.empty((0, values.shape[1]), dtype=kind, device=values.device))
    return FeatureMatrix(scales.fit(values, 0).to(kind), scales.scale, values.dtype)


class ColumnScales:
    """Chooses a power of two for each column while blocks of features arrive, so that no float16 number overflows.

    The largest number of a column is known only at the end. A column starts with the scale of its first block, with
    room for 16 times as much; when more comes, what is already stored is divided by a power of two, which is exact but
    for numbers that fall below the smallest of float16.

    Args:
        stored: (N, d) where the numbers are kept.
    """

    def __init__(self, stored: Tensor) -> None:
        self._stored = stored
        self._exponent = torch.full((stored.shape[1],), _LEAST, dtype=torch.int32, device=stored.device)
        self._known = torch.zeros(stored.shape[1], dtype=torch.bool, device=stored.device)

    @property
    def scale(self) -> Tensor:
        """(d,) single-precision powers of two."""
        return torch.ldexp(torch.ones_like(self._exponent, dtype=torch.float32), self._exponent * self._known)

    def fit(self, values: Tensor, column: int) -> Tensor:
        """(n, c) values of columns `column`.. divided by their scales, after making room for them."""
        own = slice(column, column + values.shape[1])
        peak = values.abs().amax(0) if len(values) else values.new_zeros(values.shape[1])
        peak = peak.to(self._exponent.device)
        wanted = (torch.frexp(peak).exponent - _PEAK).clamp_min(_LEAST)
        if values.dtype == torch.float64 and bool((wanted > _MOST).any()):
            raise ModelError(
                f"Features as large as {float(peak.max()):.0e} cannot be stored with dtype='float16'. Look for a model "
                "that has diverged, or use dtype='float32'."
            )
        known, exponent = self._known[own], self._exponent[own]
        grow = known & (torch.ldexp(peak, -exponent) > _LIMIT)
        if bool(grow.any()):
            columns = grow.nonzero().flatten()
            factor = torch.ldexp(torch.ones_like(peak), exponent - wanted)[columns]
            for kept in self._stored.split(max(1, _ANEW // len(columns))):  # blocks: all may be larger than the memory
                kept[:, columns + column] = (kept[:, columns + column].to(factor.dtype) * factor).to(kept.dtype)
        change = grow | (~known & (peak > 0))
        self._exponent[own] = torch.where(change, wanted, exponent)
        self._known[own] = known | change
        return torch.ldexp(values, -(self._exponent * self._known)[own].to(values.device))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Labelled (example, task) pairs, sorted by task, then by row.

    Attributes:
        rows: (R,) row numbers of the workload with at least one label in the part.
        local: (N,) position in `rows` of each pair.
        task: (N,) task of each pair.
        starts: (T + 1,) where each task's pairs start.
        position: (R, T) number of the pair, -1 where there is no label.
    """

    rows: Tensor
    local: Tensor
    task: Tensor
    starts: Tensor
    position: Tensor

    @property
    def count(self) -> int:
        """Number of pairs N."""
        return self.local.shape[0]

    @property
    def dense(self) -> bool:
        """Whether every task has a label on every row."""
        return self.count == self.position.numel()


def labelled_pairs(workload: Workload, part: str, rows: Tensor | None = None) -> Pairs:
    """The pairs of a part, or of given rows.

    Raises:
        WorkloadError: when no row has a label.
    """
    chosen = workload.split.part(part) if rows is None else rows
    chosen = chosen.to(workload.labels.device)
    chosen = chosen[workload.observed[chosen].any(1)]
    if not len(chosen):
        raise WorkloadError(f"The {part} part has no row with a label, so there is nothing to take gradients of.")
    seen = workload.observed[chosen]
    task, local = seen.T.nonzero(as_tuple=True)
    starts = torch.zeros(workload.n_tasks + 1, dtype=torch.int64, device=seen.device)
    starts[1:] = seen.sum(0).cumsum(0)
    position = torch.full(seen.shape, -1, dtype=torch.int64, device=seen.device)
    position[local, task] = torch.arange(len(local), device=seen.device)
    return Pairs(chosen, local, task, starts, position)


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
