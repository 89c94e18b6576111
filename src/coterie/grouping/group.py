"""From an affinity to groups."""

from __future__ import annotations

from typing import Any

import numpy as np

from coterie._check import choice
from coterie._progress import Progress, silent
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.grouping.choose import pick
from coterie.grouping.density import sum_of_densities
from coterie.grouping.grouping import Grouping
from coterie.grouping.matrix import Problem, canonical_order, check_count, check_seed, largest, read_problem
from coterie.grouping.methods import METHODS, ORDERED, RELAXED, Request
from coterie.grouping.objective import DensityObjective, GainObjective
from coterie.grouping.search.groups import search_groups
from coterie.grouping.ties import on_grid


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
            chosen from a bare matrix (see :mod:`coterie.grouping.choose`).
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
