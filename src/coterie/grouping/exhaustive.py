"""The best partition of a few tasks, found exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.errors import SettingError
from coterie.grouping.matrix import FloatArray, IntArray, submasks
from coterie.grouping.objective import Objective

#: largest number of tasks for which all partitions are searched
LIMIT = 12


def exhaustive(objective: Objective, n: int, ks: Sequence[int]) -> dict[int, IntArray]:
    """The best partition into exactly k groups, for each k of `ks`.

    All 2^n - 1 groups are valued once; the best partition of a set is its best group with the set's first task, plus
    the best partition of the rest.

    Args:
        objective: what groups are worth.
        n: number of tasks, at most 12.
        ks: numbers of groups, each 1..n.

    Returns:
        For each k: (n,) labels.

    Raises:
        SettingError: too many tasks.

    Cost:
        3^n / 2 additions for each k: 0.1 s at n = 8, seconds at n = 12.
    """
    if n > LIMIT:
        raise SettingError(
            f"Parameter `method` is 'exhaustive', which takes at most {LIMIT} tasks. Found {n}. Use "
            "method='sdp': it reports how far it is from the best partition at most."
        )
    codes = np.arange(1 << n)
    subsets = (codes[:, None] >> np.arange(n)) & 1 > 0
    worth = np.concatenate([[0.0], objective.totals(subsets[1:])])
    best: list[FloatArray] = [np.where(codes == 0, 0.0, -np.inf)]
    choice: list[IntArray] = [np.zeros(1 << n, dtype=np.int64)]
    for _ in range(max(ks)):
        value, taken = _one_more(worth, best[-1], n)
        best.append(value)
        choice.append(taken)
    return {k: _read(choice, n, k) for k in ks}


def _one_more(worth: FloatArray, rest: FloatArray, n: int) -> tuple[FloatArray, IntArray]:
    """Best value of every set with one group more, and the group that holds its first task."""
    value, taken = np.full(1 << n, -np.inf), np.zeros(1 << n, dtype=np.int64)
    for code in range(1, 1 << n):
        lowest = code & -code
        others = submasks(code ^ lowest)
        totals = worth[others | lowest] + rest[(code ^ lowest) ^ others]
        best = int(np.argmax(totals))
        value[code], taken[code] = totals[best], others[best] | lowest
    return value, taken


def _read(choice: Sequence[IntArray], n: int, k: int) -> IntArray:
    """Follow the choices from the full set down."""
    labels, code = np.zeros(n, dtype=np.int64), (1 << n) - 1
    for group in range(k, 0, -1):
        taken = int(choice[group][code])
        labels[(taken >> np.arange(n)) & 1 > 0] = group
        code ^= taken
    return labels
