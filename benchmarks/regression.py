"""Values of 1,000 subsets by batched offset regression, against scikit-learn and scipy subset by subset.

Real features of the yeast base model: 14 tasks, 200 random trunk directions, exact heads. Everything runs on one thread
and is timed in processor seconds (so that other work on the machine does not count), from features in memory to the
validation loss of every (subset, task). Run: ``python benchmarks/regression.py``.

Peers run at matched accuracy: of a ladder of gradient tolerances, the loosest is taken at which no sampled subset is
further from its optimum than ours, once for one step and once for the converged form. scikit-learn solves the published
problem, without offset and heads, and is held against the optimum of that problem. Beside them stands a floor, in the
same run: the matrix products alone, without the systems that have to be solved.
"""

from __future__ import annotations

import argparse
import json
import statistics as stats
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from coterie import datasets
from coterie.affinity.blocks import TaskBlock, compute_statistics
from coterie.affinity.gain_model import random_subsets
from coterie.affinity.newton import Solution, solve, values
from coterie.affinity.refine import iterate
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.features.part import PartFeatures
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.workload.structure import find_structure

RIDGE = 0.01  # on features of mean squared norm 4
DIRECTIONS = 200
SUBSETS = 1000
#: gradient tolerances of the peers, from loose to tight
LADDER = tuple(float(f"{10 ** (-k / 4):.1e}") for k in range(6, 33))
#: at which a peer has arrived
TIGHT = 1e-9


@dataclass(frozen=True, eq=False)
class Problem:
    """The same examples in the two forms: exact heads with offset, and projected heads as published."""

    train: list[TaskBlock]
    validation: list[TaskBlock]
    published: list[TaskBlock]
    published_validation: list[TaskBlock]

    @cached_property
    def factors(self) -> tuple[float, float, float]:
        """Factors that bring trunk, head and published features to mean squared norm 4."""
        parts = [[b.g for b in self.train], [b.head for b in self.train], [b.g for b in self.published]]
        norms = [float(torch.cat([x.square().sum(1) for x in part]).double().mean()) for part in parts]
        trunk, head, published = (2 / norm**0.5 for norm in norms)
        return trunk, head, published


def blocks_of(features: PartFeatures) -> list[TaskBlock]:
    loss = datasets.load("yeast").tasks[0].loss
    parts = [features.task(task) for task in range(len(features.tasks))]
    return [TaskBlock(p.g, p.head, p.offset, p.targets, loss) for p in parts]


def base_features() -> Problem:
    """Features of an early base model (10 % of the loss drop left) in both forms."""
    workload = datasets.load("yeast")
    everything = tuple(range(workload.n_tasks))
    full = fit_one(workload, Job(everything, seed=0))
    losses = [loss for _, loss in full.history]
    base = fit_one(workload, Job(everything, seed=0, stop_below=min(losses) + 0.1 * (losses[0] - min(losses))))
    model = workload.build_model(0)
    model.load_state_dict(base.state)
    structure = find_structure(workload, model)
    exact = RandomDirections.of(model, DIRECTIONS, seed=0, names=structure.trunk)
    projected = RandomDirections.of(model, DIRECTIONS, seed=0)
    return Problem(
        *(blocks_of(compute_features(workload, model, exact, part=part)) for part in ("train", "validation")),
        *(
            blocks_of(compute_features(workload, model, projected, FeatureOptions(heads="projected"), part=part))
            for part in ("train", "validation")
        ),
    )


def resampled(problem: Problem, rows: int) -> Problem:
    """The first rows of every task, or rows drawn with replacement where the data have fewer."""
    have = problem.train[0].rows
    index = torch.arange(rows) if rows <= have else torch.randint(have, (rows,), generator=torch.manual_seed(0))
    pick = lambda blocks: [  # noqa: E731
        TaskBlock(b.g[index], b.head[index], b.offset[index], b.targets[index], b.loss) for b in blocks
    ]
    return Problem(pick(problem.train), problem.validation, pick(problem.published), problem.published_validation)


def ours(problem: Problem, subsets: NDArray[np.bool_], *, converged: bool) -> tuple[float, Solution]:
    start = time.process_time()
    sums = compute_statistics(problem.train)
    penalty = sums.penalty()
    if converged:
        solution = iterate(sums, problem.train, subsets, RIDGE, penalty=penalty)
    else:
        solution = solve(sums, subsets, RIDGE, penalty=penalty)
    values(solution, problem.validation)
    return time.process_time() - start, solution


class ScikitLearn:
    """Logistic regression without offset on projected gradients of all parameters, with an intercept, as published."""

    def __init__(self, problem: Problem) -> None:
        scale = problem.factors[2]
        self.x = [(scale * block.g).double().numpy() for block in problem.published]
        self.y = [block.targets.double().numpy() for block in problem.published]
        self.checks = [
            ((scale * block.g).double().numpy(), block.offset.double().numpy(), block.targets.double().numpy())
            for block in problem.published_validation
        ]

    def run(self, subset: list[int], tolerance: float) -> float:
        """Fit one subset and evaluate its tasks; returns the objective."""
        x, y = np.concatenate([self.x[t] for t in subset]), np.concatenate([self.y[t] for t in subset])
        model = LogisticRegression(C=1 / (RIDGE * len(y)), tol=tolerance, max_iter=10000).fit(x, y)
        for t in subset:
            x, offset, y = self.checks[t]
            margin = offset + x @ model.coef_[0]
            (np.logaddexp(0, margin) - y * margin).mean()
        return self._objective(subset, model)

    def _objective(self, subset: list[int], model: LogisticRegression) -> float:
        x, y = np.concatenate([self.x[t] for t in subset]), np.concatenate([self.y[t] for t in subset])
        margin = x @ model.coef_[0] + model.intercept_[0]
        return float((np.logaddexp(0, margin) - y * margin).mean() + RIDGE / 2 * np.square(model.coef_).sum())


class Scipy:
    """L-BFGS on the offset problem with the same ridge, in float64, warm from the base."""

    def __init__(self, problem: Problem) -> None:
        self.trunk, self.head, _ = problem.factors
        self.train = [self._arrays(block) for block in problem.train]
        self.validation = [self._arrays(block) for block in problem.validation]

    def _arrays(self, block: TaskBlock) -> tuple[NDArray[np.float64], ...]:
        parts = (self.trunk * block.g, self.head * block.head, block.offset, block.targets)
        return tuple(part.double().numpy() for part in parts)

    def objective(self, subset: list[int]):
        """The objective with its gradient, and the number of parameters."""
        g, _, offset, y = (np.concatenate(part) for part in zip(*(self.train[t] for t in subset), strict=True))
        heads = [self.train[t][1] for t in subset]
        stops = np.cumsum([0, *(len(head) for head in heads)])
        d, q = g.shape[1], heads[0].shape[1]

        def evaluate(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            margin = offset + g @ theta[:d]
            for k, head in enumerate(heads):
                margin[stops[k] : stops[k + 1]] += head @ theta[d + k * q : d + (k + 1) * q]
            value = (np.logaddexp(0, margin) - y * margin).mean() + RIDGE / 2 * theta @ theta
            first = (expit(margin) - y) / len(y)
            gradient = RIDGE * theta
            gradient[:d] += g.T @ first
            for k, head in enumerate(heads):
                gradient[d + k * q : d + (k + 1) * q] += head.T @ first[stops[k] : stops[k + 1]]
            return float(value), gradient

        return evaluate, d + q * len(subset)

    def run(self, subset: list[int], tolerance: float) -> float:
        """Fit one subset and evaluate its tasks; returns the objective."""
        evaluate, size = self.objective(subset)
        options = {"maxiter": 10000, "maxfun": 20000, "gtol": tolerance, "ftol": 0.0}
        found = minimize(evaluate, np.zeros(size), jac=True, method="L-BFGS-B", options=options)
        d = self.train[0][0].shape[1]
        for k, t in enumerate(subset):
            g, head, offset, y = self.validation[t]
            q = head.shape[1]
            margin = offset + g @ found.x[:d] + head @ found.x[d + k * q : d + (k + 1) * q]
            (np.logaddexp(0, margin) - y * margin).mean()
        return float(found.fun)

    def objective_at(self, solution: Solution, number: int, subset: list[int]) -> float:
        """The float64 objective of one of our solutions."""
        heads = []
        for t in subset:
            members, displacement = solution.head(t)
            heads.append(displacement[members == number][0].double().numpy() / self.head)
        theta = np.concatenate([solution.trunk[number].double().numpy() / self.trunk, *heads])
        return self.objective(subset)[0](theta)[0]


def matched(
    peer: ScikitLearn | Scipy, subsets: list[list[int]], optima: list[float], gap: float
) -> tuple[float, float]:
    """The loosest tolerance of the ladder at which no subset is further from its optimum, and how far they are."""
    low, high, found = 0, len(LADDER), {}
    while low < high:
        middle = (low + high) // 2
        runs = (peer.run(subset, LADDER[middle]) for subset in subsets)
        found[middle] = max(value - best for value, best in zip(runs, optima, strict=True))
        low, high = (low, middle) if found[middle] <= gap else (middle + 1, high)
    if low not in found:
        raise RuntimeError(f"No tolerance of the ladder reaches a gap of {gap:.1e}.")
    return LADDER[low], found[low]


def floor_seconds(problem: Problem, subsets: NDArray[np.bool_], passes: int) -> float:
    """The matrix products alone: sums over examples, predictions, and two products for each pass over the examples."""
    start = time.process_time()
    for task, (block, other) in enumerate(zip(problem.train, problem.validation, strict=True)):
        both = torch.cat([block.g, block.head], 1)
        points = block.g.new_zeros(int(subsets[:, task].sum()), both.shape[1])
        both.mT @ both
        points @ torch.cat([other.g, other.head], 1).mT
        for _ in range(passes):
            (points @ both.mT) @ both
    return time.process_time() - start


def peer_seconds(peer: ScikitLearn | Scipy, subsets: list[list[int]], tolerance: float) -> float:
    """Time for all subsets, scaled from the median of the timed ones."""
    times: list[float] = []
    for subset in subsets:
        start = time.process_time()
        peer.run(subset, tolerance)
        times.append(time.process_time() - start)
    return stats.median(times) * SUBSETS


def measure(problem: Problem, rows: int, sample: int, repeats: int) -> dict[str, Any]:
    subsets = random_subsets(len(problem.train), SUBSETS, 5, seed=0)
    chosen = [np.flatnonzero(subset).tolist() for subset in subsets[:sample]]
    print(f"{rows} examples a task: ours", flush=True)
    one, full = ([ours(problem, subsets, converged=flag) for _ in range(repeats)] for flag in (False, True))
    scipy, sklearn = Scipy(problem), ScikitLearn(problem)
    optima = {
        "scipy L-BFGS": [min(scipy.run(subset, 1e-10), scipy.run(subset, TIGHT)) for subset in chosen],
        "scikit-learn": [sklearn.run(subset, TIGHT) for subset in chosen],
    }
    gap = {
        way: max(scipy.objective_at(runs[0][1], k, s) - optima["scipy L-BFGS"][k] for k, s in enumerate(chosen))
        for way, runs in (("one step", one), ("converged", full))
    }
    seconds = {way: stats.median(time for time, _ in runs) for way, runs in (("one step", one), ("converged", full))}
    print(f"{rows} examples a task: peers, {sample} of {SUBSETS} subsets", flush=True)
    peers = []
    for name, peer in (("scipy L-BFGS", scipy), ("scikit-learn", sklearn)):
        for way in gap:
            tolerance, away = matched(peer, chosen, optima[name], gap[way])
            spent = peer_seconds(peer, chosen, tolerance)
            peers.append({"peer": name, "matched_to": way, "tolerance": tolerance, "gap": away, "seconds": spent,
                          "ratio": spent / seconds[way]})  # fmt: skip
    passes = {"one step": 0, "converged": full[0][1].steps}
    floors = {way: stats.median(floor_seconds(problem, subsets, passes[way]) for _ in range(repeats)) for way in passes}
    return {
        "examples_per_task": rows,
        "resampled": rows > 1217,
        "seconds": seconds,
        "gap": gap,
        "proven_gap": float(full[0][1].bound.max()),
        "passes": full[0][1].steps,
        "peers": peers,
        "peers_timed_subsets": sample,
        "floor_seconds": floors,
        "above_floor": {way: seconds[way] / floors[way] for way in floors},
    }


def show(results: list[dict[str, Any]]) -> None:
    for result in results:
        note = ", rows resampled" if result["resampled"] else ""
        print(f"\n{result['examples_per_task']} examples a task{note}; {SUBSETS} subsets of 5 of 14 tasks, 1 thread")
        for way, seconds in result["seconds"].items():
            above = f"{result['above_floor'][way]:.1f} times the matrix products alone"
            print(f"  coterie, {way:28}{seconds:10.2f} s   gap {result['gap'][way]:.1e}   {above}")
        for one in result["peers"]:
            label = f"{one['peer']}, tol {one['tolerance']:g}"
            against = f"{one['ratio']:.0f} times {one['matched_to']}"
            print(f"  {label:37}{one['seconds']:10.2f} s   gap {one['gap']:.1e}   {against}")
    print("\nPeers are timed on a sample of the subsets and scaled. Gaps: largest distance of the mean loss")
    print("from the optimum of the same problem in float64, over that sample.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000, 20000])
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 30, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "regression.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        problem = base_features()
        ours(resampled(problem, 100), random_subsets(14, SUBSETS, 5), converged=True)  # warm up
        results = [
            measure(resampled(problem, rows), rows, sample, options.repeats if rows < 10000 else 2)
            for rows, sample in zip(options.rows, options.samples, strict=True)
        ]
    show(results)
    facts = {
        "subsets": SUBSETS,
        "size": 5,
        "directions": DIRECTIONS,
        "ridge": RIDGE,
        "threads": 1,
        "time": "processor seconds, medians",
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({**facts, "torch": torch.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
