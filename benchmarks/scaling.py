"""What each stage costs as examples, parameters, tasks, directions and subsets grow: slopes from toy sizes.

Everything starts from 2,000 examples with 32 inputs, 16 binary tasks with all labels, a perceptron with two hidden
layers of 64, 16 random directions and 512 subsets of a third of the tasks. One factor at a time grows by 32. Stages:

* training: one epoch on all tasks, batches of 64, plain loop, nothing checked;
* features: ``compute_features`` of the training part (forward mode);
* secants: the default's features: margins at the ends of as many short trainings as there are tasks;
* sums: the statistics of the regression from features;
* regression: values of the subsets from the sums and from 400 validation examples;
* affinity: the higher-order matrix from a model that costs nothing, so that drawing and averaging are left; from 64
  tasks, subsets of the size and number that a run chooses;
* SDP: the relaxation, from ``benchmarks/sdp.py``: medians over nine families of matrices.

CPU seconds of one thread: the best of two. Memory: by how much the resident set rises at most. Slopes: least squares on
logarithms over all sizes, with the 95 % interval of Student's t, and between the last two sizes, where overheads count
least. Run: ``python benchmarks/scaling.py`` (about two minutes of one core); ``--write`` also fills the tables of
docs/scaling.md in.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import ctypes
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import linregress, t

from coterie import Context
from coterie.affinity import Affinity, PairwiseGainModel
from coterie.affinity.blocks import TaskBlock, compute_statistics
from coterie.affinity.linearize import secant_blocks
from coterie.affinity.newton import solve, values
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.pipeline.candidates import subset_count, typical_size
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.workload import Recipe, Workload, from_arrays, get_loss
from coterie.workload.structure import find_structure

ROOT = Path(__file__).resolve().parents[1]
OUT, FIGURE = ROOT / "benchmarks" / "results" / "scaling.json", ROOT / "docs" / "figures" / "scaling.png"
PAGE, SDP = ROOT / "docs" / "scaling.md", ROOT / "benchmarks" / "results" / "sdp.json"
INPUTS, GROWTH = 32, (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Size:
    """A problem."""

    examples: int = 2000
    width: int = 64
    tasks: int = 16
    d: int = 16
    subsets: int = 512


#: factor -> the smallest value of a series, where that is not the usual size
LEAST = {"examples": 2000, "width": 64, "tasks": 8, "d": 16, "subsets": 256}
STAGES = {
    "training": ("examples", "width", "tasks"),
    "features": ("examples", "width", "tasks", "d"),
    "secants": ("examples", "width", "tasks"),
    "sums": ("examples", "tasks", "d"),
    "regression": ("examples", "tasks", "d", "subsets"),
    "affinity": ("tasks", "subsets"),
}


def workload(size: Size) -> Workload:
    """Random binary labels."""
    rng = np.random.default_rng(0)
    count = size.examples + 400
    x = rng.normal(size=(count, INPUTS)).astype("float32")
    y = (x @ rng.normal(size=(INPUTS, size.tasks)) + rng.normal(size=(count, size.tasks)) > 0).astype(float)
    rows, n = np.arange(count), size.examples
    split = {"train": rows[:n], "validation": rows[n : n + 200], "test": rows[n + 200 :]}
    recipe = Recipe(epochs=1, batch_size=64)
    return from_arrays(
        x, y, hidden=(size.width, size.width), recipe=recipe, split=split, standardize=False, name="scaling"
    )


def blocks(size: Size, examples: int, heads: int = 16) -> list[TaskBlock]:
    """Random features."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    loss = get_loss("binary")
    return [
        TaskBlock(draw(examples, size.d), draw(examples, heads), draw(examples), (draw(examples) > 0).float(), loss)
        for _ in range(size.tasks)
    ]


def subsets(size: Size) -> np.ndarray:
    """Random subsets of a third of the tasks."""
    chosen = max(2, size.tasks // 3)
    return np.random.default_rng(0).random((size.subsets, size.tasks)).argsort(1) < chosen


def prepare(stage: str, size: Size) -> Callable[[], object]:
    """The work of a stage; what it needs is made before."""
    if stage in ("training", "features", "secants"):
        work = workload(size)
        model = work.build_model(0)
        if stage == "training":
            job = Job(tuple(range(size.tasks)), 0, early_stopping=False, checks=False)
            return lambda: fit_one(work, job)
        structure = find_structure(work, model)
        if stage == "secants":
            state, ends = model.state_dict(), [work.build_model(seed + 1).state_dict() for seed in range(size.tasks)]
            return lambda: secant_blocks(work, state, ends, structure, "train", lambda *_: None)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if name in structure.trunk}
        along = RandomDirections(shapes, size.d, 0)
        return lambda: compute_features(
            work, model, along, FeatureOptions(mode="forward"), Context(memory=2**34), structure=structure
        )
    if stage == "sums":
        found = blocks(size, size.examples)
        return lambda: compute_statistics(found)
    if stage == "regression":
        sums, held, asked = compute_statistics(blocks(size, 200)), blocks(size, size.examples // 5), subsets(size)
        return lambda: values(solve(sums, asked, 0.01), held)
    rng = np.random.default_rng(0)
    n = size.tasks
    matrix = (np.arange(n)[:, None] % 5 == np.arange(n) % 5) + rng.normal(size=(n, n))
    affinity = Affinity(matrix, tuple(f"t{i}" for i in range(n)))
    chosen = typical_size(n)
    # as many as a run asks for, unless their number is what grows
    asked_for = subset_count(n, chosen) if size.subsets == Size.subsets else size.subsets
    return lambda: PairwiseGainModel(affinity).higher_order(asked_for, chosen, seed=0)


def measure(work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds, the best of two, and the rise of the resident set."""
    before, seconds = resident("VmRSS", reset=True), []
    for _ in range(2):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
        if seconds[0] > 20:
            break
    return {"seconds": min(seconds), "bytes": max(0, resident("VmHWM") - before)}


def resident(what: str, *, reset: bool = False) -> int:
    """Bytes in main memory; with `reset`, free memory is given back and the peak starts anew. Linux only, else 0."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def series(stage: str, factor: str) -> dict[str, Any]:
    """A stage at growing sizes of one factor."""
    usual = Size(tasks=64) if stage == "affinity" else Size()
    least = 16 if (stage, factor) == ("affinity", "tasks") else LEAST[factor]
    rows = []
    for grown in GROWTH:
        size = replace(usual, **{factor: least * grown})
        rows.append({"value": count(factor, size), **measure(prepare(stage, size))})
        print(f"  {stage:10s} {factor:9s} {rows[-1]['value']:>8} {rows[-1]['seconds']:9.4f} s "
              f"{rows[-1]['bytes'] / 2**20:8.1f} MiB", flush=True)  # fmt: skip
    found: dict[str, Any] = {"stage": stage, "factor": "parameters" if factor == "width" else factor, "rows": rows}
    found["time"] = slope([r["value"] for r in rows], [r["seconds"] for r in rows])
    found["memory"] = slope([r["value"] for r in rows], [r["bytes"] for r in rows])
    return found


def count(factor: str, size: Size) -> int:
    """The value of a factor; widths as parameters."""
    if factor != "width":
        return getattr(size, factor)
    return (INPUTS + 1) * size.width + (size.width + 1) * (size.width + size.tasks)


def slope(x: list[float], y: list[float]) -> dict[str, float] | None:
    """Slope of the logarithms with its 95 % interval, and that between the last two."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b > 0]
    if len(pairs) < 4:
        return None
    a, b = np.log(np.array(pairs, dtype=float)).T
    found = linregress(a, b)
    half = float(t.ppf(0.975, len(a) - 2)) * float(found.stderr)
    last = float((b[-1] - b[-2]) / (a[-1] - a[-2]))
    return {
        "slope": float(found.slope),
        "low": float(found.slope) - half,
        "high": float(found.slope) + half,
        "last": last,
    }


def table(found: list[dict[str, Any]]) -> str:
    """Slopes in Markdown."""
    lines = [
        "| stage | factor | from, to | CPU s at these | slope of time (95 % interval) | last two | memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        rows, time_ = one["rows"], one["time"]
        lines.append(
            f"| {one['stage']} | {one['factor']} | {rows[0]['value']:,}, {rows[-1]['value']:,} "
            f"| {rows[0]['seconds']:.3g}, {rows[-1]['seconds']:.3g} "
            f"| {time_['slope']:.2f} ({time_['low']:.2f} to {time_['high']:.2f}) | {time_['last']:.2f} "
            f"| {rows[-1]['bytes'] / 2**20:.0f} |"
        )
    return "\n".join(lines)


def sdp_series() -> dict[str, Any]:
    """The relaxation as a series like the others."""
    runs = json.loads(SDP.read_text())["runs"]
    rows = []
    for n in sorted({run["tasks"] for run in runs if run["tasks"] % 100 == 0}):
        own = [run for run in runs if run["tasks"] == n]
        seconds, size = (float(np.median([run[key] for run in own])) for key in ("cpu_seconds", "peak_gb"))
        rows.append({"value": n, "seconds": seconds, "bytes": 1e9 * size})
    time_ = slope([row["value"] for row in rows], [row["seconds"] for row in rows])
    return {"stage": "SDP", "factor": "tasks", "rows": rows, "time": time_, "memory": None}


def large_sdp() -> str:
    """The separate benchmark of the SDP."""
    runs = json.loads(SDP.read_text())["runs"]
    lines = ["| tasks | families | CPU s, median | CPU s, largest | peak of the process, GB |", "|---|---|---|---|---|"]
    for n in sorted({run["tasks"] for run in runs if run["tasks"] % 100 == 0}):
        own = [run for run in runs if run["tasks"] == n]
        cpu = [run["cpu_seconds"] for run in own]
        lines.append(
            f"| {n:,} | {len(own)} | {np.median(cpu):.1f} | {max(cpu):.1f} | {max(run['peak_gb'] for run in own):.2f} |"
        )
    return "\n".join(lines)


#: the problem on paper: examples, parameters, tasks, directions, head parameters, tokens and labels of an example,
#: epochs of a training, seeds, candidates that split the tasks (2, 3, 5 and n/3 groups, single-task), batch
PAPER = {"N": 1e8, "P": 1e9, "n": 5000, "d": 400, "q": 64, "tokens": 128, "epochs": 3, "seeds": 3, "splits": 5}
#: one node of eight H100 SXM: 989 TFLOP/s each in bfloat16 (dense, by the data sheet), of which 40 % are assumed; a
#: core at 50 GFLOP/s in single precision
NODE, CORE = 8 * 989e12 * 0.4, 50e9


def paper() -> str:
    """The arithmetic for a problem a million times as large, in Markdown."""
    count, size, n, d, q, tokens, epochs, seeds, splits = PAPER.values()
    forward = 2 * size * tokens
    once = 3 * forward * count
    group, validation = n // 20, count / 5 / n
    m, asked = subset_count(int(n), int(group)), 50 * n
    each = 5 * 2 * validation * (d + q)
    fork = 0.15 * epochs * group * count / n  # rows that a short training sees: FORK_OF_RUN of an ordinary one
    lines: list[tuple[str, str, float, str]] = [
        ("one epoch on all tasks", "3 x 2 P x tokens x N", once, "node"),
        (f"one ordinary training on all tasks, {epochs} epochs", "epochs x the above", epochs * once, "node"),
        ("short trainings for secants, one base", f"n x 15 % of the steps on {group} tasks", n * fork * 3 * forward,
         "node"),
        ("gradients, forward mode", "N (1 + 2 d) x 2 P x tokens", count * (1 + 2 * d) * forward, "node"),
        ("gradients, reverse mode, 1 label an example", "N (3 x 2 P x tokens + 2 P d)",
         count * (3 * forward + 2 * size * d), "node"),
        ("the same from 2,000 examples a task", "2,000 n of N", 2000 * n * (3 * forward + 2 * size * d), "node"),
        ("sums of the regression", "2 N (d + q)^2", 2 * count * (d + q) ** 2, "core"),
        (f"values of {m:,} subsets of {group} tasks", f"m x {group} x 5 strengths x 2 N_v (d + q)", m * group * each,
         "core"),
        ("search into 2 groups, 50 groups asked a task", "50 n x (n / 2) x 5 x 2 N_v (d + q)",
         asked * n / 2 * each, "core"),
        (f"comparison: {seeds} seeds x (all-in-one + {splits} splits)", "each split sees every example once an epoch",
         seeds * (1 + splits) * epochs * once, "node"),
    ]  # fmt: skip
    found = ["| what | arithmetic | FLOPs | time | on |", "|---|---|---|---|---|"]
    for what, how, flops, where in lines:
        seconds = flops / (NODE if where == "node" else CORE)
        found.append(f"| {what} | {how} | {flops:.1e} | {spoken(seconds)} | one {where} |")
    sizes = [
        ("labels, dense in single precision", "4 N n", 4 * count * n),
        ("which labels are known", "N n", count * n),
        ("inputs, 4 bytes a token", "4 N tokens", 4 * count * tokens),
        ("features at half precision, one label an example", "2 N d", 2 * count * d),
        ("the same as they are stored today, single precision", "4 N d", 4 * count * d),
        ("sums of the regression, one base", "8 n (d + q)^2", 8 * n * (d + q) ** 2),
        ("ends of the short trainings, one base", "4 n P", 4 * n * size),
        ("one gradient and one direction", "2 x 4 P", 8 * size),
        ("affinity", "8 n^2", 8.0 * n * n),
        ("label losses of the comparison (a fifth of N tests, a tenth chooses)", "4 x 0.3 N x seeds x candidates x 2",
         4 * 0.3 * count * seeds * (1 + splits) * 2),
    ]  # fmt: skip
    found += ["", "| what | arithmetic | size |", "|---|---|---|"]
    found += [f"| {what} | {how} | {large(size)} |" for what, how, size in sizes]
    return "\n".join(found)


def spoken(seconds: float) -> str:
    """A time in words."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def large(size: float) -> str:
    """Bytes in words."""
    for unit, length in (("TB", 1e12), ("GB", 1e9)):
        if size >= length:
            return f"{size / length:,.1f} {unit}"
    return f"{size / 1e6:,.0f} MB"


def draw(found: list[dict[str, Any]]) -> None:
    """Time against each factor, one panel a factor."""
    from matplotlib import pyplot, ticker

    factors = list(dict.fromkeys(one["factor"] for one in found))
    figure, axes = pyplot.subplots(
        1, len(factors), figsize=(3.1 * len(factors), 3.0), sharey=True, layout="constrained"
    )
    colours = {stage: f"C{i}" for i, stage in enumerate([*STAGES, "SDP"])}
    for axis, factor in zip(axes, factors, strict=True):
        for one in (one for one in found if one["factor"] == factor):
            x, y = ([row[key] for row in one["rows"]] for key in ("value", "seconds"))
            axis.loglog(x, y, "o-", markersize=3, color=colours[one["stage"]], label=one["stage"])
        axis.set_xlabel(factor)
        axis.grid(alpha=0.3)
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].set_ylabel("CPU seconds, one thread")
    handles = [pyplot.Line2D([], [], color=colour, marker="o", markersize=3) for colour in colours.values()]
    figure.legend(handles, list(colours), loc="outside lower center", ncols=len(colours), frameon=False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=150)


def fill(page: Path, name: str, text: str) -> None:
    """Put tables between the markers of a page."""
    mark = f"<!-- {name} -->"
    parts = page.read_text().split(mark)
    if len(parts) != 3:
        raise SystemExit(f"{page} should have the marker {mark} twice.")
    page.write_text(f"{parts[0]}{mark}\n\n{text}\n\n{mark}{parts[2]}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), help="measure only some; others stay")
    parser.add_argument("--write", action="store_true", help="also fill docs/scaling.md in")
    parser.add_argument("--again", action="store_true", help="take the measurements from the last run")
    asked = parser.parse_args()
    start = time.process_time()
    record = json.loads(OUT.read_text()) if OUT.exists() else {"series": []}
    known = {(one["stage"], one["factor"]): one for one in record["series"]}
    if not asked.again:
        prepare("features", Size())()  # what is imported on first use is no part of a stage
        for stage in asked.stages:
            for factor in STAGES[stage]:
                one = series(stage, factor)
                known[one["stage"], one["factor"]] = one
        record |= {"machine": platform.processor() or platform.machine(), "threads": 1}
        record["cpu_seconds"] = time.process_time() - start
    named = [(stage, name) for stage, factors in STAGES.items() for name in factors]
    order = [(stage, "parameters" if name == "width" else name) for stage, name in named]
    record["series"] = [*(known[key] for key in order if key in known), sdp_series()]
    text = f"{table(record['series'])}\n\n{large_sdp()}"
    print(text, "", paper(), sep="\n")
    OUT.write_text(json.dumps(record, indent=1))
    draw(record["series"])
    if asked.write:
        fill(PAGE, "scaling", text)
        fill(PAGE, "paper", paper())


if __name__ == "__main__":
    main()
