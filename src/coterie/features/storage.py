"""Features in half the bytes: what is stored, how it is scaled, and reading it back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie._check import choice
from coterie._show import short_repr
from coterie.errors import ModelError

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
