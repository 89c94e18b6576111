"""Which rows train, which choose, which judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._read import is_frame, read_array
from coterie.errors import WorkloadError
from coterie.workload.arrays import merely_numbered
from coterie.workload.workload import Split

PARTS = ("train", "validation", "test")
SplitLike = Split | Mapping[str, Any] | Sequence[float]


def make_split(split: SplitLike, rows: int, seed: int, device: torch.device | None = None) -> Split:
    """A :class:`Split` of `rows` rows from fractions, from row numbers, or as it is.

    Fractions (train, validation, test) are drawn at random with `seed`; the same seed and number of rows give the same
    split. Row numbers are given as a mapping with the keys ``"train"``, ``"validation"`` and ``"test"``; boolean masks
    over the rows are understood too. Labels of pandas objects are read by :func:`by_position` before.

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


def by_position(split: Any, index: Any) -> Any:
    """A split whose pandas objects are row numbers: their labels are those of an index.

    An Index holds labels, and so does an array or a list of texts or dates. A boolean Series is put into the order of
    the index by its own labels; without an index, and where either is merely numbered in the same order, it is a mask
    by position. Whole numbers in a Series are labels or row numbers, whichever they can be. Three fractions in a Series
    go by name.

    Args:
        split: as for :func:`make_split`.
        index: labels of the rows; None where they have none.

    Raises:
        WorkloadError: for labels that the index does not have, and for numbers that can be read in both ways.
    """
    if isinstance(split, Split):
        tensors: dict[str, Any] = {part: split.part(part) for part in PARTS}
        return split if all(isinstance(part, Tensor) for part in tensors.values()) else by_position(tensors, index)
    if isinstance(split, Mapping):
        parts = cast("Mapping[Any, Any]", split)
        return {part: _positions(values, str(part), index) for part, values in parts.items()}
    if hasattr(split, "iloc") and set(split.index) == set(PARTS):
        return [split[part] for part in PARTS]
    return split


def _positions(values: Any, part: str, index: Any) -> Any:
    where = f"Parameter `split`: the {part} part"
    if is_frame(values):
        raise WorkloadError(
            f"{where} should hold row labels or row numbers. Found a data frame of {len(values)} rows. Pass the labels "
            f"of its rows: split={{{part!r}: table.index, ...}}."
        )
    series, labels = hasattr(values, "iloc"), hasattr(values, "get_indexer")
    if not series and not labels:
        return values if index is None else _looked_up(values, index, where)
    array = values.to_numpy() if values.dtype.kind not in "fiub" else read_array(values, f"split[{part!r}]")
    if array.dtype == bool:
        if labels or index is None or index.equals(values.index):
            return array
        if len(index) == len(array) and not _numbered(index, values.index):
            return array[_found(values.index, index, where)]
        raise WorkloadError(
            f"{where} is a mask whose row labels (index) are not those of the data. The likely cause is a table that "
            "was sorted, shuffled or filtered. Use `mask.loc[x.index]` to pair rows by label, or `.to_numpy()` to go "
            "by position."
        )
    if index is None or merely_numbered(index) or (series and array.dtype.kind == "f"):  # a hole is refused later
        return array
    known = index.get_indexer(array) if index.is_unique else np.full(len(array), -1)
    whole = array.dtype.kind in "iu"
    position = whole and bool(((array >= 0) & (array < len(index))).all())
    if (known >= 0).all() and (not position or (labels and not merely_numbered(values)) or (known == array).all()):
        return known
    if series and position and (known < 0).any():
        return array
    raise WorkloadError(
        f"{where} holds {'numbers that can be row labels (index) or positions' if (known >= 0).all() else ''}"
        f"{'' if (known >= 0).all() else 'row labels that the data do not have, or have twice'}, such as {array[0]!r}. "
        "Pass labels as a pandas Index of labels that occur once, positions with `.to_numpy()`."
    )


def _looked_up(values: Any, index: Any, where: str) -> Any:
    """Positions of texts or dates in an array or a list, which can be labels only; all else as it is."""
    if isinstance(values, list | tuple):
        array = np.array(values, dtype=object)
    else:
        array = values if isinstance(values, np.ndarray) else np.empty(0)
    words = array.dtype.kind == "O" and all(isinstance(value, str | date | np.datetime64) for value in array.ravel())
    if array.ndim != 1 or not len(array) or not (words or array.dtype.kind in "UM"):
        return values
    known = index.get_indexer(array) if index.is_unique else np.full(len(array), -1)
    if (known < 0).any():
        raise WorkloadError(
            f"{where} holds row labels that the data do not have, or have twice, such as "
            f"{array[int(np.argmin(known))]!s}. The likely cause is a split of another table."
        )
    return known


def _numbered(*indexes: Any) -> bool:
    return any(merely_numbered(index) or not index.is_unique for index in indexes)


def _found(own: Any, index: Any, where: str) -> NDArray[np.int64]:
    """Where the labels of an index are in another one."""
    order = own.get_indexer(index)
    if (order < 0).any():
        raise WorkloadError(
            f"{where} lacks {int((order < 0).sum())} row labels of the data, such as {index[int(np.argmin(order))]!r}. "
            "The likely cause is a mask of another table; pass `.to_numpy()` to go by position."
        )
    return order


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
    numbers = read_array(values, f"split[{part!r}]")
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
