"""A million rows, 5,000 tasks and ten million labels: how much memory, and how much slower than a loop by hand?

    python benchmarks/data.py          # about ten minutes
    python benchmarks/data.py --small  # a hundredth of it

One thread. The script makes the data (labels of tasks that share a linear signal) and a workload of sparse labels,
and trains on all tasks; the peak memory counts all of that, Python and torch included. Then the same perceptron is
trained by a plain loop of torch on the same triples, which makes each batch dense as well. Both train the same number
of steps, in turns, and as often, without validation; the ratio is that of the medians. A whole epoch has 1,172 such
steps. Writes benchmarks/results/data.json and prints it.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import coterie
from coterie.training import fit
from coterie.training.evaluate import rows_losses
from coterie.training.job import Job
from coterie.workload import SparseLabels

WIDTH, BATCH, STEPS, TURNS = 32, 512, 20, 3


def make(rows: int, tasks: int, labels: int):
    """Inputs and labels as triples, each place of the table once."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    per_row, spacing = labels // rows, tasks // (labels // rows)
    first = rng.integers(0, spacing, size=rows)
    task = (first[:, None] + spacing * np.arange(per_row)).astype(np.int32).ravel()
    row = np.repeat(np.arange(rows, dtype=np.int32), per_row)
    value = (x[row, task % WIDTH] + rng.normal(size=len(row)).astype(np.float32) > 0).astype(np.float32)
    return x, row, task, value


def by_hand(x, starts, task, value, tasks: int, train: np.ndarray) -> float:
    """Seconds of a plain loop on triples sorted by row, and of what it needs before."""
    start = time.perf_counter()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, tasks))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    order = train[np.random.default_rng(0).permutation(len(train))]
    for step in range(STEPS):
        rows = order[step * BATCH : (step + 1) * BATCH]
        targets, mask = torch.zeros(len(rows), tasks), torch.zeros(len(rows), tasks, dtype=torch.bool)
        place = np.repeat(np.arange(len(rows)), starts[rows + 1] - starts[rows])
        at = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows])
        targets[place, task[at]], mask[place, task[at]] = value[at], True
        losses = nn.functional.binary_cross_entropy_with_logits(model(x[rows]), targets, reduction="none")
        loss = torch.where(mask, losses, 0.0).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def measure(rows: int, tasks: int, labels: int) -> dict[str, object]:
    """Memory and times."""
    marks: dict[str, float] = {}
    start = time.perf_counter()
    x, row, task, value = make(rows, tasks, labels)
    marks["making the data"] = time.perf_counter() - start
    start = time.perf_counter()
    sparse = SparseLabels.of(row, task, value, shape=(rows, tasks))
    kinds = [coterie.Task(f"task {number}", "binary") for number in range(tasks)]
    workload = coterie.from_arrays(x, sparse, tasks=kinds, recipe={"batch_size": BATCH}, hidden=64)
    marks["making the workload"] = time.perf_counter() - start
    job = Job(tuple(range(tasks)), seed=0, max_steps=STEPS, checks=False, early_stopping=False)
    fit(workload, [job])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    losses = rows_losses(workload, workload.build_model(0), workload.split.validation[:20_000], range(tasks))
    marks["validation losses of 20,000 rows"] = time.perf_counter() - start
    peak_after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    starts = np.searchsorted(row, np.arange(rows + 1))
    hand = (torch.from_numpy(x), starts, torch.from_numpy(task).long(), torch.from_numpy(value), tasks)
    times: dict[str, list[float]] = {"by hand": [], "coterie": []}
    for _ in range(TURNS):
        times["by hand"].append(by_hand(*hand, workload.split.train.numpy()))
        start = time.perf_counter()
        fit(workload, [job])
        times["coterie"].append(time.perf_counter() - start)
    medians = {name: float(np.median(found)) for name, found in times.items()}
    return {
        "settings": {"rows": rows, "tasks": tasks, "labels": len(row), "batch": BATCH, "steps": STEPS, "turns": TURNS},
        "peak memory in GB": {"data, workload, training": peak / 1e9, "and validation": peak_after / 1e9},
        "bytes of a dense table of float32 in GB": rows * tasks * 4 / 1e9,
        "seconds": {**marks, **{f"{name}, {STEPS} steps": value for name, value in medians.items()}},
        "ratio": medians["coterie"] / medians["by hand"],
        "tasks with a validation loss": int(np.isfinite(losses).sum()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    found = measure(*((10_000, 500, 100_000) if small else (1_000_000, 5_000, 10_000_000)))
    text = json.dumps(found, indent=1)
    print(text)
    if not small:
        Path(__file__).with_name("results").joinpath("data.json").write_text(text + "\n", encoding="utf-8")
