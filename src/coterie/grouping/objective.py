"""What a partition is worth: its sum of densities, or the gain that a gain model predicts for it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.grouping.matrix import (
    BoolArray,
    FloatArray,
    GainModelLike,
    IntArray,
    as_square,
    as_symmetric,
    centred,
    check_gains,
    largest,
    shift_of,
)


def density(matrix: ArrayLike, members: Sequence[int]) -> float:
    """Average density of one group: the sum of all its entries, diagonal included, over its size.

    Args:
        matrix: (T, T) affinity, rows are targets, larger is better. It need not be symmetric.
        members: indices of the group's tasks, at least one.

    Example:
        >>> density([[1.0, 3.0], [1.0, 1.0]], [0, 1])
        3.0
    """
    index = np.asarray(members, dtype=np.int64)
    if not len(index):
        raise SettingError("Parameter `members` should have at least one task. Found none.")
    return float(as_square(matrix)[np.ix_(index, index)].sum() / len(index))


def group_densities(matrix: ArrayLike, groups: Sequence[Sequence[int]]) -> FloatArray:
    """(groups,) average density of each group; groups may overlap."""
    return np.array([density(matrix, members) for members in groups])


def sum_of_densities(matrix: ArrayLike, labels: ArrayLike) -> float:
    """Sum over the groups of a partition of 1'A1 / size.

    Args:
        matrix: (T, T) affinity, rows are targets, larger is better.
        labels: (T,) group number of each task; any whole numbers.

    Returns:
        The objective; higher is better. Adding c to every entry adds c * T, whatever the groups.

    Cost:
        T^2 additions at most, the square of its size for each group.

    Example:
        >>> sum_of_densities([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0, 0, 1])
        3.0
    """
    square = as_symmetric(matrix)
    numbers = as_labels(labels, len(square))
    order = np.argsort(numbers, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return float(sum(square[np.ix_(members, members)].sum() / len(members) for members in groups))


def as_labels(labels: ArrayLike, n: int) -> IntArray:
    """Labels renumbered 0, 1, ... in the order in which the groups appear."""
    if np.ma.is_masked(labels):
        raise SettingError("Parameter `labels` has masked entries. Give every task a group.")
    given = np.asarray(labels)
    if given.shape != (n,):
        raise SettingError(
            f"Parameter `labels` should have one entry for each of {n} tasks. Found shape {given.shape}."
        )
    _, first, inverse = np.unique(given, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def membership(labels: IntArray) -> FloatArray:
    """(T, groups) matrix of zeros and ones of labels 0..groups-1."""
    member = np.zeros((len(labels), int(labels.max()) + 1))
    member[np.arange(len(labels)), labels] = 1.0
    return member


_BATCH = 4096
#: predicted gains that are remembered, so that memory stays bounded
_REMEMBERED = 2**24


class Objective(ABC):
    """What a partition is worth; higher is better."""

    #: differences up to this much count as equal
    tolerance: float
    #: what the score of every partition leaves out, because it is the same for all
    constant: float = 0.0

    @abstractmethod
    def score(self, labels: IntArray) -> float:
        """Worth of a partition (T,) labels, less the constant."""

    @abstractmethod
    def values(self, subsets: BoolArray) -> FloatArray:
        """(m, T) what each task of each group (m, T) adds to the worth of its group; 0 outside of the group."""

    def totals(self, subsets: BoolArray) -> FloatArray:
        """(m,) worth of single groups (m, T); the worth of a partition is the sum over its groups, up to a factor."""
        return self.values(subsets).sum(axis=1)


@final
class DensityObjective(Objective):
    """Sum over the groups of 1'A1 / size, of A less the mean of its off-diagonal entries.

    That takes T times the mean off every partition. With a large constant in A, the digits that tell partitions apart
    would be lost. What is left of them after the entries of A were rounded decides what counts as equal.
    """

    def __init__(self, matrix: FloatArray) -> None:
        n, shift = len(matrix), shift_of(matrix)
        self.matrix, self.constant = matrix - shift, n * shift
        unit = float(np.finfo(np.float64).eps) * largest(matrix)
        self.tolerance = n * max(1e-10 * largest(self.matrix), unit, 1e-310)

    def score(self, labels: IntArray) -> float:
        """The sum of densities, less the constant."""
        return sum_of_densities(self.matrix, labels)

    def values(self, subsets: BoolArray) -> FloatArray:
        """Mean affinity of each task with its group, itself included, less the constant."""
        member = subsets.astype(np.float64)
        return member * (member @ self.matrix) / np.maximum(member.sum(axis=1, keepdims=True), 1.0)


@final
class GainObjective(Objective):
    """Mean over the tasks of the gain that a model predicts for the group of the task.

    Groups are asked for in batches and remembered. The gain of a task trained alone is 0 where the model has no
    opinion (NaN).

    Args:
        model: see :class:`coterie.grouping.matrix.GainModelLike`.
        order: (T,) the model's index of each task of the labels that are scored.
        tell: called with the number of groups that were asked for so far, whenever there are more.
    """

    def __init__(self, model: GainModelLike, order: IntArray, tell: Callable[[int], None] | None = None) -> None:
        self.model, self.order, self.tell = model, order, tell
        self.tolerance = 1e-9
        self.asked = 0
        self._known: dict[bytes, FloatArray] = {}

    def score(self, labels: IntArray) -> float:
        """Mean predicted gain over the tasks."""
        return float(self.totals(membership(labels).T > 0).sum() / len(labels))

    def values(self, subsets: BoolArray) -> FloatArray:
        """Predicted gain of each task in its group; 0 for an empty one."""
        keys = [row.tobytes() for row in np.packbits(subsets, axis=1)]
        fresh = {key: row for row, key in enumerate(keys) if key not in self._known}
        if (len(self._known) + len(fresh)) * subsets.shape[1] > _REMEMBERED:
            self._known, fresh = {}, {key: row for row, key in enumerate(keys)}
        found, rows = list(fresh), np.fromiter(fresh.values(), dtype=np.int64, count=len(fresh))
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            self._known.update(zip(found[part], self._predict(subsets[rows[part]]), strict=True))
            self.asked += len(rows[part])
            if self.tell is not None:
                self.tell(self.asked)
        return np.array([self._known[key] for key in keys]).reshape(subsets.shape)

    def covariance(self, subsets: BoolArray) -> FloatArray | None:
        """(m, m) covariance of the errors of the groups' totals; None where the model does not tell."""
        joint = getattr(self.model, "total_covariance", None)
        if joint is None:
            return None
        asked = np.zeros_like(subsets)
        asked[:, self.order] = subsets
        found = joint(asked)
        return None if found is None else np.asarray(found, dtype=np.float64)

    def _predict(self, subsets: BoolArray) -> FloatArray:
        """(m, T) predicted gains in groups; groups and gains in the order of the labels."""
        asked = np.zeros_like(subsets)
        asked[:, self.order] = subsets
        filled = asked.any(axis=1)
        gains = np.zeros(asked.shape)
        if filled.any():
            gains[filled] = np.asarray(self.model.predict(asked[filled]), dtype=np.float64)
        alone = asked & (asked.sum(axis=1) == 1)[:, None]
        gains = np.where(asked & ~(alone & np.isnan(gains)), gains, 0.0)
        check_gains(gains, asked, self.model.tasks)
        return gains[:, self.order]


_UNIT = float(np.finfo(np.float64).eps) / 2


def certified_bound(matrix: FloatArray, multiplier: FloatArray, k: int | None, penalty: float = 0.0) -> float:
    """Upper bound on max <A, X> (- penalty tr X) over the feasible set, valid for ANY symmetric multiplier N >= 0.

    Every feasible X is ee'/T + Y where Y lives on the complement of e, 0 <= Y <= I there and tr Y = k - 1. So
    <A, X> <= <A+N, X> <= e'(A+N)e/T + (sum of the k-1 largest eigenvalues of A+N on that complement). In the
    penalised form the trace is free: A - penalty I takes the place of A, and the sum runs over the positive
    eigenvalues.

    Args:
        matrix: (T, T) symmetric.
        multiplier: (T, T) symmetric, no negative entry.
        k: number of groups, or None for the penalised form.
        penalty: price of a group, penalised form only.

    Returns:
        The bound, raised by what rounding in float64 can take away from it.

    Cost:
        One symmetric eigendecomposition without vectors.
    """
    return bound_of_lifted(matrix + multiplier, k, penalty)


def bound_of_lifted(lifted: FloatArray, k: int | None, price: float = 0.0) -> float:
    """The same from A + N itself, which is overwritten.

    The eigenvalue of e is moved below all others by adding a multiple of ee', and left out.
    """
    n = len(lifted)
    mean = lifted.mean(axis=1)
    overall = float(mean.mean())
    size = float(np.linalg.norm(lifted))
    lifted -= mean[:, None]
    lifted -= mean
    lifted += overall - 2 * size / n
    eigenvalues = _eigenvalues(lifted)[1:]
    # The k-1 largest, negative ones included: the trace of Y is fixed.
    chosen = np.maximum(eigenvalues - price, 0.0) if k is None else eigenvalues[n - k :]
    total = float(mean.sum() + chosen.sum()) - (price if k is None else 0.0)
    return total + _rounding(n, len(chosen), size, price)


def _eigenvalues(matrix: FloatArray) -> FloatArray:
    """(T,) rising eigenvalues; the matrix is overwritten instead of copied."""
    linalg: Any = importlib.import_module("scipy.linalg")
    # LAPACK wants columns first; a symmetric matrix is its own transpose. One triangle is read.
    return linalg.eigh(matrix.T, eigvals_only=True, overwrite_a=True, check_finite=False, driver="evd")


def _rounding(n: int, rank: int, size: float, price: float) -> float:
    """What rounding can take away from the bound, at most.

    The computed eigenvalues are those of a matrix that is off by E. Forming the matrix errs by less than 200 units of
    rounding of its norm (sums are pairwise); each of the n reflections that make it tridiagonal, and the rotations
    after them, by a small multiple of n units (Higham, Accuracy and Stability of Numerical Algorithms, 2002, lemma
    19.3). A sum of `rank` eigenvalues moves by at most sqrt(rank) times the Frobenius norm of E.
    """
    off = (10.0 * n * n + 200.0) * _UNIT * 3 * size
    return float(np.sqrt(max(rank, 1))) * off + 100 * _UNIT * size + 4 * n * _UNIT * abs(price)


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
