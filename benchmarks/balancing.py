"""What balancing is worth on real data: Delta m against single-task models, with intervals over seeds.

    python benchmarks/balancing.py [--seeds 10] [--beds yeast,chemicals,mhc,fashion] [--fashion FOLDER] [--tune]
                                   [--keep-gradients]

The data sets are those of coterie.datasets.benchmark_data and, as ten-task images, Fashion-MNIST from its four files
(Debian's package dataset-fashion-mnist puts them where --fashion looks by default); without them it is left out and
said so. All methods have the same network, recipe, early stopping, starts and order of rows.

One constant was chosen here, with other seeds and on yeast only (--tune): the learning rate of the shares, for FAMO and
the forms of MARIGOLD alike, from four values. Each method is run with its default and, where it is another, with the
chosen rate.

Methods that combine gradients are trained one model after the other, with one backward pass a task, and get five seeds.
They are left out on mhc, whose 73 tasks make a training ten (MGDA) to sixty times (PCGrad) as long. With
--keep-gradients their stored rows stay, which is most of the time; seeds, network and starts are the same.

Writes benchmarks/results/balancing.json.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coterie.balancing import Balancing
from coterie.benchmark.balancing import POOLED, compare_balancing
from coterie.datasets.benchmark_data import benchmark_data
from coterie.datasets.images import FOLDER, read_idx
from coterie.errors import FallbackWarning
from coterie.evaluation.intervals import t_interval
from coterie.workload import Recipe, Task, Workload, from_arrays

RESULT = Path(__file__).resolve().parent / "results" / "balancing.json"
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
#: rates of the methods as they come
DEFAULTS = {"famo": 0.025, "marigold": 0.025, "marigold, every step": 0.025, "marigold-next": 0.025}
TUNED_ON, TUNING_SEEDS, RATES = "yeast", range(100, 120), (0.025, 0.1, 0.25, 1.0)
WITH_RATE = {
    "famo": {},
    "marigold": {},
    "marigold, every step": {"every": 1},
    "marigold-next": {},
}
LOSSES = [POOLED, "equal", "uncertainty", "dwa", "rlw"]
GRADIENTS = ["mgda", "pcgrad", "cagrad", "upgrad"]
LEFT_OUT = {"mhc": dict.fromkeys(GRADIENTS, "one backward pass for each of 73 tasks: 10 to 60 s a training, not 1")}
#: other forms, to tell where a difference comes from
FORMS = [
    Balancing("marigold", {"phi": "log"}),
    Balancing("marigold", {"phi": "log", "learning_rate": 1e-9}),  # with shares that stay equal
    Balancing("marigold", {"form": "simplex"}),
    Balancing("marigold-next", {"phi": "log"}),
]
FEW_SEEDS = 5


def method(name: str, **more: Any) -> Balancing:
    """A method of WITH_RATE."""
    return Balancing(name.split(",")[0], {**WITH_RATE[name], **more})


def fashion(folder: Path) -> Workload | None:
    """Ten one-against-rest tasks on images, as large as the other beds; None when the files are not there."""
    if not folder.is_dir():
        return None
    images, labels = (read_idx(folder / f"train-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    rows = np.random.default_rng(0).permutation(len(labels))[:10_000]
    x = images.reshape(-1, 784)[rows].astype(np.float32) / 255
    y = (labels[rows, None] == np.arange(10)).astype(float)
    recipe = Recipe(learning_rate=1.5e-3, weight_decay=1e-2, epochs=20, batch_size=64, check_every=32, patience=3)
    split = {"train": np.arange(3000), "validation": np.arange(3000, 6000), "test": np.arange(6000, 10_000)}
    tasks = [Task(name, "binary") for name in CLASSES]
    return from_arrays(x, y, tasks=tasks, recipe=recipe, split=split, hidden=(64, 32), name="fashion", standardize=True)


def tune() -> dict[str, Any]:
    """Delta m of each learning rate of the shares, with seeds of its own."""
    methods = [method(name, learning_rate=rate) for name in WITH_RATE for rate in RATES]
    found = compare_balancing(benchmark_data(TUNED_ON).make(), methods, seeds=TUNING_SEEDS)
    rows = {row["name"]: row["delta"] for row in found["methods"]}
    chosen = {
        name: min(RATES, key=lambda rate: rows[str(method(name, learning_rate=rate))]["mean"]) for name in WITH_RATE
    }
    return {"bed": TUNED_ON, "seeds": list(TUNING_SEEDS), "deltas": rows, "chosen": chosen}


def measure(
    work: Workload, tuned: dict[str, float], seeds: range, gradients: list[str], kept: list[dict[str, Any]]
) -> dict[str, Any]:
    """All methods on one bed, and the forms of MARIGOLD paired with FAMO; `kept` are rows of an earlier run."""
    methods: list[Balancing | str] = [*LOSSES, *FORMS]
    for name, rate in tuned.items():
        methods += [method(name)] if rate == DEFAULTS[name] else [method(name), method(name, learning_rate=rate)]
    found = compare_balancing(work, methods, seeds=seeds)
    if gradients:
        more = compare_balancing(work, gradients, seeds=seeds[:FEW_SEEDS])
        found["methods"] += [row for row in more["methods"] if row["name"] != "equal"]
    found["methods"] += kept
    by_seed = {row["name"]: np.array(row["by_seed"]) for row in found["methods"]}
    found["against_famo"] = {}
    for name in (name for name in tuned if name != "famo"):
        for own, other in ((method(name), "famo"), *_tuned_pair(name, tuned)):
            difference = by_seed[str(own)] - by_seed[other]
            found["against_famo"][f"{own} - {other}"] = t_interval(difference).to_dict()
    difference = by_seed[str(FORMS[0])] - by_seed["famo"]
    found["against_famo"][f"{FORMS[0]} - famo"] = t_interval(difference).to_dict()
    return found


def _tuned_pair(name: str, tuned: dict[str, float]) -> list[tuple[Balancing, str]]:
    pair = [
        method(own) if tuned[own] == DEFAULTS[own] else method(own, learning_rate=tuned[own]) for own in (name, "famo")
    ]
    return [] if pair == [method(name), method("famo")] else [(pair[0], str(pair[1]))]


def show(found: dict[str, Any]) -> None:
    """A table of one bed."""
    print(f"\n{found['workload']}: {found['tasks']} tasks, {found['missing']:.0%} missing")
    print(
        f"{'method':42s} {'Delta m, %':>24s} {'against equal, points':>26s} {'better':>7s} {found['score']:>7s} steps"
    )
    for row in sorted(found["methods"], key=lambda row: row["delta"]["mean"]):
        paired = "" if row["against_equal"] is None else _text(row["against_equal"])
        print(
            f"{row['name']:42s} {_text(row['delta']):>24s} {paired:>26s} {row['better']:7.0%} "
            f"{row['score']['mean']:7.4f} {row['steps']:5.0f} {len(row['by_seed']):5d}"
        )
    for pair, interval in found["against_famo"].items():
        print(f"  {pair}: {_text(interval)}")


def _text(interval: dict[str, float]) -> str:
    return "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**{k: 100 * v for k, v in interval.items()})


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--beds", default="yeast,chemicals,mhc,fashion")
    parser.add_argument("--fashion", type=Path, default=FOLDER)
    parser.add_argument("--tune", action="store_true", help="choose the learning rate anew")
    parser.add_argument("--keep-gradients", action="store_true", help="stored rows of methods that combine gradients")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FallbackWarning)
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {"beds": {}}
    if options.tune or "tuning" not in results:
        results["tuning"] = tune()
        _write(results)
    chosen = results["tuning"]["chosen"]
    print("learning rates chosen on", TUNED_ON, chosen)
    for name in options.beds.split(","):
        work = fashion(options.fashion) if name == "fashion" else benchmark_data(name).make()
        if work is None:
            print(f"\n{name}: no files in {options.fashion}, left out")
            continue
        left_out = LEFT_OUT.get(name, {})
        stored = results["beds"].get(name, {"methods": []})["methods"] if options.keep_gradients else []
        kept = [row for row in stored if row["name"] in GRADIENTS]
        missing = [own for own in GRADIENTS if own not in [*left_out, *(row["name"] for row in kept)]]
        found = measure(work, chosen, range(options.seeds), missing, kept)
        results["beds"][name] = found | {"left_out": left_out}
        show(found)
        _write(results)


def _write(results: dict[str, Any]) -> None:
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
