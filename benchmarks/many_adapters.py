"""Sixteen LoRA runs on one frozen encoder: together, and one after the other; one thread.

The encoder is all-MiniLM-L6-v2 (6 layers), the tasks are those of the workload ``texts``; every run has two of them,
rows in an order of its own, and adapters of rank 8 in the query and value projections of the upper third of the layers,
or of all layers. Each way runs in a process of its own, which says how far its memory grew. The peer is the plain loop.
Run: ``python benchmarks/many_adapters.py [--toy]``; ``--toy`` takes few rows and two layers, writes nothing, and only
shows that all parts work.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coterie.datasets import texts
from coterie.training import fit, plan_adapters
from coterie.training.job import Fit, Job
from coterie.training.stackable import way_of
from coterie.workload import Workload, from_text

RESULT = Path(__file__).parent / "results" / "many_adapters.json"
RUNS, TASKS, EPOCHS, TOKENS = 16, 2, 2, 32
#: rows of each task that train, choose and judge
ROWS = {"train": 32, "validation": 8, "test": 8}
#: layers of the encoder, and layers with adapters, counted from above
CASES = {"upper third": (6, 2), "all layers": (6, 6)}
TARGET, EQUAL = 2.0, 1e-5


def workload(case: str, toy: bool) -> Workload:
    layers, upper = (2, 1 if case == "upper third" else 2) if toy else CASES[case]
    model, tokenizer = texts.base()
    counts = {part: count // (4 if toy else 1) for part, count in ROWS.items()}
    total, split, start = sum(counts.values()), {}, 0
    for part, count in counts.items():
        split[part] = list(range(start, start + count))
        start += count
    tasks = {name: (rows[:total], labels[:total]) for name, (rows, labels) in texts.read().items()}
    above = list(range(layers - upper, layers))
    lora = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], "layers_to_transform": above}
    recipe = replace(texts.RECIPE, epochs=1 if toy else EPOCHS, patience=None)
    return from_text(
        tasks, model, tokenizer, lora=lora, layers=layers, max_length=TOKENS, recipe=recipe, split=split, name=case
    )


def jobs(work: Workload, toy: bool) -> list[Job]:
    rng = np.random.default_rng(0)
    subsets = [rng.choice(work.n_tasks, TASKS, replace=False).tolist() for _ in range(4 if toy else RUNS)]
    return [Job(tuple(subset), seed) for seed, subset in enumerate(subsets)]


def resident(what: str) -> int:
    """Bytes of this process now (``"VmRSS"``), or at most since they were last asked for (``"VmHWM"``); on Linux."""
    lines = Path("/proc/self/status").read_text(encoding="utf8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


def one(case: str, way: str, toy: bool) -> dict[str, Any]:
    """Train all runs in one way; in this process."""
    torch.set_num_threads(1)
    work = workload(case, toy)
    wanted = jobs(work, toy)
    found: dict[str, Any] = {}
    if way == "together":
        plan = plan_adapters(work, len(wanted))
        assert not plan.reason, plan.reason
        found = {"plan": {**asdict(plan), "memory_bytes": plan.memory_bytes}, "said": str(plan)}
    fit(work, wanted[:1], backend="loop") if toy else way_of(work)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf8")  # the peak starts anew
    before, clock, processor = resident("VmRSS"), time.perf_counter(), time.process_time()
    fits = fit(work, wanted, backend="population" if way == "together" else "loop")
    return {
        **found,
        "seconds": time.perf_counter() - clock,
        "processor seconds": time.process_time() - processor,
        "memory grown": resident("VmHWM") - before,
        "losses": losses(fits),
    }


def losses(fits: list[Fit]) -> list[list[float]]:
    """What each run found: all checks, then validation and test losses of its tasks."""
    return [
        [
            *(loss for _, loss in done.history),
            *done.validation[list(done.job.subset)],
            *done.test[list(done.job.subset)],
        ]
        for done in fits
    ]


def elsewhere(case: str, way: str, toy: bool) -> dict[str, Any]:
    """The same in a process of its own."""
    call = [sys.executable, __file__, "--one", case, way, *(["--toy"] if toy else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True, env=environment)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: str, toy: bool) -> dict[str, Any]:
    ways = {way: elsewhere(case, way, toy) for way in ("together", "one after the other")}
    a, b = (np.concatenate([np.asarray(run) for run in ways[way].pop("losses")]) for way in ways)
    times = [ways[way]["processor seconds"] for way in ways]
    return {
        **ways,
        "ratio": times[1] / times[0],
        "largest difference": float(np.max(np.abs(a - b))),
        "largest relative difference": float(np.max(np.abs(a - b) / np.abs(b))),
        "smallest loss": float(b.min()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.one:
        print(json.dumps(one(*options.one, options.toy)))
        return
    found: dict[str, Any] = {"torch": torch.__version__, "threads": 1, "target": {"ratio": TARGET, "equal": EQUAL}}
    for case in CASES:
        made = found[case] = compare(case, options.toy)
        together, alone = made["together"], made["one after the other"]
        print(f"{case}: {together['said']}")
        print(
            f"  together {together['processor seconds']:.1f} CPU seconds, one after the other "
            f"{alone['processor seconds']:.1f}: {made['ratio']:.2f} times as fast; losses differ by "
            f"{made['largest difference']:.1e} at most ({made['largest relative difference']:.1e} of a loss; the least "
            f"is {made['smallest loss']:.3f}); memory grew by {together['memory grown'] / 2**20:.0f} and "
            f"{alone['memory grown'] / 2**20:.0f} MiB",
            flush=True,
        )
    found["met"] = {
        "ratio": found["upper third"]["ratio"] >= TARGET,
        "equal": max(found[case]["largest difference"] for case in CASES) <= EQUAL,
    }
    print(found["met"])
    if not options.toy:
        RESULT.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
