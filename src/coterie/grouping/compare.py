"""How alike two partitions are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.errors import SettingError


def adjusted_rand(first: Sequence[int], second: Sequence[int]) -> float:
    """Adjusted Rand index of two labelings: 1 for the same partition, 0 in the mean over chance, below 0 for less.

    Args:
        first: (n,) labels; their names do not matter.
        second: (n,) labels of the same items.

    Source:
        Hubert and Arabie, Journal of Classification 2 (1985).

    Example:
        >>> adjusted_rand([0, 0, 1, 1], [1, 1, 0, 0])
        1.0
    """
    if len(first) != len(second) or not len(first):
        raise SettingError(
            f"Two labelings should have the same length, at least 1. Found {len(first)} and {len(second)}."
        )
    _, rows = np.unique(np.asarray(first), return_inverse=True)
    _, columns = np.unique(np.asarray(second), return_inverse=True)
    table = np.zeros((int(rows.max()) + 1, int(columns.max()) + 1))
    np.add.at(table, (rows, columns), 1.0)
    together = float(_pairs(table).sum())
    in_first, in_second = float(_pairs(table.sum(axis=1)).sum()), float(_pairs(table.sum(axis=0)).sum())
    total = len(first) * (len(first) - 1) / 2
    chance = in_first * in_second / total if total else 0.0
    largest = (in_first + in_second) / 2
    # Both all in one group, or both all apart: the same partition, and 0 / 0 in the formula.
    return 1.0 if largest == chance else float((together - chance) / (largest - chance))


def _pairs(counts: np.ndarray) -> np.ndarray:
    """Number of pairs within each count."""
    return counts * (counts - 1) / 2
