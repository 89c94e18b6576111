"""From an affinity to groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coterie._check import choice
from coterie._progress import Progress, silent
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.grouping.exhaustive import exhaustive
from coterie.grouping.grouping import Grouping
from coterie.grouping.intervals.costs import affinity_costs
from coterie.grouping.intervals.programme import every_k
from coterie.grouping.matrix import (
    FloatArray,
    IntArray,
    Problem,
    canonical_order,
    check_count,
    check_seed,
    largest,
    on_grid,
    read_problem,
)
from coterie.grouping.objective import DensityObjective, GainObjective, Objective, sum_of_densities
from coterie.grouping.peers.agglomerative import cut, merge_tree
from coterie.grouping.peers.constant import all_in_one_labels, single_task_labels
from coterie.grouping.peers.leiden import leiden_partition
from coterie.grouping.peers.random_groups import random_partition
from coterie.grouping.rounding import round_solution
from coterie.grouping.sdp.admm import SdpSolution
from coterie.grouping.sdp.solve import solve_sdp
from coterie.grouping.search.groups import search_groups
from coterie.grouping.spectral import leading_pairs, spectral_labels

# The sum of densities can be compared between different numbers of groups: that is the relaxation without a price
# (penalty 0). What it prefers is decided by the DIAGONAL of the matrix. A group of size s has density (its diagonal +
# its pairs) / s, so a task stays alone when its own diagonal entry is larger than what companions add: with all-zero
# diagonals and gains as entries, tasks gather while the gains are positive; with accuracies, where every entry is about
# 0.8, the choice hangs on whether the diagonal is above or below the others. Set it on purpose (`diagonal=`). Adding a
# constant to ALL entries changes nothing.
#
# A gain model needs no such convention: its groupings are compared by the gain that it predicts, where a task alone
# gains 0.

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


@known_arguments
def group(
    affinity: Any,
    k: int | None = None,
    *,
    method: str = "sdp",
    seed: int = 0,
    k_max: int | None = None,
    diagonal: str = "keep",
    penalty: float | None = None,
    progress: Progress | None = None,
) -> Grouping:
    """Partition tasks into groups that are worth training together.

    For a budget of models, and groups that share tasks, see :func:`coterie.grouping.select_groups`.

    Args:
        affinity: an :class:`~coterie.affinity.Affinity`, a (T, T) array (rows targets, columns sources, larger is
            better), a data frame of it (task names are its columns; rows are ordered by its index), or a
            :class:`~coterie.affinity.GainModel`. Only the symmetric part of a matrix counts.
        k: exact number of groups, 1..T; None chooses it.
        method: ``"sdp"`` (trace-k relaxation, rounding, local improvement), ``"sdp-penalty"`` (a price for each group);
            with a gain model, :func:`~coterie.grouping.search_groups` goes on from there.
            ``"exhaustive"`` (at most 12 tasks), ``"intervals"`` (of ordered tasks, exactly). To compare with,
            each as it comes: ``"spectral"``, ``"agglomerative"``, ``"leiden"``, ``"random"``, ``"all-in-one"``,
            ``"single-task"``.
        seed: of k-means, random starts, Leiden and random groups.
        k_max: largest number of groups when `k` is None. Default: T for a matrix, at most 20 for a gain model.
        diagonal: ``"keep"``, ``"zero"`` or ``"mean"``: what a task is worth to itself. It decides how many groups are
            chosen from a bare matrix (see :mod:`coterie.grouping.group`).
        penalty: price of a group for ``"sdp-penalty"``, in the units of the matrix; None finds it.
        progress: called as ``progress(stage, done, total)``.

    Returns:
        A partition. Its objective is the sum of densities for a matrix, the mean predicted gain over tasks for a gain
        model (its sum of densities is then in `details`). `bound` is a certified upper bound on the objective of
        every partition that was allowed, for a matrix and the SDP methods; the result is optimal when both agree.

        The order of the tasks does not matter (where partitions are worth the same, either may come), but for
        ``"intervals"``. Neither does multiplying all entries by a positive number, or adding a constant to them, but
        for ``"spectral"``, which reads their signs. Where k is free, the partition with the best objective is taken
        from all numbers of groups; only ``"leiden"`` cuts at the mean affinity, and ``"random"`` draws the number.

    Raises:
        SettingError: unknown method; k or k_max out of range; fewer than two tasks; not square; complex, NaN or
            infinite entries; a seed that is no whole number from 0; a data frame whose index and columns disagree.
        MissingDependencyError: ``"leiden"`` without graspologic-native.

    Cost:
        About 1 s at 400 tasks with k given, 10 s at 2,000, one or two minutes at 5,000. Choosing k takes up to ten
        times as long up to 500 tasks; beyond, numbers of groups are compared by spectral clustering and moves.

    Source:
        Li et al., "Scalable Multitask Learning Using Gradient-based Estimation of Task Affinity" (arXiv 2409.06091).

    Example:
        >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
        >>> found = group(blocks, k=2)
        >>> found.groups, round(found.objective, 6), round(found.bound, 4)
        (((0, 1, 2), (3, 4, 5)), 6.0, 6.0)
    """
    check_seed(seed)
    problem = read_problem(affinity, diagonal)
    _check(problem, k, k_max, method, penalty)
    order = (
        np.arange(problem.n, dtype=np.int64) if method in ORDERED else canonical_order(on_grid(problem.matrix).whole)
    )
    matrix = problem.matrix[np.ix_(order, order)]
    objective = DensityObjective(matrix) if problem.model is None else GainObjective(problem.model, order)
    limit = k_max or (problem.n if problem.model is None else min(problem.n, 20))
    request = Request(matrix, objective, k, limit, seed, penalty, progress or silent)
    candidates, bound = METHODS[method](request)
    best, score = pick(objective, candidates)
    score += objective.constant
    labels = np.empty(problem.n, dtype=np.int64)
    labels[order] = best.labels
    details = dict(best.details)
    if problem.model is not None and method in RELAXED:
        searched = search_groups(
            problem.model, k, max_groups=limit if k is None else None, starts=[labels], seed=seed, progress=progress
        )
        labels, score, details = searched.labels, searched.objective, {**details, **searched.details}
    if problem.model is not None:
        details["sum_of_densities"] = sum_of_densities(problem.matrix, labels)
    if bound is not None:
        details["density_bound"] = float(bound)
    certified = None
    if bound is not None and problem.model is None:
        rounding = 1e-12 * problem.n * largest(matrix)
        best_seen = float(score or 0.0)
        certified = best_seen if 0 < best_seen - bound <= rounding else float(bound)
    return Grouping.from_labels(
        problem.tasks,
        labels,
        objective=score,
        bound=certified,
        method=method,
        details={"k_given": k is not None, **details},
    )


def _check(problem: Problem, k: int | None, k_max: int | None, method: str, penalty: float | None) -> None:
    """Settings that do not fit the problem or each other."""
    choice(method, "method", tuple(METHODS))
    for name, value in (("k", k), ("k_max", k_max)):
        if value is not None:
            check_count(name, value, problem.n)
    if k is not None and k_max is not None and k > k_max:
        raise SettingError(f"Parameter `k` should be at most `k_max`. Found k={k}, k_max={k_max}. Give one of them.")
    fixed = {"all-in-one": 1, "single-task": problem.n}.get(method)
    if fixed is not None and k not in (None, fixed):
        made = f"{fixed} group{'s' * (fixed != 1)}"
        raise SettingError(f"Method {method!r} makes {made} of {problem.n} tasks. Found k={k}. Leave `k` out.")
    if penalty is not None and (method != "sdp-penalty" or not np.isfinite(penalty)):
        raise SettingError(
            f"Parameter `penalty` should be a finite number and belongs to method='sdp-penalty'. "
            f"Found penalty={penalty!r} with method={method!r}."
        )
