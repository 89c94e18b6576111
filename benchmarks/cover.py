"""Selection under a budget: time of the exact method against others, and how near the search and its bound come.

Random asymmetric affinities (noise), planted groups with noise, one thread, processor time. The others are the plain
recursion over collections of groups of the published code, with the last group tried for all at once in numpy, the
branch and bound of Standley et al. (groups that lower no task's error are dropped, the rest sorted by their largest
improvement), and the integer program of the usual formulation (a variable for each group, and for each task in each
group) solved by HiGHS through scipy. All of them find the optimum.
Run: ``python benchmarks/cover.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from coterie.affinity import Affinity, PairwiseGainModel
from coterie.grouping import Costs, Grouping, select_groups
from coterie.grouping.cover.bound import Pricing, upper_bound
from coterie.grouping.cover.problem import MatrixScores
from coterie.grouping.cover.select import read_cover

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tests"))
from reference.cover import FORBIDDEN, all_groups, best, rows, score  # noqa: E402

Matrix = NDArray[np.float64]
#: others are not run where they are known to take longer than some minutes
RECURSION = {2: 10, 3: 9}
PROGRAM = {2: 10, 3: 12}
BRANCHES = {2: 10, 3: 9}
MILP_SECONDS = 300.0  # on the clock


def noise(n: int, seed: int) -> Matrix:
    return np.random.default_rng(seed).normal(size=(n, n))


def planted(n: int, seed: int) -> Matrix:
    """Groups of about 10 tasks (at least 3 groups), entries 1 inside, 0 outside, plus noise of 0.5."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, max(3, n // 10), n)
    return (labels[:, None] == labels) + 0.5 * rng.normal(size=(n, n))


FAMILIES: dict[str, Callable[[int, int], Matrix]] = {"noise": noise, "planted": planted}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the processor seconds."""
    start = time.process_time()
    found = call()
    return found, time.process_time() - start


def program(matrix: Matrix, budget: int) -> tuple[float, bool]:
    """Mean over tasks by the plain integer program, and whether it was solved to the end."""
    n = len(matrix)
    members = [(g, t) for g, group in enumerate(all_groups(n)) for t in group]
    groups = all_groups(n)
    values = np.array([score(matrix, groups[g], t) for g, t in members])
    m, p = len(groups), len(members)
    own, task = np.array([g for g, _ in members]), np.array([t for _, t in members])
    served = csr_array((np.ones(p), (task, m + np.arange(p))), shape=(n, m + p))
    opened = csr_array(
        (np.r_[np.ones(p), -np.ones(p)], (np.r_[np.arange(p), np.arange(p)], np.r_[m + np.arange(p), own])),
        shape=(p, m + p),
    )
    count = csr_array((np.ones(m), (np.zeros(m, dtype=int), np.arange(m))), shape=(1, m + p))
    found: Any = milp(
        np.r_[np.zeros(m), -values],
        integrality=np.r_[np.ones(m), np.zeros(p)],
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(served, 1, 1),
            LinearConstraint(opened, -np.inf, 0),
            LinearConstraint(count, 0, budget),
        ],
        options={"time_limit": MILP_SECONDS, "mip_rel_gap": 1e-9},
    )
    return (np.nan if found.x is None else -found.fun / n), found.status == 0


def recursion(matrix: Matrix, budget: int) -> float:
    table = rows(len(matrix), all_groups(len(matrix)), lambda group, task: score(matrix, group, task))
    return best(table, budget) / len(matrix)


def branch_and_bound(matrix: Matrix, budget: int) -> float:
    """Mean over tasks by the recursion of Standley et al. (1905.07553), every group at the price of one model.

    It drops candidates that are below the running best score of every task, and branches on the rest in the order of
    their largest improvement; a candidate that was branched on is not tried again below its later siblings.
    """
    table = rows(len(matrix), all_groups(len(matrix)), lambda group, task: score(matrix, group, task))
    nobody = 10 * FORBIDDEN  # a task that no group serves; infinities could not be subtracted
    values = np.maximum(table, nobody)
    best_total = -np.inf

    def descend(candidates: NDArray[np.intp], found: NDArray[np.float64], left: int) -> None:
        nonlocal best_total
        best_total = max(best_total, float(found.sum()))
        if not left:
            return
        gains = (values[candidates] - found).max(1)
        useful = candidates[gains > 0][np.argsort(-gains[gains > 0], kind="stable")]
        if left == 1:  # the last group: all at once
            if len(useful):
                best_total = max(best_total, float(np.maximum(values[useful], found).sum(1).max()))
            return
        for place, candidate in enumerate(useful):
            descend(useful[place + 1 :], np.maximum(found, values[candidate]), left - 1)

    descend(np.arange(len(values)), np.full(len(matrix), nobody), budget)
    return best_total / len(matrix)


def exact_times(seeds: int) -> list[dict[str, Any]]:
    found = []
    for n in range(7, 15):
        select_groups(noise(n, 0), 2)  # what is only loaded once is not part of the time
        for budget in (2, 3, 5):
            row: dict[str, Any] = {"tasks": n, "budget": budget}
            runs = [timed(lambda s=s: select_groups(noise(n, s), budget)) for s in range(seeds)]  # noqa: B023
            row["exact_seconds"] = float(np.median([seconds for _, seconds in runs]))
            if n <= PROGRAM.get(budget, 0):
                (value, proven), row["milp_seconds"] = timed(lambda: program(noise(n, 0), budget))  # noqa: B023
                row["milp_proven"], row["milp_difference"] = proven, float(value - runs[0][0].objective)
            if n <= BRANCHES.get(budget, 0):
                value, row["branch_seconds"] = timed(lambda: branch_and_bound(noise(n, 0), budget))  # noqa: B023
                row["branch_difference"] = float(value - runs[0][0].objective)
            if n <= RECURSION.get(budget, 0):
                value, row["recursion_seconds"] = timed(lambda: recursion(noise(n, 0), budget))  # noqa: B023
                row["recursion_difference"] = float(value - runs[0][0].objective)
            found.append(row)
            print(row, flush=True)
    return found


def cost_times(seeds: int) -> list[dict[str, Any]]:
    """Costs of tasks drawn uniformly, a model costs 1; the budget is 1.5 times the cost of all tasks in one."""
    found = []
    for n in range(7, 13):
        seconds, gaps = [], []
        for seed in range(seeds):
            costs = np.random.default_rng(seed + 100).uniform(0, 1, n)
            result, spent = timed(
                lambda s=seed, c=costs: select_groups(noise(n, s), 1.5 * (1 + c.sum()), costs=Costs(1, tuple(c)))  # noqa: B023
            )
            seconds.append(spent)
            gaps.append(result.details["gap"])
        found.append({"tasks": n, "median_seconds": float(np.median(seconds)), "worst_seconds": max(seconds)})
        found[-1]["largest_gap"] = max(gaps)
        print(found[-1], flush=True)
    return found


def bound_of_many(matrix: Matrix, budget: int, found: Grouping) -> float:
    """The bound that is used where there are too many tasks to look at all groups."""
    problem = read_cover(matrix, budget, None, None, None)
    assert isinstance(problem.scores, MatrixScores)
    bound = upper_bound(problem, found.subsets, pricing=Pricing(problem, problem.scores))
    assert bound is not None
    return bound / len(matrix)


def search_quality(seeds: int) -> list[dict[str, Any]]:
    found = []
    for family, make in FAMILIES.items():
        for n in (10, 12, 14):
            for budget in (2, 3, 5):
                missed, slack, values, spectral = [], [], [], []
                for seed in range(seeds):
                    matrix = make(n, seed)
                    best_known = select_groups(matrix, budget)
                    result = select_groups(matrix, budget, solver="search")
                    assert best_known.objective is not None
                    values.append(best_known.objective)
                    missed.append(best_known.objective - (result.objective or 0.0))
                    slack.append((result.bound or 0.0) - best_known.objective)
                    spectral.append(bound_of_many(matrix, budget, result) - best_known.objective)
                row: dict[str, Any] = {
                    "family": family,
                    "tasks": n,
                    "budget": budget,
                    "optimum": float(np.mean(values)),
                }
                row["search_below"] = [float(np.mean(missed)), float(np.max(missed))]
                row["optimal_share"] = float(np.mean(np.array(missed) < 1e-9))
                row["bound_above"] = [float(np.mean(slack)), float(np.max(slack))]
                row["bound_of_many_tasks_above"] = [float(np.mean(spectral)), float(np.max(spectral))]
                found.append(row)
                print(row, flush=True)
    return found


def large(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    found = []
    for n in sizes:
        for family, make in FAMILIES.items():
            for budget in (3, 5, 10) if n < 200 else (3, 10):
                matrix = make(n, 0)
                result, seconds = timed(lambda: select_groups(matrix, budget))  # noqa: B023
                single = np.where(np.eye(n, dtype=bool), -np.inf, matrix).max(axis=1).mean()
                row: dict[str, Any] = {"family": family, "tasks": n, "budget": budget, "objective": result.objective}
                row |= {"bound": result.bound, "best_partners": float(single), "seconds": seconds}
                found.append(row)
                print(row, flush=True)
    return found


class Predictions:
    """A gain model whose matrix the solver cannot see."""

    def __init__(self, matrix: Matrix) -> None:
        off = np.where(np.eye(len(matrix), dtype=bool), 0.0, matrix)
        self.model = PairwiseGainModel(Affinity(off, tuple(f"task {i}" for i in range(len(matrix)))))
        self.tasks, self.asked = self.model.tasks, 0

    def predict(self, subsets: Any) -> Any:  # noqa: D102
        self.asked += len(subsets)
        return self.model.predict(subsets)

    def pairwise(self) -> Any:  # noqa: D102
        return self.model.pairwise()


def models(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    found = []
    for n in sizes:
        model = Predictions(planted(n, 0))
        result, seconds = timed(lambda: select_groups(model, max(3, n // 10)))  # noqa: B023
        same = select_groups(model.model, max(3, n // 10))
        found.append({"tasks": n, "budget": max(3, n // 10), "seconds": seconds, "predictions": model.asked})
        found[-1] |= {"objective": result.objective, "objective_of_the_matrix": same.objective}
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "cover.json")
    parser.add_argument("--seeds", type=int, default=10)
    parts: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "exact": exact_times,
        "costs": cost_times,
        "search": search_quality,
        "large": lambda _: large((16, 30, 73, 200)),
        "gain_model": lambda _: models((16, 30, 73)),
    }
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts), help="others are kept")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        found = {name: parts[name](arguments.seeds) for name in arguments.parts}
    result = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    result = {name: part for name, part in {**result, **found}.items() if name in parts}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
