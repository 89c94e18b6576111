"""How many groups: candidates for several numbers of groups, and the choice between them.

The sum of densities can be compared between different numbers of groups: that is the relaxation without a price
(penalty 0). What it prefers is decided by the DIAGONAL of the matrix. A group of size s has density (its diagonal +
its pairs) / s, so a task stays alone when its own diagonal entry is larger than what companions add: with all-zero
diagonals and gains as entries, tasks gather while the gains are positive; with accuracies, where every entry is about
0.8, the choice hangs on whether the diagonal is above or below the others. Set it on purpose (`diagonal=`). Adding a
constant to ALL entries changes nothing.

A gain model needs no such convention: its groupings are compared by the gain that it predicts, where a task alone
gains 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.eigenvectors import leading_pairs
from coterie.grouping.matrix import FloatArray, IntArray
from coterie.grouping.objective import Objective
from coterie.grouping.rounding import round_solution
from coterie.grouping.sdp.solution import SdpSolution
from coterie.grouping.sdp.solve import solve_sdp

#: above so many tasks the penalised relaxation has too high a rank
PATH = 500


@dataclass(frozen=True, eq=False)
class Candidate:
    """A partition that a method proposes: (T,) labels, and what is worth knowing about it."""

    labels: IntArray
    details: dict[str, float | str] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """Number of groups."""
        return len(np.unique(self.labels))


def pick(objective: Objective, candidates: Sequence[Candidate]) -> tuple[Candidate, float]:
    """The candidate that is worth most; fewer groups win among equals, because every group is a model to serve."""
    scores = np.array([objective.score(candidate.labels) for candidate in candidates])
    good = [index for index in range(len(scores)) if scores[index] >= scores.max() - objective.tolerance]
    best = min(good, key=lambda index: candidates[index].k)
    return candidates[best], float(scores[best])


def penalty_path(
    matrix: FloatArray, k_max: int, *, seed: int = 0, steps: int | None = None, progress: Progress | None = None
) -> tuple[list[Candidate], float]:
    """Round the penalised relaxation along a path of prices of a group.

    The price runs from 0 in equal steps towards the largest eigenvalue of the matrix on the complement of e, where
    one group is optimal; that is the authors' grid 0.1, 0.2, ..., made independent of the scale of the matrix. Each
    solution starts from the one before and is rounded to its trace, downwards and upwards. The path ends when one
    group is left. Above 500 tasks, :func:`coterie.grouping.grid.grid_of_k` takes its place.

    Args:
        matrix: (T, T) symmetric affinity, its diagonal set on purpose.
        k_max: largest number of groups.
        seed: of the rounding.
        steps: prices to try; default 10 up to 60 tasks, 4 above.
        progress: called after each price.

    Returns:
        Candidates, and a certified upper bound on the sum of densities of ANY partition, whatever its number of groups.

    Cost:
        One SDP for each step, most of them with a good start.
    """
    say, n = progress or silent, len(matrix)
    if n > PATH:
        from coterie.grouping.grid import grid_of_k

        return grid_of_k(matrix, k_max, seed=seed, progress=say)
    count = steps or (10 if n <= 60 else 4)
    centre = matrix - matrix.mean(axis=0) - matrix.mean(axis=1)[:, None] + matrix.mean()
    top = max(float(leading_pairs(centre, 1)[1][0]), 0.0)
    tried, candidates, bound = set[int](), list[Candidate](), np.inf
    solution: SdpSolution | None = None
    for step in range(count):
        say("grouping: penalty path", step, count)
        price = top * step / count
        solution = solve_sdp(matrix, penalty=price, start=solution)
        bound = solution.bound if step == 0 else bound
        for k in near(solution.trace, k_max) | ({1, k_max} if step == 0 else set[int]()):
            labels = round_solution(solution.X, matrix, k, seed=seed, random_starts=0 if k in tried else 3)
            candidates.append(Candidate(labels, describe(solution, price)))
            tried.add(k)
        if solution.trace < 1 + 1e-3:
            break
    say("grouping: penalty path", count, count)
    return candidates, bound


def near(trace: float, k_max: int) -> set[int]:
    """Whole numbers of groups next to a fractional trace, within 1..k_max."""
    ends = (np.floor(trace + 1e-3), np.ceil(trace - 1e-3))
    return {min(max(int(end), 1), k_max) for end in ends}


def penalty_for(matrix: FloatArray, k: int, *, limit: int = 12) -> tuple[SdpSolution, float]:
    """The penalised solution whose trace is nearest to `k`, by bisection on the price, and that price.

    The trace falls as the price rises. Prices below 0 are tried, too: they push the trace above that of the free
    optimum. Each solution starts from the one before.
    """
    centre = matrix - matrix.mean()
    high = float(leading_pairs(centre, 1)[1][0])
    spread = max(high + float(leading_pairs(-centre, 1)[1][0]), 1e-300)
    low, high = -spread, spread
    tried: list[tuple[SdpSolution, float]] = []
    for _ in range(limit):
        price = (low + high) / 2
        solution = solve_sdp(matrix, penalty=price, start=tried[-1][0] if tried else None)
        tried.append((solution, price))
        if abs(solution.trace - k) < 1e-2:
            break
        low, high = (price, high) if solution.trace > k else (low, price)
    return min(tried, key=lambda one: abs(one[0].trace - k))


def describe(solution: SdpSolution, price: float | None = None) -> dict[str, float | str]:
    """What is worth knowing about the solution behind a partition."""
    found: dict[str, float | str] = {
        "sdp_status": solution.status,
        "sdp_value": solution.value,
        "sdp_bound": solution.bound,
        "sdp_gap": solution.gap,
        "sdp_trace": solution.trace,
        "sdp_iterations": int(solution.iterations),
    }
    return found if price is None else {**found, "penalty": price}
