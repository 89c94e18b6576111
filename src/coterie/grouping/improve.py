"""Local improvement of a partition: best single moves, then best exchanges, on the sum of densities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from coterie._surface import known_arguments
from coterie.grouping.density import as_labels, membership, sum_of_densities
from coterie.grouping.matrix import FloatArray, IntArray, as_symmetric, centred

#: above so many tasks no exchanges are tried: one takes T^2 numbers, and moves reach nearly all of their gain
EXCHANGES = 400


@known_arguments
def improve(matrix: ArrayLike, labels: ArrayLike, *, exchanges: bool = True) -> IntArray:
    """Move one task at a time, always the best move, until none helps; then try to exchange two tasks, and go on.

    Args:
        matrix: (T, T) affinity, larger is better.
        labels: (T,) a partition; the number of groups stays as it is and no group is emptied.
        exchanges: also exchange two tasks of different groups when no single move helps; up to 400 tasks.

    Returns:
        (T,) labels with at least the same sum of densities, groups numbered by their first task.

    Cost:
        T * groups once, about T for each move, T^2 for each exchange.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
        >>> improve(blocks, [0, 0, 1, 1, 1, 0]).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    return improved(centred(as_symmetric(matrix)), as_labels(labels, len(np.asarray(matrix))), exchanges=exchanges)


def improved(a: FloatArray, current: IntArray, *, exchanges: bool = True) -> IntArray:
    """The same for a matrix that is symmetric and centred, and labels numbered by :func:`as_labels`."""
    if current.max() == 0 or current.max() == len(a) - 1:
        return current
    tolerance = 1e-11 * max(float(a.max()), -float(a.min()))
    for _ in range(100):  # every round raises the objective; the limits only guard against rounding
        current = _Moves(a, current).through(tolerance)
        if not exchanges or len(a) > EXCHANGES:
            break
        gain, task, other = _best_exchange(a, current)
        if gain <= tolerance:
            break
        current[[task, other]] = current[[other, task]]
    return as_labels(current, len(a))


def improve_from(
    matrix: ArrayLike, starts: Sequence[ArrayLike], *, k: int, random_starts: int = 0, seed: int = 0
) -> IntArray:
    """The best of the improved `starts` and of some random partitions into `k` groups; the first one wins a tie."""
    a = centred(as_symmetric(matrix))
    generator = np.random.default_rng(seed)
    everything = [*starts, *(random_labels(len(a), k, generator) for _ in range(random_starts))]
    found = [improved(a, as_labels(start, len(a))) for start in everything]
    scores = np.array([sum_of_densities(a, labels) for labels in found])
    # Equal up to rounding counts as equal, so that the choice does not hang on the last bit.
    size = max(1e-300, float(a.max()), -float(a.min()))
    return found[int(np.argmax(scores >= scores.max() - 1e-10 * size))]


def random_labels(n: int, k: int, generator: np.random.Generator) -> IntArray:
    """A random partition of n tasks into exactly k groups of about equal size."""
    return generator.permutation(np.arange(n, dtype=np.int64) % k)


class _Moves:
    """Moves of one task, with what each of them gains kept up to date.

    Args:
        a: (T, T) symmetric.
        labels: (T,) 0..k-1, each used.
    """

    def __init__(self, a: FloatArray, labels: IntArray) -> None:
        self.a, self.labels = a, labels.copy()
        self.tasks, self.diagonal = np.arange(len(a)), np.diag(a).copy()
        self.k = int(labels.max()) + 1
        self.sizes = np.bincount(labels, minlength=self.k).astype(np.float64)
        self.sums = group_sums(a, self.labels, self.k)
        self.inner = np.bincount(self.labels, self.sums[self.tasks, self.labels], minlength=self.k)
        #: (T, k) what joining a group adds to the objective; -inf for the own group
        self.joining = np.empty_like(self.sums)
        for group in range(self.k):
            self._refresh(group)
        self.target = self.joining.argmax(axis=1)

    def through(self, tolerance: float) -> IntArray:
        """The best move, again and again, until none gains more than `tolerance`."""
        for _ in range(100 * len(self.a)):
            gain = self._leaving() + self.joining[self.tasks, self.target]
            task = int(np.argmax(gain))
            if not gain[task] > tolerance:
                break
            self._move(task, int(self.labels[task]), int(self.target[task]))
        return self.labels

    def _leaving(self) -> FloatArray:
        """(T,) what leaving the own group adds; -inf for a task that is alone."""
        size, inner = self.sizes[self.labels], self.inner[self.labels]
        own = self.sums[self.tasks, self.labels]
        change = (inner - 2 * own + self.diagonal) / np.maximum(size - 1, 1) - inner / size
        return np.where(size > 1, change, -np.inf)

    def _move(self, task: int, source: int, target: int) -> None:
        """Change everything that hangs on the two groups."""
        row, own = self.a[task], self.diagonal[task]
        self.inner[source] += own - 2 * self.sums[task, source]
        self.inner[target] += own + 2 * self.sums[task, target]
        self.sums[:, source] -= row
        self.sums[:, target] += row
        self.sizes[source] -= 1
        self.sizes[target] += 1
        self.labels[task] = target
        self._refresh(source)
        self._refresh(target)
        stale = (self.target == source) | (self.target == target)
        stale[task] = True
        best = self.joining[self.tasks, self.target]
        for group in (source, target):
            better = self.joining[:, group] > best
            self.target = np.where(better, group, self.target)
            best = np.maximum(best, self.joining[:, group])
        self.target[stale] = self.joining[stale].argmax(axis=1)

    def _refresh(self, group: int) -> None:
        """The column of `joining` of one group."""
        inner, size = self.inner[group], self.sizes[group]
        column = (inner + 2 * self.sums[:, group] + self.diagonal) / (size + 1) - inner / size
        self.joining[:, group] = np.where(self.labels == group, -np.inf, column)


def group_sums(a: FloatArray, labels: IntArray, k: int) -> FloatArray:
    """(T, k) sum of each row over each group."""
    if k <= 64:
        return a @ membership(labels)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(k))
    return np.stack([np.add.reduceat(row[order], starts) for row in a])


def _best_exchange(a: FloatArray, labels: IntArray) -> tuple[float, int, int]:
    """Gain and the two tasks of the best exchange between two groups."""
    k = int(labels.max()) + 1
    sums, sizes, diagonal = group_sums(a, labels, k), np.bincount(labels).astype(np.float64), np.diag(a)
    towards = sums[:, labels]  # [j, i]: sum of task j over the group of task i
    change = 2 * towards.T - 2 * np.diag(towards)[:, None] + diagonal[:, None] + diagonal[None, :] - 2 * a
    gain = change / sizes[labels][:, None]
    gain = np.where(labels[:, None] == labels[None, :], -np.inf, gain + gain.T)
    task, other = divmod(int(np.argmax(gain)), len(a))
    return float(gain[task, other]), task, other
