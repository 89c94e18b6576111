"""Which rows train, which choose, which judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.errors import WorkloadError
from coterie.workload.workload import Split

PARTS = ("train", "validation", "test")
SplitLike = Split | Mapping[str, Any] | Sequence[float]


def make_split(split: SplitLike, rows: int, seed: int, device: torch.device | None = None) -> Split:
    """A :class:`Split` of `rows` rows from fractions, from row numbers, or as it is.

    Fractions (train, validation, test) are drawn at random with `seed`; the same seed and number of rows give the same
    split. Row numbers are given as a mapping with the keys ``"train"``, ``"validation"`` and ``"test"``; boolean masks
    over the rows are understood too.

    Raises:
        WorkloadError: when the fractions do not make three non-empty parts, or the parts are unusable as row numbers.

    Example:
        >>> split = make_split((0.6, 0.2, 0.2), 10, seed=0)
        >>> len(split.train), len(split.validation), len(split.test)
        (6, 2, 2)
    """
    if isinstance(split, Split):
        made = split
    elif isinstance(split, Mapping):
        made = _from_rows(split, rows)
    else:
        made = _from_fractions(split, rows, seed)
    made = Split(*(torch.as_tensor(made.part(part)).to(device or "cpu") for part in PARTS))
    check_split(made, rows)
    return made


def check_split(split: Split, rows: int) -> None:
    """Raise WorkloadError when a part is empty, out of range, has repeated rows, or shares rows with another."""
    seen = torch.zeros(rows, dtype=torch.int8)
    for part in PARTS:
        numbers = split.part(part)
        where = f"Parameter `split`: the {part} part"
        if numbers.dtype != torch.int64 or numbers.dim() != 1:
            raise WorkloadError(
                f"{where} should be a one-dimensional int64 tensor of row numbers. Found {numbers.dtype} of shape "
                f"{tuple(numbers.shape)}."
            )
        if len(numbers) == 0:
            raise WorkloadError(
                f"{where} is empty. Training, choosing and judging all need rows; make that part larger."
            )
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high >= rows:
            raise WorkloadError(
                f"{where} has row numbers from {low} to {high}, but the data have the rows 0 to {rows - 1}. The "
                "likely cause is row labels of a data frame (index) in place of positions."
            )
        own = torch.bincount(numbers.cpu(), minlength=rows)
        if int(own.max()) > 1:
            raise WorkloadError(f"{where} lists row {int(own.argmax())} more than once. List every row once at most.")
        shared = (own > 0) & (seen > 0)
        if bool(shared.any()):
            raise WorkloadError(
                f"{where} shares {int(shared.sum())} rows with an earlier part (for example row "
                f"{int(shared.nonzero()[0])}). Results on rows that were trained on prove nothing: make the parts "
                "disjoint."
            )
        seen += (own > 0).to(torch.int8)


def _from_fractions(split: Sequence[float], rows: int, seed: int) -> Split:
    hint = "For example split=(0.6, 0.2, 0.2), or a mapping of 'train', 'validation' and 'test' to row numbers."
    try:
        shares = [float(share) for share in split]
    except (TypeError, ValueError) as error:
        raise WorkloadError(f"Parameter `split` should be three fractions. Found {split!r}. {hint}") from error
    if len(shares) != 3 or any(not 0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise WorkloadError(
            f"Parameter `split` should be three fractions between 0 and 1 that sum to 1. Found {tuple(split)}. {hint}"
        )
    validation, test = (max(1, round(share * rows)) for share in shares[1:])
    if rows - validation - test < 1:
        raise WorkloadError(f"Parameter `split`: {rows} rows are too few for three non-empty parts. Give more rows.")
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(rows)
    bounds = (rows - validation - test, rows - test)
    return Split(*(torch.from_numpy(np.sort(numbers)) for numbers in np.split(order, bounds)))


def _from_rows(split: Mapping[str, Any], rows: int) -> Split:
    if set(split) != set(PARTS):
        raise WorkloadError(
            f"Parameter `split` should have the keys {list(PARTS)}. Found {sorted(map(str, split))}. All three are "
            "needed: the validation part chooses, the test part judges."
        )
    return Split(*(_row_numbers(split[part], part, rows) for part in PARTS))


def _row_numbers(values: Any, part: str, rows: int) -> Tensor:
    numbers = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if numbers.dtype == bool:
        if numbers.shape != (rows,):
            raise WorkloadError(
                f"Parameter `split`: the mask of the {part} part should have shape ({rows},). Found {numbers.shape}."
            )
        return torch.from_numpy(np.flatnonzero(numbers))
    if numbers.size == 0:
        numbers = numbers.astype(np.int64)
    if numbers.dtype.kind not in "iu":
        raise WorkloadError(
            f"Parameter `split`: the {part} part should be whole row numbers or a boolean mask. Found {numbers.dtype}."
        )
    return torch.from_numpy(numbers.astype(np.int64))
