"""The search for groups: time, groups asked for, and predicted gain, beside a search that makes one move at a time.

The tasks ask for pixels and for sets of digits, each with a label on 12 % of the examples, so that all have different
examples, as in a table with many holes. The estimate is that of ``coterie.run``. The plain search is that of
``coterie.grouping.search.moves``: one move at a time, gains of earlier steps as guesses, exchanges in the end. Both
start from the groups of the matrix; the other also has plain starts and those found for more groups. The search for
groups that share tasks, made up to 50 tasks, stands apart. One thread; times are those of the processor. Then a run is
made and made again: seconds of the second one, and the sum of the costs over the seconds of the first.

Run: ``python benchmarks/search.py``; smaller: ``--tasks 40``. Writes ``benchmarks/results/search.json``, where numbers
of tasks that were not measured keep their rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from sklearn.datasets import load_digits

import coterie
from coterie import Context
from coterie.affinity import get_estimator
from coterie.grouping import group
from coterie.grouping.objective import GainObjective
from coterie.grouping.search.moves import Limits, Steps, climb_by_steps
from coterie.pipeline import candidates
from coterie.pipeline.candidates import candidate_groupings, estimated_affinity, group_counts, typical_size
from coterie.workload import Workload

ROOT = Path(__file__).resolve().parent
OUT = ROOT / "results" / "search.json"

SIZES = (20, 40, 80, 150)
BUDGET, SEEDS = 5, 2


def sparse_digits(n_tasks: int, seed: int = 0) -> Workload:
    """Tasks on the upper half of a digit: single digits, pixels of the lower half, random sets of digits."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    upper, lower = (part.reshape(len(digits.images), -1) for part in np.split(digits.images, 2, axis=1))
    columns = [digits.target == k for k in range(10)]
    columns += [column > 6 for column in lower.T if 0.15 < (column > 6).mean() < 0.85]
    while len(columns) < n_tasks:
        columns.append(np.isin(digits.target, rng.permutation(10)[: rng.integers(2, 6)]))
    labels = np.stack(columns[:n_tasks], 1).astype(float)
    labels[rng.random(labels.shape) < 0.88] = np.nan
    recipe = coterie.Recipe(epochs=20, check_every=10, batch_size=64)
    return coterie.from_arrays(upper, labels, name=f"{n_tasks} sparse tasks", recipe=recipe)


def plain(model: Any, starts: dict[int, Any]) -> tuple[dict[int, float], int]:
    """Mean predicted gain for each number of groups, and the groups that were asked for."""
    n, found, asked = len(model.tasks), {}, 0
    for k, start in starts.items():
        objective = GainObjective(model, np.arange(n))
        partition = Steps(objective, start.labels == np.arange(k)[:, None])
        climb_by_steps(partition, Limits(k, k))
        found[k], asked = partition.worth / n, asked + objective.asked
    return found, asked


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same function, which also notes its processor time."""

    def call(*values: Any, **options: Any) -> Any:
        begin = time.process_time()
        try:
            return function(*values, **options)
        finally:
            seconds.append(time.process_time() - begin)

    return call


def searched(n_tasks: int, *, compare: bool) -> dict[str, Any]:
    """Both searches on the estimate of a workload."""
    work = sparse_digits(n_tasks)
    size = typical_size(n_tasks)
    found: dict[str, Any] = {"tasks": n_tasks}
    estimates = [
        get_estimator("fused").estimate(work, context=Context(seed=0), subset_size=size) for _ in range(1 + compare)
    ]
    affinity = estimated_affinity(estimates[0], "higher", None, size, 0)
    shared: list[float] = []
    begin = time.process_time()
    with patch.object(candidates, "select_groups", timed(candidates.select_groups, shared)):
        _, named = candidate_groupings(estimates[0], affinity, None, BUDGET)
    found["shared_cpu_seconds"] = sum(shared)
    found["cpu_seconds"] = time.process_time() - begin - sum(shared)
    ours = {len(one.groups): one for name, one in named.items() if name.startswith("grouped")}
    found["gain"] = {k: one.objective for k, one in ours.items()}
    found["asked"] = sum(int(one.details["asked"]) for one in ours.values())
    if compare:
        starts = {k: group(affinity, k, seed=0) for k in group_counts(n_tasks, None, BUDGET)}
        begin = time.process_time()
        found["plain_gain"], found["plain_asked"] = plain(estimates[1].model, starts)
        found["plain_cpu_seconds"] = time.process_time() - begin
    return found


def repeated(n_tasks: int) -> dict[str, float]:
    """A run and the same again."""
    work = sparse_digits(n_tasks)
    with tempfile.TemporaryDirectory() as folder:
        seconds: list[float] = []
        for _ in range(2):
            begin = time.perf_counter()
            result = coterie.run(work, budget=BUDGET, seeds=SEEDS, out=Path(folder) / "run")
            seconds.append(time.perf_counter() - begin)
            if len(seconds) == 1:
                booked = result.result["seconds"] / seconds[0]
    return {"tasks": n_tasks, "seconds": seconds[0], "again_seconds": seconds[1], "booked": booked}


def show(rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, float]]) -> None:
    """Markdown."""
    names = ["tasks", "groups", "gain", "plain", "CPU s", "plain", "shared", "asked", "plain", "ms each", "plain"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        for place, (k, gain) in enumerate(sorted(row["gain"].items())):
            other = row.get("plain_gain", {}).get(k)
            cells = [f"{row['tasks']}", f"{k}", f"{gain:.5f}", "-" if other is None else f"{other:.5f}"]
            times, shared = [row["cpu_seconds"], row.get("plain_cpu_seconds")], row["shared_cpu_seconds"]
            counts = [row["asked"], row.get("plain_asked")]
            cells += ["-" if not t or place else f"{t:.1f}" for t in [*times, shared]]
            cells += ["-" if c is None or place else f"{c}" for c in counts]
            each = [1e3 * t / c if t and c else None for t, c in zip(times, counts, strict=True)]
            cells += ["-" if e is None or place else f"{e:.1f}" for e in each]
            print(f"| {' | '.join(cells)} |")
    print("\n| tasks | a run, s | again, s | sum of its costs |\n|---|---|---|---|")
    for run in runs:
        print(f"| {run['tasks']} | {run['seconds']:.1f} | {run['again_seconds']:.1f} | {run['booked']:.1%} |")


def main() -> None:
    """Run, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="*", default=list(SIZES), help="numbers of tasks")
    parser.add_argument("--alone", action="store_true", help="leave out the plain search")
    parser.add_argument("--no-runs", action="store_true", help="leave out the runs")
    parser.add_argument("--out", type=Path, default=OUT, help="where the numbers go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [searched(n, compare=not options.alone) for n in options.tasks]
    runs = [] if options.no_runs else [repeated(n) for n in options.tasks]
    show(rows, runs)
    before = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    kept = {"search": rows, "runs": runs}
    for name, new in kept.items():
        measured = {row["tasks"]: row for row in [*before.get(name, []), *new]}
        kept[name] = [measured[n] for n in sorted(measured)]
    options.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
