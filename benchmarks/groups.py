"""What are the groups worth that each method leads to, under a budget of models?

    python benchmarks/groups.py [yeast water chemicals mhc] [--optimum]

On the beds of `coterie benchmark`, with half of their validation rows moved to the test part. Each method estimates,
then groups for B = 2, 3, 5 and a third of the tasks; every group is trained with four seeds that no method has seen,
and judged on the test part: mean over tasks of the relative loss reduction against single-task models, with a 95 %
interval over seeds and examples. Beside them all-in-one, single-task, 20 random partitions (two seeds each), and what
`coterie run` chooses under that budget, on validation rows with five other seeds (its last check, on test data, is
left out). `--optimum` trains every subset of `yeast` twice (8,191 of them) and takes the best selection by their test
losses. Regret is the gain of the best of all minus one's own. Writes benchmarks/results/groups.json and prints a
table a bed.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import coterie
from coterie import Context
from coterie._progress import silent
from coterie.affinity import GainModel, get_estimator
from coterie.benchmark.run import find_data
from coterie.evaluation.comparison import BASELINE, JOINT, Comparison
from coterie.evaluation.labels import LabelIndex
from coterie.evaluation.recommend import recommend
from coterie.evaluation.regret import random_grouping
from coterie.evaluation.trainings import Trainings, subsets_of
from coterie.grouping import Grouping, group, select_groups
from coterie.pipeline.candidates import estimated_affinity, typical_size
from coterie.store import open_run
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload import Split, Workload
from coterie.workload.fingerprint import fingerprint

BEDS = ("yeast", "water", "chemicals", "mhc")
SEEDS, DRAWS, DRAW_SEEDS, BLOCK = tuple(range(1000, 1004)), 20, 2, 60
RESULTS = Path(__file__).parent / "results" / "groups.json"


def with_large_test(work: Workload) -> Workload:
    """Half of the validation rows go to the test part, at random."""
    rows = work.split.validation
    order = torch.as_tensor(np.random.default_rng(7).permutation(len(rows)))
    first, second = rows[order[: len(rows) // 2]].sort()[0], rows[order[len(rows) // 2 :]]
    return replace(work, split=Split(work.split.train, first, torch.cat([work.split.test, second]).sort()[0]))


def budgets(n: int) -> list[int]:
    return sorted({b for b in (2, 3, 5, round(n / 3)) if b < n})


def proposals(work: Workload, store) -> dict[int, dict[str, Grouping]]:
    """Budget -> name -> grouping, from estimates alone."""
    size = typical_size(work.n_tasks)
    found: dict[int, dict[str, Grouping]] = {b: {} for b in budgets(work.n_tasks)}

    def estimate(method: str, **options):
        made = get_estimator(method, **options).estimate(work, context=Context(seed=0, store=store), subset_size=size)
        return made.model, estimated_affinity(made, "higher", None, size, 0)

    fused, affinity = estimate("fused")
    scores = {"label correlation": estimate("label-correlation"), "Grad-TAG": estimate("grad-tag")}
    lookahead = {"TAG": estimate("tag")[0].affinity, "gradient cosine": estimate("cosine")[0].affinity}
    for b, here in found.items():
        here["fused, search"] = group(fused, b, seed=0)
        here["fused, overlaps"] = select_groups(fused, b, context=Context(seed=0), time_limit=60)
        for method in ("sdp", "spectral", "agglomerative", "leiden"):
            here[f"fused, {method}"] = group(affinity, b, method=method, seed=0)
        here |= {f"{name}, sdp": group(matrix, b, seed=0) for name, (_, matrix) in scores.items()}
        here |= {
            f"{name}, overlaps": select_groups(matrix, b, context=Context(seed=0), time_limit=60)
            for name, matrix in lookahead.items()
        }
        print(f"  groups for {b}: {len(here)} methods", flush=True)
    return found


def recommended(work: Workload, b: int) -> Grouping:
    """What `coterie run --budget B` chooses, before its look at the test rows, which judge here."""
    out = Path("runs") / f"groups-{work.name}-{b}"
    coterie.run(work, budget=b, out=out)
    comparison = Comparison.load(out / "comparison.safetensors")
    return comparison.groupings[comparison.index(recommend(comparison, b).candidate)]


class Table(GainModel):
    """Gains of every subset, looked up."""

    def __init__(self, tasks: tuple[str, ...], losses: np.ndarray) -> None:
        self.names, self.losses = tasks, losses
        self.single = np.array([losses[1 << t, t] for t in range(len(tasks))])

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names."""
        return self.names

    def _predict(self, subsets: np.ndarray) -> np.ndarray:
        # the log, as totals are geometric means of loss ratios
        return np.log(self.single) - np.log(self.losses[subsets @ (1 << np.arange(len(self.names)))])


def every_subset(work: Workload, index: LabelIndex, seeds=(2000, 2001)) -> np.ndarray:
    """(2^T, T) mean test loss of each task in each subset, NaN outside."""
    n = work.n_tasks
    losses = np.full((1 << n, n), np.nan)
    codes = sorted(range(1, 1 << n), key=int.bit_count)
    for start in range(0, len(codes), BLOCK):
        block = [tuple(t for t in range(n) if code >> t & 1) for code in codes[start : start + BLOCK]]
        fits = fit(work, [Job(subset, seed) for seed in seeds for subset in block])
        for number, done in enumerate(fits):
            subset = done.job.subset
            own = index.of_tasks(subset)
            per_label, task = index.losses(work, done.state, subset), index.task[own]
            code = codes[start + number % len(block)]
            for t in subset:
                share = per_label[task == t].mean(dtype=np.float64) / len(seeds)
                losses[code, t] = share if np.isnan(losses[code, t]) else losses[code, t] + share
        print(f"  every subset: {start + len(block)} of {len(codes)}", end="\r", flush=True)
    return losses


def judged(work: Workload, index: LabelIndex, named: Mapping[str, Grouping], seeds, store) -> Comparison:
    """Train all groups with fresh seeds; a comparison on the test part."""
    trainings = Trainings(work, {"test": index}, Context(store=store), "groups")
    subsets = sorted(subsets_of(named.values()), key=len)
    for seed in seeds:
        for start in range(0, len(subsets), BLOCK):
            trainings.train(subsets[start : start + BLOCK], [seed], keep=False, stage="groups", progress=silent)
        print(f"  seed {seed}: {len(subsets)} groups", flush=True)
    found = trainings.measure(list(named.values()), seeds, "test")
    labels = {} if found.labels is None else {"test": found.labels}
    return Comparison(work.task_names, tuple(named), tuple(named.values()), seeds, found.means, found.means, labels)


def measure(name: str, optimum: bool) -> dict:
    work = with_large_test(find_data(name).make())
    n, names = work.n_tasks, work.task_names
    index = LabelIndex.of(work, work.split.test)
    simple = {
        JOINT: Grouping.from_labels(names, [0] * n),
        BASELINE: Grouping.from_labels(names, list(range(n))),
    }
    out = Path("runs") / f"groups-{name}"
    with open_run(out, fingerprint=fingerprint(work), settings={"groups": 1}, workload=work) as store:
        found = proposals(work, store)
        for b, here in found.items():
            here["Coterie's recommendation"] = recommended(work, b)
        if optimum:
            table = Table(names, every_subset(work, index))
            for b, here in found.items():
                here["true optimum"] = select_groups(table, b)
        named = {f"{b}|{method}": g for b, here in found.items() for method, g in here.items()} | simple
        comparison = judged(work, index, named, SEEDS, store)
        draws = {f"{b}|{d}": random_grouping(names, b, d) for b in found for d in range(DRAWS)}
        by_chance = judged(work, index, draws | {BASELINE: simple[BASELINE]}, SEEDS[:DRAW_SEEDS], store)
    rows = {str(b): rows_of(comparison, by_chance, b, list(here)) for b, here in found.items()}
    return {"tasks": n, "test rows": len(work.split.test), "budgets": rows}


def rows_of(comparison: Comparison, by_chance: Comparison, b: int, methods: list[str]) -> list[dict]:
    """Gains, regrets, and the difference to the better of the two simple candidates."""
    keys = {method: f"{b}|{method}" for method in methods} | {JOINT: JOINT, BASELINE: BASELINE}
    gains = {method: comparison.total(key) for method, key in keys.items()}
    best = max(gain.mean for gain in gains.values())
    safe = max((JOINT, BASELINE), key=lambda key: gains[key].mean)
    rows = [
        {
            "method": method,
            "models": comparison.n_models(key),
            "gain": gains[method].to_dict(),
            "regret": best - gains[method].mean,
            "over the better simple one": comparison.total(key, against=safe).to_dict(),
        }
        for method, key in keys.items()
    ]
    drawn = [by_chance.total(f"{b}|{d}").mean for d in range(DRAWS)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    chance = {"mean": float(np.mean(drawn)), "low": float(low), "high": float(high)}
    rows.append({"method": "random", "models": b, "gain": chance, "regret": best - chance["mean"]})
    return sorted(rows, key=lambda row: row["regret"])


def show(name: str, found: dict) -> None:
    for b, rows in found["budgets"].items():
        print(f"\n{name}, at most {b} models")
        print("| method | models | gain | regret | over the better simple one |\n|---|---|---|---|---|")
        for row in rows:
            safe = row.get("over the better simple one")
            cells = [row["method"], str(row["models"]), percent(row["gain"]), f"{row['regret']:.1%}", percent(safe)]
            print("| " + " | ".join(cells) + " |")


def percent(interval: dict | None) -> str:
    if interval is None:
        return "–"
    if not np.isfinite(interval["low"]):
        return f"{interval['mean']:+.1%}"
    return f"{interval['mean']:+.1%} ({interval['low']:+.1%} to {interval['high']:+.1%})"


def summary(beds: dict) -> None:
    """Mean gain over the budgets of each bed, and the mean regret over all of them."""
    regrets = dict(sorted(mean_regrets(beds).items(), key=lambda item: item[1]))
    print("\n| | " + " | ".join(beds) + " | mean regret |\n" + "|---" * (len(beds) + 2) + "|")
    for method, regret in regrets.items():
        gains = [
            np.mean(
                [row["gain"]["mean"] for rows in bed["budgets"].values() for row in rows if row["method"] == method]
            )
            for bed in beds.values()
        ]
        print(f"| {method} | " + " | ".join(f"{100 * gain:+.1f} %" for gain in gains) + f" | {100 * regret:.1f} % |")


def mean_regrets(beds: dict) -> dict[str, float]:
    """Over beds and budgets, of methods that are everywhere."""
    tables = [rows for bed in beds.values() for rows in bed["budgets"].values()]
    cells = [{row["method"]: row["regret"] for row in rows} for rows in tables]
    return {m: float(np.mean([cell[m] for cell in cells])) for m in cells[0] if all(m in cell for cell in cells)}


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("beds", nargs="*", default=BEDS)
    parser.add_argument("--optimum", action="store_true")
    args = parser.parse_args()
    beds = json.loads(RESULTS.read_text())["beds"] if RESULTS.exists() else {}
    for name in args.beds:
        start = time.perf_counter()
        beds[name] = measure(name, args.optimum and name == "yeast")
        beds[name]["seconds"] = time.perf_counter() - start
        show(name, beds[name])
        regrets = dict(sorted(mean_regrets(beds).items(), key=lambda item: item[1]))
        RESULTS.write_text(json.dumps({"beds": beds, "mean regret": regrets}, indent=1) + "\n")
    summary(beds)


if __name__ == "__main__":
    main()
