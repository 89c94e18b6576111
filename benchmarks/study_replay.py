"""How well values of subsets are predicted from the results of k runs alone, replayed on really trained subsets.

Tables: banks of the built-in data (80 random subsets, 4 trainings each, are the truth; 200 others, trained once with
seeds of their own, are the runs), the five-task settings of Standley et al. (k of the 31 subsets are the runs, the
others the truth, one training each), and two drawn tables of 27 tasks, 12 of them in a run, whose tasks share their
reactions to partners or do not. For every predictor: within-task correlation pooled (and mean over tasks), share of
true values inside the 90 % interval (the error of a truth that is a mean of few trainings is added; that of the single
trainings of Standley et al. is not known), seconds of a fit. Banks are kept in ``runs/replay``; making one takes some
minutes. Writes benchmarks/results/study_replay.json.

    python benchmarks/study_replay.py [--tables yeast,digits] [--draws 3] [--predictors process,linear]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie import truth
from coterie.evaluation.skill import inside, mean_by_task, within_task
from coterie.study.predictors import find_predictor
from coterie.study.predictors.table import PREDICTORS
from coterie.study.results import Results

RESULTS = Path(__file__).parent / "results" / "study_replay.json"
KEPT = Path("runs") / "replay"
BANKS = ("yeast", "digits", "water", "chemicals", "mhc", "mhc2")
STANDLEY = ("standley", "standley-alternative", "standley-large", "standley-small-data")
DRAWN = ("drawn-shared", "drawn-own")
SUBSETS, TRAININGS, POOL = 80, 4, 200


@dataclass(frozen=True, eq=False)
class ReplayTable:
    """Runs to draw from, and the truth.

    Attributes:
        names: of the tasks.
        pool: (n, T) trained subsets.
        runs: (n, T) their losses, one training each.
        test: (m, T) other subsets; None where what is not drawn is the truth.
        values: (trainings, m, T) their losses.
    """

    names: tuple[str, ...]
    pool: np.ndarray
    runs: np.ndarray
    test: np.ndarray | None = None
    values: np.ndarray | None = None

    def draw(self, k: int, seed: int) -> tuple[Results, np.ndarray, np.ndarray, np.ndarray]:
        """k runs, and subsets, true values and their standard errors; tasks that no run measured are left out."""
        order = np.random.default_rng(seed).permutation(len(self.pool))
        chosen, rest = order[:k], order[k:]
        measured = np.isfinite(self.runs[chosen]).any(0)
        names = tuple(name for name, there in zip(self.names, measured, strict=True) if there)
        losses, n = self.runs[chosen][:, measured], len(chosen)
        results = Results(
            self.names, names, self.pool[chosen], losses, None, np.full(n, -1), ("",) * n, np.ones(n)
        )  # fmt: skip
        if self.test is None:
            return results, self.pool[rest], self.runs[rest][:, measured], np.zeros((len(rest), measured.sum()))
        noise = self.values.std(0, ddof=1) / np.sqrt(len(self.values)) if len(self.values) > 1 else 0 * self.values[0]
        return results, self.test, self.values.mean(0)[:, measured], noise[:, measured]


def bank(name: str) -> ReplayTable:
    """Of built-in data; trained when it is not there yet."""
    path = KEPT / f"{name}.npz"
    if not path.exists():
        from coterie.datasets.benchmark_data import benchmark_data
        from coterie.evaluation.bank import train_subsets
        from coterie.evaluation.bank_plan import BankPlan

        data = benchmark_data(name)
        work = data.make()
        drawn = BankPlan(sizes=data.sizes, subsets=SUBSETS, pool=POOL).draw(work.n_tasks)
        test = train_subsets(work, drawn["test"], TRAININGS, name="replay-test").values
        pool = train_subsets(work, drawn["pool"], 1, name="replay-pool").values[0]
        KEPT.mkdir(parents=True, exist_ok=True)
        names = [task.name for task in work.tasks]
        np.savez(path, names=names, pool=drawn["pool"], runs=pool, test=drawn["test"], values=test)
    with np.load(path) as kept:
        return ReplayTable(tuple(kept["names"].tolist()), kept["pool"], kept["runs"], kept["test"], kept["values"])


def standley(name: str) -> ReplayTable:
    """All subsets of five tasks on full-size networks."""
    results = truth.load(name)
    full = np.array([not variant for variant in results.variants])
    return ReplayTable(results.targets, results.trained[full], results.losses[full])


def drawn(name: str, tasks: int = 27, in_run: int = 12, pool: int = 400) -> ReplayTable:
    """Effects of partners that tasks share (a quality of a source and two patterns), or of their own; interactions.

    Of the 600 subsets, `pool` have runs that can be drawn.
    """
    shared = name == "drawn-shared"
    rng = np.random.default_rng(0 if shared else 1)
    sizes = rng.integers(in_run - 4, in_run + 5, 600)
    member = np.array([np.isin(np.arange(tasks), rng.choice(tasks, size, replace=False)) for size in sizes])
    effects = np.sqrt(0.2 if shared else 0.6) * rng.normal(size=(tasks, tasks))
    if shared:
        effects += np.sqrt(0.2) * rng.normal(size=tasks)
        effects += np.sqrt(0.2) * rng.normal(size=(tasks, 2)) @ rng.normal(size=(2, tasks))
    centred = member - member.mean(0)
    values = centred @ effects.T / np.sqrt(in_run)
    for task in range(tasks):
        pairs = rng.normal(size=(tasks, tasks)) * (rng.random((tasks, tasks)) < 0.1)
        between = np.einsum("ri,ij,rj->r", centred, pairs, centred)
        values[:, task] += np.sqrt(0.2) * between / between.std()
    noise = values.std() * (1.1 * rng.normal(size=values.shape) + 0.55 * rng.normal(size=(len(values), 1)))
    unit, level = np.exp(0.3 * rng.normal(size=tasks)), 3 * rng.normal(size=tasks)
    values, runs = (np.where(member, level + unit * found, np.nan) for found in (values, values + noise))
    names = tuple(f"task {number}" for number in range(tasks))
    return ReplayTable(names, member[:pool], runs[:pool], member[pool:], values[None, pool:])


def table_of(name: str) -> ReplayTable:
    """By name."""
    return bank(name) if name in BANKS else standley(name) if name in STANDLEY else drawn(name)


def ceiling(table: ReplayTable) -> float | None:
    """Largest correlation that a perfect predictor can have with a mean of so many trainings."""
    if table.values is None or len(table.values) < 2:
        return None
    halves: list[float] = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(table.values))
        first, second = np.array_split(table.values[order], 2)
        halves.append(float(within_task(first.mean(0), second.mean(0))[0]))
    half = max(float(np.mean(halves)), 0.0)
    return float(np.sqrt(2 * half / (1 + half)))


def measure(table: ReplayTable, predictor: str, k: int, seed: int) -> dict[str, float]:
    """One replay."""
    results, asked, values, noise = table.draw(k, seed)
    start = time.perf_counter()
    posterior = find_predictor(predictor).fit(results)
    seconds = time.perf_counter() - start
    means, errors = posterior.predict(asked)
    means = np.where(np.isfinite(values), means, np.nan)
    return {
        "pooled": float(within_task(means, values)[0]),
        "by_task": float(mean_by_task(means, values)[0]),
        "inside": float(np.nanmean(inside(means, errors, values, noise))),
        "seconds": seconds,
    }


def replay(name: str, predictors: list[str], ks: list[int], draws: int) -> dict[str, Any]:
    """All predictors on one table."""
    table = table_of(name)
    rows: dict[str, Any] = {}
    for predictor in predictors:
        for k in ks if name not in STANDLEY else (10, 20):
            if k > len(table.pool):
                continue
            found = [measure(table, predictor, k, seed) for seed in range(draws)]
            mean = {key: round(float(np.mean([one[key] for one in found])), 3) for key in found[0]}
            rows.setdefault(predictor, {})[str(k)] = mean
        told = " | ".join(
            f"{k}: {row['pooled']:.2f} ({row['by_task']:.2f}) {row['inside']:.0%} {row['seconds']:.2f} s"
            for k, row in rows.get(predictor, {}).items()
        )
        print(f"{name:22s} {predictor:9s} {told}", flush=True)
    return {"tasks": len(table.names), "ceiling": ceiling(table), "draws": draws, "predictors": rows}


def times() -> None:
    """Processor seconds of the process on the drawn tables: a fit, and values of 10,000 subsets."""
    for name in DRAWN:
        table = drawn(name, pool=500)
        asked = np.random.default_rng(0).random((10_000, len(table.names))) < 0.5
        asked[:, 0] |= ~asked.any(axis=1)
        for k in (100, 500):
            results = table.draw(k, 0)[0]
            begin = time.process_time()
            posterior = find_predictor().fit(results)
            fitted = time.process_time()
            posterior.predict(asked)
            print(
                f"{name:22s} {k} runs: fit {fitted - begin:.1f} s, predict {time.process_time() - fitted:.1f} s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", default=",".join((*BANKS, *STANDLEY, *DRAWN)))
    parser.add_argument("--predictors", default=",".join(PREDICTORS))
    parser.add_argument("--runs", default="20,50,100,200")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--times", action="store_true", help="measure processor seconds alone, and write nothing")
    options = parser.parse_args()
    if options.times:
        times()
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.tables.split(","):
        ks = [int(k) for k in options.runs.split(",")]
        one = replay(name, options.predictors.split(","), ks, options.draws)
        rows = found.get(name, {}).get("predictors", {}) | one["predictors"]
        found[name] = one | {"predictors": rows}
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
