"""What does a probe in one's own training loop cost? The loop without it, with cosine and ETAP, and with TAG as well.

    python benchmarks/loop_probe.py

One thread. A perceptron with one output a task is trained by a plain loop of torch; a measurement every 10 steps. Every
repetition times all variants one after the other, so that a busy machine slows all of them; ratios are medians over
repetitions. The peer is what one would write by hand from the formula of TAG: a copy of model and optimiser for each
task. Writes benchmarks/results/loop_probe.json and prints a table.
"""

import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import coterie

EVERY, STEPS, REPETITIONS, ROWS = 10, 200, 7, 128
SIZES = {"4 tasks": 4, "10 tasks": 10, "25 tasks": 25}


def by_hand(model, optimizer, losses, sums):
    """TAG from its formula."""
    before = losses(model)
    shared = [p for name, p in model.named_parameters() if not name.startswith("2.")]
    for source in range(len(before)):
        gradients = torch.autograd.grad(before[source], shared, retain_graph=True)
        twin, stepper = copy.deepcopy((model, optimizer))
        own = [p for name, p in twin.named_parameters() if not name.startswith("2.")]
        for p in twin.parameters():
            p.grad = None
        for p, gradient in zip(own, gradients, strict=True):
            p.grad = gradient
        stepper.step()
        with torch.no_grad():
            sums[:, source] += (1 - losses(twin) / before).detach().numpy()


def train(tasks: int, variant: str) -> tuple[float, np.ndarray]:
    """Seconds of a training, and the mean of TAG where it was measured."""
    torch.manual_seed(0)
    x = torch.randn(STEPS * ROWS, 64)
    y = x @ torch.randn(64, tasks)
    layers = [nn.Sequential(nn.Linear(i, 256), nn.ReLU()) for i in (64, 256)]
    model = nn.Sequential(*layers, nn.Linear(256, tasks))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    names, probe, sums = [f"task {task}" for task in range(tasks)], None, np.zeros((tasks, tasks))
    if variant in ("cosine and ETAP", "TAG, cosine and ETAP"):
        probe = coterie.probe(model, optimizer, names, every=EVERY, lookahead="TAG" in variant)
    start = time.perf_counter()
    for step in range(STEPS):
        rows = slice(step * ROWS, (step + 1) * ROWS)

        def losses(net: nn.Module, rows: slice = rows) -> torch.Tensor:
            return ((net(x[rows]) - y[rows]) ** 2).mean(0)

        if probe is not None:
            probe.step(lambda losses=losses: losses(model))
        elif variant == "TAG by hand" and step % EVERY == 0:
            by_hand(model, optimizer, losses, sums)
        optimizer.zero_grad()
        losses(model).mean().backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    found = probe.affinity("tag").values if probe is not None and "TAG" in variant else sums / (STEPS // EVERY)
    return seconds, found


def main() -> None:
    torch.set_num_threads(1)
    variants = ("plain loop", "cosine and ETAP", "TAG, cosine and ETAP", "TAG by hand")
    results: dict[str, dict[str, float]] = {}
    for label, tasks in SIZES.items():
        seconds: dict[str, list[float]] = {variant: [] for variant in variants}
        for repetition in range(REPETITIONS + 1):
            for variant in variants:
                took, _ = train(tasks, variant)
                if repetition:  # the first warms up
                    seconds[variant].append(took)
        ratios = {
            variant: float(np.median(np.array(seconds[variant]) / np.array(seconds["plain loop"])))
            for variant in variants
        }
        difference = np.abs(train(tasks, variants[2])[1] - train(tasks, variants[3])[1])[~np.eye(tasks, dtype=bool)]
        results[label] = {**ratios, "largest difference of TAG to that by hand": float(difference.max())}
        print(f"{label}: " + ", ".join(f"{name} {ratio:.2f} x" for name, ratio in ratios.items()))
        print(f"  largest difference of TAG to that by hand {difference.max():.1e}")
    settings = {"every": EVERY, "steps": STEPS, "rows": ROWS, "repetitions": REPETITIONS, "threads": 1}
    path = Path(__file__).parent / "results" / "loop_probe.json"
    path.write_text(json.dumps({"settings": settings, "ratios": results}, indent=1) + "\n")
    print(path.name)


if __name__ == "__main__":
    main()
