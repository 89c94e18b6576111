"""Which methods of balancing reach the Pareto front of two conflicting, non-convex objectives, from five starts?

    python benchmarks/balancing_toy.py [--steps 5000] [--only-figure]

The toy problem of the literature on multi-objective training (introduced with CAGrad; used by Nash-MTL and FAMO): two
parameters, two objectives with narrow valleys above x2 = 0 and two bowls below it, whose Pareto front lies near
x2 = -8 for x1 between -7 and 7. Adam with learning rate 0.02 (published runs take 0.001 and many more steps). For
methods on the logarithm, objectives are measured from -21, which is below the least value, -20.

The front is found on a fine grid of parameters, as the points that no other point beats. The distance of a final point
is that of its two objectives from the nearest point of the front; "reached" means below 0.1, where objectives range
over about 20.

Writes benchmarks/results/balancing_toy.json and docs/figures/balancing-toy.png.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from coterie.balancing import get_balancer
from coterie.balancing.methods import WEIGHTINGS

STARTS = ((-8.5, 7.5), (-8.5, 5.0), (0.0, 0.0), (9.0, 9.0), (10.0, -8.0))
FLOOR = -21.0
METHODS = {
    "equal": ("equal", {}),
    "MGDA": ("mgda", {"chunk": 1}),
    "PCGrad": ("pcgrad", {"chunk": 1}),
    "CAGrad": ("cagrad", {"c": 0.4, "chunk": 1}),
    "FAMO": ("famo", {"floor": FLOOR}),
    "MARIGOLD, log": ("marigold", {"every": 1, "floor": FLOOR}),
    "MARIGOLD, identity": ("marigold", {"every": 1, "phi": "identity", "form": "simplex"}),
    "MARIGOLD, next": ("marigold-next", {"floor": FLOOR}),
}
HERE = Path(__file__).resolve().parent
RESULT, FIGURE = HERE / "results" / "balancing_toy.json", HERE.parent / "docs" / "figures" / "balancing-toy.png"


def objectives(x):
    """(..., 2) objectives of (..., 2) parameters."""
    a, b = x[..., 0], x[..., 1]
    least = 0.000005
    valleys = torch.stack(
        [
            (0.5 * (-a - 7) - torch.tanh(-b)).abs().clamp(min=least).log() + 6,
            (0.5 * (-a + 3) + torch.tanh(-b) + 2).abs().clamp(min=least).log() + 6,
        ],
        -1,
    )
    bowls = torch.stack([((sign * 7 - a).square() + 0.1 * (b + 8).square()) / 10 - 20 for sign in (1, -1)], -1)
    above, below = torch.tanh(b / 2).clamp(min=0)[..., None], torch.tanh(-b / 2).clamp(min=0)[..., None]
    return valleys * above + bowls * below


def front():
    """Objectives of the points on a fine grid that no other point of it beats, sorted by the first."""
    a, b = torch.meshgrid(torch.linspace(-8, 8, 801), torch.linspace(-10, -7, 301), indexing="ij")
    values = objectives(torch.stack([a, b], -1).double()).reshape(-1, 2).numpy()
    values = values[np.lexsort((values[:, 1], values[:, 0]))]
    best = np.minimum.accumulate(values[:, 1])
    return values[np.append(True, values[1:, 1] < best[:-1])]


def trajectories(name, options, steps):
    """(starts, steps + 1, 2) parameters; methods that weight losses train all starts at once."""
    torch.manual_seed(0)
    together = name in WEIGHTINGS
    paths = []
    for starts in [STARTS] if together else [[start] for start in STARTS]:
        x = torch.tensor(starts).requires_grad_()
        optimizer = torch.optim.Adam([x], lr=0.02)
        balancer = get_balancer(name, 2, members=len(starts) if together else None, **options)
        path = [x.detach().clone()]
        for _ in range(steps):
            balancer.step(lambda x=x: objectives(x) if together else objectives(x)[0], optimizer)
            path.append(x.detach().clone())
        paths.append(torch.stack(path, 1))
    return torch.cat(paths)


def measure(steps):
    pareto = front()
    rows = {}
    for label, (name, options) in METHODS.items():
        paths = trajectories(name, options, steps)
        ends = objectives(paths[:, -1].double()).numpy()
        distance = np.sqrt(((ends[:, None] - pareto[None]) ** 2).sum(-1)).min(1)
        rows[label] = {
            "distance": distance.round(4).tolist(),
            "objectives": ends.round(3).tolist(),
            "paths": paths[:, :: max(1, steps // 250)].double().numpy().round(2).tolist(),
        }
        print(
            f"{label:20s} reached {int((distance < 0.1).sum())} of {len(STARTS)}; distance",
            *(f"{d:.3f}" for d in distance),
            " end",
            *(f"({f[0]:.1f}, {f[1]:.1f})" for f in ends),
            flush=True,
        )
    return rows, pareto


def draw(rows):
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    a, b = torch.meshgrid(torch.linspace(-11, 11, 300), torch.linspace(-11, 11, 300), indexing="ij")
    mean = objectives(torch.stack([a, b], -1)).mean(-1).numpy()
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.8), sharex=True, sharey=True, layout="constrained")
    colours = ("#b03060", "#2f6db5", "#2e8b57", "#b8860b", "#6a4fa3")
    for ax, label in zip(axes.flat, rows, strict=True):
        row = rows[label]
        ax.contour(a.numpy(), b.numpy(), mean, levels=14, colors="#cccccc", linewidths=0.6)
        ax.plot([-7, 7], [-8.35, -8.35], color="#222222", linewidth=4, alpha=0.35, solid_capstyle="butt")
        for path, distance, colour in zip(row["paths"], row["distance"], colours, strict=True):
            points = np.array(path)
            ax.plot(points[:, 0], points[:, 1], color=colour, linewidth=1.2)
            ax.plot(*points[0], "o", color=colour, markersize=4)
            ax.plot(*points[-1], "*" if distance < 0.1 else "X", color=colour, markersize=9, markeredgecolor="white")
        reached = sum(distance < 0.1 for distance in row["distance"])
        ax.set_title(f"{label}: {reached} of {len(row['distance'])}", fontsize=10)
        ax.set(xlim=(-11, 11), ylim=(-11, 11), xticks=[-10, 0, 10], yticks=[-10, 0, 10])
    figure.supxlabel("x1    (dots: starts; stars: on the front; crosses: not; grey bar: the front)", fontsize=9)
    figure.supylabel("x2", fontsize=9)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--only-figure", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only_figure:
        rows = json.loads(RESULT.read_text())["methods"]
    else:
        rows, pareto = measure(arguments.steps)
        RESULT.parent.mkdir(exist_ok=True)
        ends = {"front from": pareto[0].round(3).tolist(), "front to": pareto[-1].round(3).tolist()}
        RESULT.write_text(json.dumps({"steps": arguments.steps, "starts": STARTS, **ends, "methods": rows}) + "\n")
    draw(rows)


if __name__ == "__main__":
    main()
