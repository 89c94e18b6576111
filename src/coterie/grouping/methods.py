"""The methods of grouping: each proposes partitions of a canonically ordered matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coterie._progress import Progress, silent
from coterie.grouping.choose import Candidate, describe, near, penalty_for, penalty_path
from coterie.grouping.exhaustive import exhaustive
from coterie.grouping.intervals.costs import affinity_costs
from coterie.grouping.intervals.programme import every_k
from coterie.grouping.matrix import FloatArray
from coterie.grouping.objective import DensityObjective, Objective
from coterie.grouping.peers.agglomerative import cut, merge_tree
from coterie.grouping.peers.constant import all_in_one_labels, single_task_labels
from coterie.grouping.peers.leiden import leiden_partition
from coterie.grouping.peers.random_groups import random_partition
from coterie.grouping.rounding import round_solution
from coterie.grouping.sdp.solution import SdpSolution
from coterie.grouping.sdp.solve import solve_sdp
from coterie.grouping.spectral import spectral_labels


@dataclass(frozen=True, eq=False)
class Request:
    """What a method is asked for: the matrix, its objective, and the numbers of groups that are allowed."""

    matrix: FloatArray
    objective: Objective
    k: int | None
    k_max: int
    seed: int
    penalty: float | None = None
    progress: Progress = silent

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.matrix)

    @property
    def by_density(self) -> bool:
        """Whether partitions are compared by their sum of densities."""
        return isinstance(self.objective, DensityObjective)

    @property
    def ks(self) -> list[int]:
        """Numbers of groups to try."""
        return [self.k] if self.k is not None else list(range(1, self.k_max + 1))


#: candidates, and an upper bound on the sum of densities of any partition that was allowed
Proposals = tuple[list[Candidate], float | None]


def trace_k(request: Request) -> Proposals:
    """The trace-k relaxation, rounded and improved, at each k; a bare matrix without k goes along the penalty path."""
    if request.k is None and request.by_density:
        return penalty_path(request.matrix, request.k_max, seed=request.seed, progress=request.progress)
    found: list[Candidate] = []
    bound = -np.inf
    solution: SdpSolution | None = None
    for done, k in enumerate(request.ks):
        request.progress("grouping: SDP", done, len(request.ks))
        solution = solve_sdp(request.matrix, k, start=solution)
        bound = max(bound, solution.bound)
        labels = round_solution(solution.X, request.matrix, k, seed=request.seed)
        found.append(Candidate(labels, describe(solution)))
    request.progress("grouping: SDP", len(request.ks), len(request.ks))
    return found, bound


def penalised(request: Request) -> Proposals:
    """The trace-penalised relaxation: at a given price, at the one that gives k groups, or along a path of prices."""
    if request.penalty is None and request.k is None:
        return penalty_path(request.matrix, request.k_max, seed=request.seed, progress=request.progress)
    if request.penalty is not None:
        solution = solve_sdp(request.matrix, penalty=request.penalty, progress=request.progress)
        price = request.penalty
    else:
        solution, price = penalty_for(request.matrix, request.ks[0])
    ks = {request.k} if request.k is not None else near(solution.trace, request.k_max)
    labels = [round_solution(solution.X, request.matrix, k, seed=request.seed) for k in sorted(ks)]
    # <A, X> <= penalised optimum + price * tr X for every X; without k, all numbers of groups up to k_max were allowed.
    allowed = {request.k} if request.k is not None else {1, request.k_max}
    bound = max(solution.bound + price * k for k in allowed)
    return [Candidate(one, describe(solution, price)) for one in labels], bound


def spectral(request: Request) -> Proposals:
    """Spectral clustering at each k, as it comes: no improvement, so that it can be compared with."""
    return [Candidate(spectral_labels(request.matrix, k, seed=request.seed)) for k in request.ks], None


def agglomerative(request: Request) -> Proposals:
    """Average linkage: one tree, cut at each k."""
    tree = merge_tree(request.matrix)
    return [Candidate(cut(tree, k)) for k in request.ks], None


def by_leiden(request: Request) -> Proposals:
    """Leiden: at its own resolution when k is free, otherwise at the one that gives k groups, or almost."""
    found = leiden_partition(request.matrix, request.k, seed=request.seed)
    if request.k is None and found.communities > request.k_max:
        found = leiden_partition(request.matrix, request.k_max, seed=request.seed)
    return [Candidate(found.labels, {"resolution": found.resolution, "communities": found.communities})], None


def at_random(request: Request) -> Proposals:
    """One random partition; its number of groups is drawn, too, when k is free."""
    return [Candidate(random_partition(request.n, request.k, k_max=request.k_max, seed=request.seed))], None


def intervals(request: Request) -> Proposals:
    """Contiguous intervals of the tasks in the order in which they came: the best sum of densities, exactly."""
    costs = affinity_costs(request.matrix)
    found = every_k(costs, max(request.ks), tolerance=request.objective.tolerance if request.by_density else 0.0)
    return [Candidate(one.labels) for one in found if one.k in request.ks], None


def all_in_one(request: Request) -> Proposals:
    """One group."""
    return [Candidate(all_in_one_labels(request.n))], None


def single_task(request: Request) -> Proposals:
    """One group a task."""
    return [Candidate(single_task_labels(request.n))], None


def best_of_all(request: Request) -> Proposals:
    """The best of all partitions, for a few tasks."""
    found = exhaustive(request.objective, request.n, request.ks)
    return [Candidate(labels) for labels in found.values()], None


METHODS: dict[str, Callable[[Request], Proposals]] = {
    "sdp": trace_k,
    "sdp-penalty": penalised,
    "spectral": spectral,
    "agglomerative": agglomerative,
    "leiden": by_leiden,
    "intervals": intervals,
    "random": at_random,
    "all-in-one": all_in_one,
    "single-task": single_task,
    "exhaustive": best_of_all,
}

#: methods whose partition is where the search for the largest predicted gain starts, given a gain model
RELAXED = frozenset({"sdp", "sdp-penalty"})
#: methods for which the order of the tasks means something, such as time
ORDERED = frozenset({"intervals"})
