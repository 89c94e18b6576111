"""Relations of a graph from end to end: features against a plain loop, groups, real comparison, served models.

The workload is ``umls``: 23 relations between pairs of 135 nodes, a GraphSAGE of PyTorch Geometric. Everything runs on
one thread. Run: ``python benchmarks/graphs.py [method ...]`` (default: fused and grad-tag).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _features import Pair, against_plain_loop
from _runs import timed_run

import coterie
from coterie.datasets import umls
from coterie.features.part import PartFeatures
from coterie.workload import Workload

GROUPS, SEEDS, DIRECTIONS, PLAIN_ROWS = 3, 3, 200, 10


def features(workload: Workload) -> dict[str, object]:
    """Features beside a plain loop over all tasks of a few rows, of which every task has a label."""

    def pairs(fast: PartFeatures) -> Iterator[Pair]:
        for row in workload.split.train[:PLAIN_ROWS].tolist():
            position = int((fast.rows[fast.pairs_of(0)] == row).nonzero())
            for task in range(workload.n_tasks):
                yield fast.pairs_of(task).start + position, row, task

    return against_plain_loop(workload, DIRECTIONS, pairs)


def end_to_end(workload: Workload, method: str) -> dict[str, object]:
    """A run with its comparison; gains against single-task models on test data, with 95 % intervals."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result, facts = timed_run(workload, Path(folder) / "run", method=method, groups=GROUPS, seeds=SEEDS)
        served = coterie.load(result, workload=workload).predict(workload.inputs[workload.split.test].numpy())
    labels = workload.labels[workload.split.test].numpy()
    loss = [
        float(-np.where(labels[:, task] == 1, np.log(chance), np.log1p(-chance)).mean())
        for task, chance in enumerate(np.clip(served[name], 1e-7, 1 - 1e-7) for name in workload.task_names)
    ]
    print(f"{method}: {result} ({facts['seconds']:.0f} s)", flush=True)
    return {
        **facts,
        "mean test loss of the served models": float(np.mean(loss)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="*", default=["fused", "grad-tag"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=coterie.errors.FallbackWarning)
    workload = umls.load()
    results: dict[str, object] = {
        "settings": {"groups": GROUPS, "seeds": SEEDS, "threads": 1, "torch": torch.__version__},
        "workload": {
            "nodes": 135,
            "tasks": workload.n_tasks,
            "rows": [len(workload.split.part(part)) for part in ("train", "validation", "test")],
            "parameters": sum(p.numel() for p in workload.build_model(0).parameters()),
        },
        "features": features(workload),
    }
    print(json.dumps(results["features"], indent=1), flush=True)
    results["runs"] = {method: end_to_end(workload, method) for method in options.methods}
    path = Path(__file__).parent / "results" / "graphs.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
