"""What the projection and the offset do to the estimate, on a model that is linear in its parameters.

Every subset of up to three of six logistic tasks is really retrained; the estimate should equal it. Writes
docs/figures/offset.svg and benchmarks/results/offset.json. Run: ``python benchmarks/offset.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from reference.linear_bed import WIDTH, Bed, mean_error, rademacher  # noqa: E402

DIRECTIONS = (2, 4, 8, 16, 32, 64, 128, 256)
SEEDS = 8


def measure() -> dict[str, object]:
    bed = Bed()
    truth = bed.truth()
    result: dict[str, object] = {"directions": DIRECTIONS, "parameters": WIDTH, "seeds": SEEDS}
    for name, offset in (("with offset", True), ("without offset", False)):
        errors = [
            [mean_error(bed.estimate(rademacher(d, seed), offset=offset), truth) for seed in range(SEEDS)]
            for d in DIRECTIONS
        ]
        exact = mean_error(bed.estimate(np.eye(WIDTH), offset=offset), truth)
        result[name] = {"projected": errors, "no projection": exact}
        print(f"{name}: " + ", ".join(f"d={d} {np.mean(e):.4f}" for d, e in zip(DIRECTIONS, errors, strict=True)))
        print(f"{name}, no projection: {exact:.1e}")
    return result


def draw(result: dict[str, object], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "coterie"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, colour), marker in zip((("with offset", "#2166ac"), ("without offset", "#b2182b")), "os", strict=True):
        errors = np.array(result[name]["projected"])
        axes.plot(DIRECTIONS, errors.mean(1), marker=marker, color=colour, label=name)
        axes.fill_between(DIRECTIONS, errors.min(1), errors.max(1), color=colour, alpha=0.15, linewidth=0)
    limit = result["without offset"]["no projection"]
    axes.axhline(limit, color="#b2182b", linestyle=":", linewidth=1.2, label="without offset, no projection")
    axes.set(xscale="log", yscale="log", xlabel="random directions d", ylabel="error of the values (r.m.s., nats)")
    axes.set_xticks(DIRECTIONS, [str(d) for d in DIRECTIONS], minor=False)
    axes.minorticks_off()
    exact = result["with offset"]["no projection"]
    axes.set_title(f"Estimated against retrained values; with offset and no projection: {exact:.0e}", fontsize=10)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    result = measure()
    out = ROOT / "benchmarks" / "results" / "offset.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1))
    draw(result, ROOT / "docs" / "figures" / "offset.svg")


if __name__ == "__main__":
    main()
