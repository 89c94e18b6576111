"""How many groups, for many tasks: a grid of numbers of groups without a relaxation, then one at the best of them."""

from __future__ import annotations

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.group import Candidate, describe
from coterie.grouping.matrix import FloatArray, IntArray, centred, shift_of
from coterie.grouping.objective import as_labels, bound_of_lifted, improved, sum_of_densities
from coterie.grouping.rounding import round_solution
from coterie.grouping.sdp.admm import SdpSolution
from coterie.grouping.sdp.scaling import row_blocks
from coterie.grouping.sdp.solve import solve_sdp
from coterie.grouping.spectral import cluster_rows, embed

#: numbers of groups on the grid, at most; above, one group has a few tasks only
MOST = 256
#: numbers of groups up to which the relaxation is solved; above, its rank is a large part of the number of tasks
RELAXED = 32
#: leading eigenvectors that are clustered, at most
VECTORS = 48
#: the grid ends after so many numbers of groups in a row that are worse than the best
PATIENCE = 3


def grid_of_k(
    matrix: FloatArray, k_max: int, *, seed: int = 0, progress: Progress | None = None
) -> tuple[list[Candidate], float]:
    """Spectral clusters, improved, at 2, 3, 4, 6, 8, 12, ... groups; then the relaxation at the best of them, up to 32.

    Args:
        matrix: (T, T) symmetric affinity, its diagonal set on purpose.
        k_max: largest number of groups.
        seed: of k-means.
        progress: called for each number of groups.

    Returns:
        Candidates, one group and `k_max` groups (where these are all tasks or a quarter of them at most) among them,
        and a certified upper bound on the sum of densities of ANY partition: with the multiplier of the relaxation, or
        without one. It may be far above, because many small groups can be worth much in theory.

    Cost:
        Some 50 eigenvectors, k-means and local moves for each number of groups, and one SDP.
    """
    say = progress or silent
    found, worth = _along_the_grid(matrix, k_max, seed, say)
    candidates = [Candidate(labels) for labels in found.values()]
    best = max(worth, key=lambda k: worth[k])
    bound = _free_bound(matrix, None)
    if not 1 < best <= RELAXED:
        return candidates, bound
    solution = solve_sdp(matrix, best, eps=max(2e-2, len(matrix) / 250_000), progress=say)
    labels = round_solution(solution.X, matrix, best, seed=seed, random_starts=0)
    candidates.append(Candidate(labels, describe(solution)))
    return candidates, min(bound, _free_bound(matrix, solution))


def _along_the_grid(
    matrix: FloatArray, k_max: int, seed: int, say: Progress
) -> tuple[dict[int, IntArray], dict[int, float]]:
    """Labels, and sums of densities of the centred matrix, for each number of groups that was tried."""
    a = centred(matrix)
    n = len(a)
    most = min(k_max, MOST, n // 4)
    numbers = sorted(set(grid(most)) | ({k_max} if 1 < k_max <= most else set[int]()))
    vectors = embed(a, min(VECTORS, max([2, *numbers])))
    found: dict[int, IntArray] = {1: np.zeros(n, dtype=np.int64)}
    if k_max == n:
        found[n] = np.arange(n, dtype=np.int64)
    worth = {k: sum_of_densities(a, labels) for k, labels in found.items()}
    top, worse = -np.inf, 0  # single tasks may be worth more than a few groups, and less than many
    for done, k in enumerate(numbers):
        say("grouping: number of groups", done, len(numbers))
        labels = as_labels(cluster_rows(vectors[:, -min(k, VECTORS) :], k, seed, restarts=1), n)
        found[k] = improved(a, labels)
        worth[k] = sum_of_densities(a, found[k])
        worse = worse + 1 if worth[k] < top else 0
        top = max(top, worth[k])
        if worse >= PATIENCE and k_max not in numbers[done + 1 :]:
            break
    say("grouping: number of groups", len(numbers), len(numbers))
    return found, worth


def grid(largest: int) -> list[int]:
    """2, 3, 4, 6, 8, 12, 16, 24, ... up to `largest`.

    Example:
        >>> grid(20)
        [2, 3, 4, 6, 8, 12, 16]
    """
    numbers = sorted({2 * 2**power for power in range(12)} | {3 * 2**power for power in range(12)})
    return [k for k in numbers if k <= largest]


def _free_bound(matrix: FloatArray, solution: SdpSolution | None) -> float:
    """Bound for any number of groups, from the multiplier of a solution for one number, or from none."""
    shift = shift_of(matrix)
    lifted = matrix - shift
    warm = None if solution is None else solution.start
    if warm is not None:
        for which in row_blocks(len(matrix)):
            negative = np.minimum(warm.state[which], 0).astype(np.float64)
            negative += np.minimum(warm.state[:, which], 0).T
            lifted[which] -= negative * (warm.weight / 2)
    return bound_of_lifted(lifted, None) + len(matrix) * (shift + 4 * float(np.finfo(np.float64).eps) * abs(shift))
