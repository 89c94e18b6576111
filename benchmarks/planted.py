"""Do the methods of grouping find planted groups again?

    python benchmarks/planted.py [--n 50 100 200 400] [--seeds 20] [--fresh] [--only-figure]

Affinity 1 within groups and 0 between them, plus independent noise, symmetrised; the diagonal is 0, as for gains. The
noise is stated as a share of the level sqrt(2 n) / k at which the eigenvalues of the noise reach those of n/k equal
groups. Groups are equal, or fall geometrically from the largest to one an eighth as large. Every method is told the
number of groups and sees the same matrices. Adjusted Rand index: 1 for the planted groups, 0 for chance.

Writes benchmarks/results/planted.json after every seed, and docs/figures/planted.png; finished seeds are kept, so a run
that was stopped goes on. Exits with an error if the mean over seeds of `sdp` is below that of `spectral` by more than
0.02 in a cell.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from coterie.grouping import adjusted_rand, solve_sdp
from coterie.grouping.objective import improve, sum_of_densities
from coterie.grouping.peers.agglomerative import agglomerative_labels
from coterie.grouping.peers.leiden import leiden_partition
from coterie.grouping.rounding import round_kmeans, round_solution
from coterie.grouping.spectral import spectral_labels

SIZES, COUNTS, NOISE, SHAPES = (50, 100, 200, 400), (3, 5, 10), (0.3, 0.5, 0.65, 0.8), ("balanced", "unbalanced")
METHODS = ("sdp", "sdp-kmeans", "spectral", "spectral-swap", "agglomerative", "leiden")
HERE = Path(__file__).resolve().parent
RESULT, FIGURE = HERE / "results" / "planted.json", HERE.parent / "docs" / "figures" / "planted.png"
MARGIN = 0.02


def group_sizes(n, k, shape):
    """Sizes of the planted groups, at least two each."""
    share = np.ones(k) if shape == "balanced" else 8.0 ** (-np.arange(k) / (k - 1))
    sizes = np.maximum(np.floor(n * share / share.sum()).astype(int), 2)
    for i in range(n - sizes.sum()):
        sizes[i % k] += 1
    sizes[0] -= max(sizes.sum() - n, 0)
    return sizes


def planted(n, k, noise, shape, seed):
    """A noisy matrix and its planted labels."""
    rng = np.random.default_rng((n, k, round(1000 * noise), SHAPES.index(shape), seed))
    truth = rng.permutation(np.repeat(np.arange(k), group_sizes(n, k, shape)))
    draw = noise * np.sqrt(2 * n) / k * rng.normal(size=(n, n))
    matrix = (truth[:, None] == truth[None, :]) + (draw + draw.T) / 2
    np.fill_diagonal(matrix, 0.0)
    return matrix, truth


def every_method(matrix, k, seed):
    """Labels of each method, and the seconds it took."""
    found, seconds = {}, {}

    def timed(name, call):
        start = time.process_time()
        found[name] = call()
        seconds[name] = time.process_time() - start

    timed("spectral", lambda: spectral_labels(matrix, k, seed=seed))
    timed("spectral-swap", lambda: improve(matrix, found["spectral"]))
    timed("agglomerative", lambda: agglomerative_labels(matrix, k))
    timed("leiden", lambda: leiden_partition(matrix, k, seed=seed).labels)
    start = time.process_time()
    solution = solve_sdp(matrix, k)
    solving = time.process_time() - start
    timed("sdp-kmeans", lambda: round_kmeans(solution.X, k, seed))
    timed("sdp", lambda: round_solution(solution.X, matrix, k, seed=seed))
    seconds["sdp"] += solving
    seconds["sdp-kmeans"] += solving
    return found, seconds, solution.bound


def empty_cell(n, k, noise, shape):
    """One point of the grid, before the first seed."""
    lists = {name: [] for name in (*METHODS, "truth")}
    own = {"index": METHODS, "seconds": METHODS, "gap": lists}
    return {"n": n, "k": k, "noise": noise, "shape": shape, **{what: {m: [] for m in own[what]} for what in own}}


def add_seed(cell):
    """Measure one more seed: index, seconds, and the share of the bound that the sum of densities falls short of it."""
    n, k, noise, shape = (cell[name] for name in ("n", "k", "noise", "shape"))
    seed = len(cell["index"]["sdp"])
    matrix, truth = planted(n, k, noise, shape, seed)
    found, took, bound = every_method(matrix, k, seed)
    for name in METHODS:
        cell["index"][name].append(round(adjusted_rand(truth, found[name]), 4))
        cell["seconds"][name].append(round(took[name], 4))
    for name, labels in {**found, "truth": truth}.items():
        cell["gap"][name].append(round((bound - sum_of_densities(matrix, labels)) / bound, 5))


def table(cells):
    """Print the grid; return how much the worst cell is below spectral clustering."""
    print(f"{'n':>4} {'k':>3} {'noise':>5} {'shape':10}", *(f"{name:>13}" for name in METHODS))
    worst = np.inf
    for one in cells:
        means = {name: float(np.mean(one["index"][name])) for name in METHODS}
        worst = min(worst, means["sdp"] - means["spectral"])
        head = f"{one['n']:4d} {one['k']:3d} {one['noise']:5.2f} {one['shape']:10}"
        print(head, *(f"{means[name]:13.3f}" for name in METHODS))
    for shape in SHAPES:
        chosen = [one for one in cells if one["shape"] == shape]
        means = {name: np.mean([np.mean(one["index"][name]) for one in chosen]) for name in METHODS}
        print(f"{'mean of ' + shape:25}", *(f"{means[name]:13.3f}" for name in METHODS))
    print(f"least difference between sdp and spectral in a cell: {worst:+.4f}")
    return worst


def draw(cells):
    """One panel for each size and shape and number of groups: index against noise."""
    from matplotlib.figure import Figure

    styles = {
        "sdp": ("#0072B2", "o", "SDP"),
        "spectral": ("#D55E00", "s", "spectral"),
        "leiden": ("#009E73", "^", "Leiden"),
        "agglomerative": ("#777777", "v", "agglomerative"),
    }
    sizes = sorted({one["n"] for one in cells})
    rows = [(shape, k) for shape in SHAPES for k in COUNTS]
    figure = Figure(figsize=(2.5 * len(sizes) + 1, 1.75 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(sizes), sharex=True, sharey=True, squeeze=False)
    for row, (shape, k) in enumerate(rows):
        for column, n in enumerate(sizes):
            ax, chosen = axes[row, column], [o for o in cells if (o["n"], o["k"], o["shape"]) == (n, k, shape)]
            for name, (colour, marker, label) in styles.items():
                values = np.array([one["index"][name] for one in chosen])
                error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1]) if values.shape[1] > 1 else None
                noise = [one["noise"] for one in chosen]
                ax.errorbar(
                    noise, values.mean(axis=1), error, color=colour, marker=marker, ms=4, lw=1.3, capsize=2, label=label
                )
            ax.grid(alpha=0.3)
            ax.set_xticks(NOISE)
            ax.set_ylim(-0.05, 1.05)
            if row == 0:
                ax.set_title(f"{n} tasks", fontsize=10)
            if column == 0:
                ax.set_ylabel(f"{shape}\n{k} groups", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(styles), frameon=False)
    figure.supxlabel("noise, as a share of the level at which equal groups drown", fontsize=10)
    figure.supylabel("adjusted Rand index with the planted groups", fontsize=10)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def finished():
    """Cells that were measured before."""
    return json.loads(RESULT.read_text())["cells"] if RESULT.exists() else []


def write(cells):
    """Replace the cells of one size; one line a cell."""
    others = [one for one in finished() if one["n"] != cells[0]["n"]]
    every = sorted(others + cells, key=lambda one: (one["n"], SHAPES.index(one["shape"]), one["k"], one["noise"]))
    lines = ",\n  ".join(json.dumps(one) for one in every)
    RESULT.write_text(f'{{"margin": {MARGIN}, "cells": [\n  {lines}\n]}}\n')


def measure(n, seeds, fresh):
    """Every cell of one size, seed by seed; what is there already stays, unless it is to be measured afresh."""
    cells = [] if fresh else [one for one in finished() if one["n"] == n]
    cells = cells or [empty_cell(n, k, noise, shape) for shape in SHAPES for k in COUNTS for noise in NOISE]
    while len(cells[0]["index"]["sdp"]) < seeds:
        for cell in cells:
            add_seed(cell)
        write(cells)
        print(f"{n} tasks: {len(cells[0]['index']['sdp'])} seeds", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seeds", type=int, help="default: 10, and 20 for 50 tasks")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--only-figure", action="store_true")
    options = parser.parse_args()
    for n in [] if options.only_figure else options.n:
        measure(n, options.seeds or max(10, 1000 // n), options.fresh)
    cells = finished()
    worst = table(cells)
    draw(cells)
    if worst < -MARGIN:
        raise SystemExit(f"In one cell, sdp is {-worst:.3f} below spectral clustering.")


if __name__ == "__main__":
    main()
