"""Local improvement of a partition: best single moves, then best exchanges, on the sum of densities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from coterie.grouping.density import as_labels, membership, sum_of_densities
from coterie.grouping.matrix import FloatArray, IntArray, as_square, centred, symmetrise


def improve(matrix: ArrayLike, labels: ArrayLike, *, exchanges: bool = True) -> IntArray:
    """Move one task at a time, always the best move, until none helps; then try to exchange two tasks, and go on.

    Args:
        matrix: (T, T) affinity, larger is better.
        labels: (T,) a partition; the number of groups stays as it is and no group is emptied.
        exchanges: also exchange two tasks of different groups when no single move helps.

    Returns:
        (T,) labels with at least the same sum of densities, groups numbered by their first task.

    Cost:
        T * groups for each move, T^2 for each exchange.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
        >>> improve(blocks, [0, 0, 1, 1, 1, 0]).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    a = centred(symmetrise(as_square(matrix)))
    current = as_labels(labels, len(a))
    if current.max() == 0 or current.max() == len(a) - 1:
        return current
    member = membership(current)
    tolerance = 1e-11 * float(np.abs(a).max())
    for _ in range(100 * len(a)):  # every step raises the objective; the limit only guards against rounding
        sums, sizes = a @ member, member.sum(axis=0)
        gain, task, target = _best_move(a, sums, sizes, current)
        if gain > tolerance:
            member[task, current[task]], member[task, target], current[task] = 0.0, 1.0, target
            continue
        if not exchanges:
            break
        gain, task, other = _best_exchange(a, sums, sizes, current)
        if gain <= tolerance:
            break
        current[[task, other]] = current[[other, task]]
        member = membership(current)
    return as_labels(current, len(a))


def improve_from(
    matrix: ArrayLike, starts: Sequence[ArrayLike], *, k: int, random_starts: int = 0, seed: int = 0
) -> IntArray:
    """The best of the improved `starts` and of some random partitions into `k` groups; the first one wins a tie."""
    a = centred(symmetrise(as_square(matrix)))
    generator = np.random.default_rng(seed)
    everything = [*starts, *(random_labels(len(a), k, generator) for _ in range(random_starts))]
    improved = [improve(a, start) for start in everything]
    scores = np.array([sum_of_densities(a, labels) for labels in improved])
    # Equal up to rounding counts as equal, so that the choice does not hang on the last bit.
    return improved[int(np.argmax(scores >= scores.max() - 1e-10 * max(1e-300, float(np.abs(a).max()))))]


def random_labels(n: int, k: int, generator: np.random.Generator) -> IntArray:
    """A random partition of n tasks into exactly k groups of about equal size."""
    return generator.permutation(np.arange(n, dtype=np.int64) % k)


def _best_move(a: FloatArray, sums: FloatArray, sizes: FloatArray, labels: IntArray) -> tuple[float, int, int]:
    """Gain, task and new group of the best move of one task."""
    tasks = np.arange(len(a))
    inner = np.bincount(labels, sums[tasks, labels], minlength=len(sizes))
    own, diagonal = sums[tasks, labels], np.diag(a)
    size = sizes[labels]
    with np.errstate(divide="ignore", invalid="ignore"):
        leaving = (inner[labels] - 2 * own + diagonal) / (size - 1) - inner[labels] / size
    joining = (inner + 2 * sums + diagonal[:, None]) / (sizes + 1) - inner / sizes
    gain = np.where((size > 1)[:, None], leaving[:, None] + joining, -np.inf)
    gain[tasks, labels] = -np.inf
    best = int(np.argmax(gain))
    task, target = divmod(best, len(sizes))
    return float(gain[task, target]), task, target


def _best_exchange(a: FloatArray, sums: FloatArray, sizes: FloatArray, labels: IntArray) -> tuple[float, int, int]:
    """Gain and the two tasks of the best exchange between two groups."""
    diagonal = np.diag(a)
    towards = sums[:, labels]  # [j, i]: sum of task j over the group of task i
    change = 2 * towards.T - 2 * np.diag(towards)[:, None] + diagonal[:, None] + diagonal[None, :] - 2 * a
    gain = change / sizes[labels][:, None]
    gain = np.where(labels[:, None] == labels[None, :], -np.inf, gain + gain.T)
    task, other = divmod(int(np.argmax(gain)), len(a))
    return float(gain[task, other]), task, other
