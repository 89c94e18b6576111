"""Do the default estimator's choices pay? Correlation with really trained subsets, beside the published recipe.

    python benchmarks/skill.py [yeast water]

Trains random subsets of 5 tasks with several seeds (the truth), then asks estimators for the same subsets. Values of
different tasks differ far more than those of different subsets, so each task's mean over subsets is taken out before
correlating. Printed beside it: the noise ceiling (no estimate can do better) and R1 (one real training of every
subset). Writes benchmarks/results/skill.json and prints a table. This is a check of defaults on small data, not a
benchmark of the field.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from coterie.affinity import get_estimator
from coterie.training import Job, fit
from coterie.workload import load_workload

SUBSETS, SEEDS, SIZE = 100, 8, 5
METHODS = {
    "grad-tag (published)": ("grad-tag", {}),
    "grad-tag, linear values": ("grad-tag", {"evaluation": "linear"}),
    "task-vectors, 1 base": ("task-vectors", {"bases": 1}),
    "task-vectors (default, 4 bases)": ("task-vectors", {}),
    "task-vectors, fixed ridge": ("task-vectors", {"ridge": "by-loss"}),
    "task gradients, 4 bases": ("task-vectors", {"directions": "task-gradients"}),
    "random directions, early bases": ("task-vectors", {"directions": "random", "ridge": "by-loss"}),
}


def within_task(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation over (subset, task) after subtracting each task's mean."""
    a, b = a - np.nanmean(a, 0), b - np.nanmean(b, 0)
    known = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[known], b[known])[0, 1])


def measure(name: str) -> dict:
    work = load_workload(name)
    rng = np.random.default_rng(1)
    subsets = np.zeros((SUBSETS, work.n_tasks), dtype=bool)
    for row in subsets:
        row[rng.choice(work.n_tasks, SIZE, replace=False)] = True
    jobs = [Job(tuple(np.flatnonzero(row).tolist()), seed=100 + s) for s in range(SEEDS) for row in subsets]
    fits = fit(work, jobs, keep_states=False)
    truth = np.stack([done.validation for done in fits]).reshape(SEEDS, SUBSETS, -1)
    halves = within_task(truth[::2].mean(0), truth[1::2].mean(0))
    others = [within_task(truth[s], np.delete(truth, s, 0).mean(0)) for s in range(SEEDS)]
    result: dict = {
        "ceiling": float(np.sqrt(2 * halves / (1 + halves))),
        "R1": float(np.mean(others)),
        "methods": {},
    }
    print(f"\n{name}: ceiling {result['ceiling']:.2f}, one real training a subset {result['R1']:.2f}")
    for label, (method, options) in METHODS.items():
        start = time.perf_counter()
        estimate = get_estimator(method, **options).estimate(work, subset_size=SIZE)
        predicted = estimate.model.predict_values(subsets)
        row = {
            "correlation": within_task(predicted, truth.mean(0)),
            "trainings": estimate.costs.flops / estimate.run_flops,
            "seconds": time.perf_counter() - start,
        }
        result["methods"][label] = row
        cost = f"{row['trainings']:6.1f} trainings  {row['seconds']:6.1f} s"
        print(f"  {label:34s} {row['correlation']:6.2f}  costs {cost}")
    return result


def main() -> None:
    torch.set_num_threads(1)
    results = {name: measure(name) for name in sys.argv[1:] or ("yeast", "water")}
    settings = {"subsets": SUBSETS, "seeds": SEEDS, "size": SIZE}
    path = Path(__file__).parent / "results" / "skill.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "sets": results}, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
