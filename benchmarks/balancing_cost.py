"""What does a training step cost with balancing, for 2 to 200 tasks? Ratios to equal weights in the same run.

    python benchmarks/balancing_cost.py [--rounds 9] [--only-figure]

The model is a perceptron with 128 inputs, three hidden layers of 512 units and one linear head a task (591,000 shared
parameters), trained with Adam on batches of 256 rows with squared losses. One thread, processor time. In each round
every method makes a few steps, one method after the other, so that another load on the machine meets all of them; a
ratio is formed within the round, and the median over rounds is reported. MGDA (through TorchJD, over the shared
parameters) makes few steps, as each has one backward pass a task.

Writes benchmarks/results/balancing_cost.json and docs/figures/balancing-cost.png. Ends with an error when a target is
missed: probe at every step 1.45, every 10 steps 1.08, next batch 1.06, none of them growing with the tasks, and FAMO no
slower than a plain programme for its equations (median over the numbers of tasks).
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from coterie.balancing import get_balancer

TASKS, INPUTS, HIDDEN, ROWS, STEPS = (2, 5, 10, 20, 50, 100, 200), 128, 512, 256, 10
#: pairs of single steps in a round, for FAMO against the plain programme: they differ by less than a round's noise
PAIRS = 20
#: FAMO with a parameter, autograd and Adam of torch for its logits, written from the published equations
PEER = "FAMO, plain"
METHODS = {
    "equal": ("equal", {}),
    "uncertainty": ("uncertainty", {}),
    "DWA": ("dwa", {}),
    "RLW": ("rlw", {}),
    "FAMO": ("famo", {}),
    PEER: (PEER, {}),
    "MARIGOLD, probe every step": ("marigold", {"every": 1}),
    "MARIGOLD, probe every 10 steps": ("marigold", {"every": 10}),
    "MARIGOLD, next batch": ("marigold-next", {}),
    "MGDA": ("mgda", {"chunk": 20}),
}
TARGETS = {"MARIGOLD, probe every step": 1.45, "MARIGOLD, probe every 10 steps": 1.08, "MARIGOLD, next batch": 1.06}
HERE = Path(__file__).resolve().parent
RESULT, FIGURE = HERE / "results" / "balancing_cost.json", HERE.parent / "docs" / "figures" / "balancing-cost.png"


class PlainFamo:
    """FAMO as its equations read, without anything for missing tasks, dropout, stacks or checks.

    The same operations as in the authors' loop, less their floor of the losses, which is 0 by default, and clipping.
    """

    def __init__(self, tasks, learning_rate=0.025, decay=1e-3):
        self.logits = torch.zeros(tasks, requires_grad=True)
        self.adam = torch.optim.Adam([self.logits], lr=learning_rate, weight_decay=decay)

    def step(self, losses, optimizer, shared=None):
        """One training step; nothing is clipped."""
        before = losses()
        share, distance = torch.softmax(self.logits, -1), before + 1e-8
        scale = (share / distance).sum().detach()
        optimizer.zero_grad()
        ((distance.log() * share).sum() / scale).backward()
        optimizer.step()
        with torch.no_grad():
            fell = (before.detach() + 1e-8).log() - (losses() + 1e-8).log()
        (self.logits.grad,) = torch.autograd.grad(torch.softmax(self.logits, -1), self.logits, grad_outputs=fell)
        self.adam.step()


class Run:
    """A model under training with one method."""

    def __init__(self, tasks, name, options):
        torch.manual_seed(0)
        widths = [INPUTS, HIDDEN, HIDDEN, HIDDEN]
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.trunk, self.heads = nn.Sequential(*layers), nn.Linear(HIDDEN, tasks)
        self.x, self.y = torch.randn(ROWS, INPUTS), torch.randn(ROWS, tasks)
        parameters = [*self.trunk.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)
        self.balancer = PlainFamo(tasks) if name == PEER else get_balancer(name, tasks, **options)
        self.shared = list(self.trunk.parameters()) if name == "mgda" else None
        self.steps = 1 if name == "mgda" else STEPS

    def losses(self):
        """One a task."""
        return (self.heads(self.trunk(self.x)) - self.y).square().mean(0)

    def seconds(self):
        """Processor time of a step."""
        start = time.process_time()
        for _ in range(self.steps):
            self.balancer.step(self.losses, self.optimizer, shared=self.shared)
        return (time.process_time() - start) / self.steps


def paired(ours, peer, number):
    """Median ratio of the times of two single steps, one right after the other and in either order."""
    found, both = [], (ours, peer)
    for run in both:
        run.steps = 1
    for turn in range(number):
        order = both if turn % 2 else both[::-1]
        times = {id(run): run.seconds() for run in order}
        found.append(times[id(ours)] / times[id(peer)])
    return statistics.median(found)


def measure(tasks, rounds):
    runs = {label: Run(tasks, *method) for label, method in METHODS.items()}
    for run in runs.values():
        run.seconds()
    ratios, seconds = {label: [] for label in runs}, {label: [] for label in runs}
    for number in range(rounds):
        for label, run in runs.items():
            if label == "MGDA" and number % 3:
                continue
            seconds[label].append(run.seconds())
            ratios[label].append(seconds[label][-1] / seconds["equal"][-1])
    against = paired(runs["FAMO"], runs[PEER], PAIRS * rounds)
    row = {
        label: {"seconds": statistics.median(seconds[label]), "ratio": statistics.median(ratios[label]),
                "ratios": [round(ratio, 4) for ratio in ratios[label]]}
        for label in runs
    }  # fmt: skip
    row["FAMO"]["against_plain"] = against
    shown = "  ".join(f"{label} {row[label]['ratio']:.3f}" for label in runs if label != "equal")
    shown += f"  (FAMO over plain {row['FAMO']['against_plain']:.3f})"
    print(f"{tasks:4d} tasks, equal {row['equal']['seconds'] * 1e3:.1f} ms: {shown}", flush=True)
    return row


def draw(rows):
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    tasks = sorted(rows, key=int)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    styles = {
        "MGDA": ("#888888", "s"),
        "FAMO": ("#b8860b", "v"),
        "MARIGOLD, probe every step": ("#b03060", "o"),
        "MARIGOLD, probe every 10 steps": ("#2f6db5", "o"),
        "MARIGOLD, next batch": ("#2e8b57", "o"),
    }
    for label, (colour, marker) in styles.items():
        ratios = [rows[t][label]["ratio"] for t in tasks]
        axes.plot([int(t) for t in tasks], ratios, color=colour, marker=marker, markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="time of a step over that with equal weights")
    axes.set_xticks(TASKS, [str(t) for t in TASKS], minor=False)
    ticks = [1, 1.5, 2, 5, 10, 20, 50, 100, 200]
    top = max(rows[t]["MGDA"]["ratio"] for t in tasks)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0.93, top * 1.3)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=150)


def missed(rows):
    """What does not keep its target, in words."""
    found = []
    for label, target in TARGETS.items():
        ratios = [rows[t][label]["ratio"] for t in sorted(rows, key=int)]
        if statistics.median(ratios) > target:
            found.append(f"{label}: {statistics.median(ratios):.3f} > {target}")
        if statistics.median(ratios[-3:]) > 1.05 * statistics.median(ratios[:3]):
            found.append(f"{label}: grows with the tasks, {ratios}")
    against = [row["FAMO"]["against_plain"] for row in rows.values() if "against_plain" in row["FAMO"]]
    if against and statistics.median(against) > 1.0:  # results of earlier versions had no plain programme
        found.append(f"FAMO takes {statistics.median(against):.3f} of the time of a plain programme")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only-figure", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only_figure:
        rows = json.loads(RESULT.read_text())["tasks"]
    else:
        rows = {str(tasks): measure(tasks, arguments.rounds) for tasks in TASKS}
        parts = zip((INPUTS, HIDDEN, HIDDEN), (HIDDEN,) * 3, strict=True)
        shared = sum(a * b + b for a, b in parts)
        about = {"hidden": HIDDEN, "inputs": INPUTS, "rows": ROWS, "shared parameters": shared, "threads": 1}
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(
            json.dumps({"settings": about | {"rounds": arguments.rounds}, "tasks": rows}, indent=1) + "\n"
        )
    draw(rows)
    problems = missed(rows)
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
