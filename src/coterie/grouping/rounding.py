"""From the solution of the SDP to groups: every task in exactly one of exactly k groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from coterie.errors import SettingError
from coterie.grouping.matrix import FloatArray, IntArray, as_symmetric, centred
from coterie.grouping.objective import as_labels, improve_from, membership, sum_of_densities
from coterie.grouping.spectral import cluster_rows, leading_pairs, spectral_labels


def to_k_groups(matrix: FloatArray, labels: IntArray, k: int) -> IntArray:
    """Join two groups, or make a group of one task, each time the best one for the sum of densities, until k are left.

    Args:
        matrix: (T, T) symmetric affinity, larger is better.
        labels: (T,) a partition into any number of groups.
        k: number of groups, 1..T.

    Returns:
        (T,) labels 0..k-1, each used, groups numbered by their first task. A partition into k groups is left as it is.

    Cost:
        T^2 times the number of groups for each group too many or too few.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((2, 2)))
        >>> to_k_groups(blocks, np.array([0, 0, 1, 2]), 2).tolist(), to_k_groups(blocks, np.zeros(4, int), 2).tolist()
        ([0, 0, 1, 1], [0, 1, 1, 1])
    """
    current = as_labels(labels, len(matrix))
    while current.max() + 1 > k:
        current = merge_once(matrix, current)
    while current.max() + 1 < k:
        current = split_once(matrix, current)
    return current


def merge_once(matrix: FloatArray, labels: IntArray) -> IntArray:
    """Join the two groups for which the sum of densities falls least."""
    between, sizes = _sums(matrix, labels)
    inner = np.diag(between)
    joint = (inner[:, None] + inner[None, :] + 2 * between) / (sizes[:, None] + sizes[None, :])
    change = joint - inner[:, None] / sizes[:, None] - inner[None, :] / sizes[None, :]
    np.fill_diagonal(change, -np.inf)
    first, second = divmod(int(np.argmax(change)), len(sizes))
    return as_labels(np.where(labels == second, first, labels), len(labels))


def split_once(matrix: FloatArray, labels: IntArray) -> IntArray:
    """Make a group of the task whose leaving raises the sum of densities most."""
    between, sizes = _sums(matrix, labels)
    inner, size = np.diag(between)[labels], sizes[labels]
    own = (matrix * (labels[:, None] == labels[None, :])).sum(axis=1)
    diagonal = np.diag(matrix)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = (inner - 2 * own + diagonal) / (size - 1) - inner / size + diagonal
    result = labels.copy()
    result[int(np.argmax(np.where(size > 1, change, -np.inf)))] = labels.max() + 1
    return as_labels(result, len(labels))


def _sums(matrix: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """(groups, groups) sums between groups and (groups,) sizes."""
    member = membership(labels)
    return member.T @ matrix @ member, member.sum(axis=0)


#: above so many tasks the threshold rule is left out: it is exact only where k-means is, too, and takes T^2 a group
GREEDY = 300


def round_solution(
    x: ArrayLike, matrix: ArrayLike, k: int, *, seed: int = 0, refine: bool = True, random_starts: int = 3
) -> IntArray:
    """Round X to k groups in two ways, improve both by local search, and keep the best sum of densities.

    Args:
        x: (T, T) solution of the SDP.
        matrix: (T, T) affinity that it was solved for.
        k: number of groups, 1..T.
        seed: of k-means and of the random starts.
        refine: improve by moves and exchanges, also from spectral and from random labels. Without it the better of the
            two roundings is returned as it is.
        random_starts: how many random partitions are improved, too.

    Returns:
        (T,) labels 0..k-1, each used, groups numbered by their first task.

    Cost:
        k-means on T rows; T k a move.

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((2, 2)))
        >>> round_solution(blocks / 2, blocks, 2).tolist()
        [0, 0, 1, 1]
    """
    a = centred(as_symmetric(matrix))
    solution = as_symmetric(x)
    if not 1 <= k <= len(a) or solution.shape != a.shape:
        raise SettingError(
            f"Parameters of the rounding do not fit: X has shape {solution.shape}, the matrix {a.shape}, and k is {k}."
        )
    starts = [round_kmeans(solution, k, seed)]
    if len(a) <= GREEDY:
        starts.append(round_greedy(solution, a, k))
    if not refine:
        return as_labels(max(starts, key=lambda labels: sum_of_densities(a, labels)), len(a))
    starts.append(spectral_labels(a, k, seed=seed))
    return improve_from(a, starts, k=k, random_starts=random_starts, seed=seed)


def round_kmeans(x: FloatArray, k: int, seed: int = 0) -> IntArray:
    """k-means on the eigenvectors of X, each scaled by the root of its eigenvalue."""
    # Where the eigenvectors beyond some multiple of k matter, X is far from any partition, and they are noise.
    vectors, eigenvalues = leading_pairs(x, min(len(x), 4 * k + 40))
    kept = eigenvalues > 1e-6
    return cluster_rows(vectors[:, kept] * np.sqrt(eigenvalues[kept]), k, seed)


def round_greedy(x: FloatArray, matrix: FloatArray, k: int, factor: float = 0.9) -> IntArray:
    """The threshold rule of the authors, repaired: X[u, v] > factor / T means "together".

    Three changes: the factor is below 1, because with one group all entries equal 1/T and a strict comparison would be
    decided by the solver's noise; groups are opened by the unassigned task with the most mass on unassigned tasks
    instead of in the order of the rows, so that nothing hangs on that order; a task without partners is a group of its
    own instead of being lost. Then groups are merged or tasks taken out until k are left.
    """
    n = len(x)
    near = x > factor / n
    labels = np.full(n, -1, dtype=np.int64)
    for group in range(n):
        free = labels < 0
        if not free.any():
            break
        mass = (np.where(near, x, 0.0) * free[None, :]).sum(axis=1)
        leader = int(np.argmax(np.where(free, mass, -np.inf)))
        labels[free & near[leader]] = group
        labels[leader] = group
    return to_k_groups(matrix, labels, k)
