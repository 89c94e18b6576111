"""Which parts of the estimator matter? One change at a time, held against really trained subsets.

    python benchmarks/skill/ablations.py [yeast chemicals]

Every variant predicts the bank's random subsets, with base models of several seeds in turn; what is shown is the
within-task correlation (pooled / mean over tasks), averaged over these, and the cost in ordinary trainings. The
bank is that of `coterie benchmark`, which goes on from where this script stops, and the other way round. The beds are
those on which constants were chosen. Writes benchmarks/results/ablations.json and prints a table.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from banks import opened

from coterie import Context
from coterie.affinity import get_estimator
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.affinity.linear import PATH, at, chosen, path_values
from coterie.evaluation.bank import train_subsets
from coterie.evaluation.skill import mean_by_task, within_task

SEEDS = (0, 20)
VARIANTS = {
    "the default, 4 bases": {},
    "1 base": {"bases": 1},
    "2 bases": {"bases": 2},
    "8 bases": {"bases": 8},
    "gradients along the same directions": {"directions": "task-vectors"},
    "the same, ridge matched to real moves": {"directions": "task-vectors", "ridge": "matched"},
    "gradients along task gradients": {"directions": "task-gradients"},
    "gradients along 200 random directions": {"directions": "random"},
    "one ridge by kind of loss": {"ridge": "by-loss"},
    "fitted to the optimum": {"fit": "converged"},
    "forks half as long": {"fork": 0.05},
    "forks twice as long": {"fork": 0.2},
    "bases with 5 % of the drop left": {"share": 0.05},
    "bases with 20 % of the drop left": {"share": 0.2},
    "bases with 30 % of the drop left": {"share": 0.3},
    "early-stopped bases": {"share": 0.0},
}


def halves(model: GradTAEModel, subsets: np.ndarray) -> dict[str, np.ndarray]:
    """The two fits that the default averages: each subset's own ridge, and the typical one."""
    own, typical = [], []
    place = np.interp(-np.log(model.ridge), -np.log(PATH), np.arange(len(PATH)))
    for base in model.bases:
        along = path_values(base, subsets, PATH)
        own.append(at(along, chosen(along)))
        typical.append(at(along, np.full(len(subsets), place)))
    return {"each subset's own ridge only": np.mean(own, 0), "the typical ridge only": np.mean(typical, 0)}


def measure(name: str) -> dict[str, list[float]]:
    with opened(name) as (work, plan, store):
        subsets = plan.draw(work.n_tasks)["test"]
        bank = train_subsets(work, subsets, plan.replicates, name="subsets", context=Context(store=store))
    size = round(float(subsets.sum(1).mean()))
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in SEEDS:
        for label, changes in VARIANTS.items():
            estimate = get_estimator("secants", **changes).estimate(work, context=Context(seed=seed), subset_size=size)
            model, cost = estimate.model, estimate.costs.flops / bank.run_flops
            predictions = {label: model.predict_values(subsets)}
            if not changes:
                predictions |= halves(model, subsets)
            for key, values in predictions.items():
                skill = float(within_task(values, bank.truth)[0]), float(mean_by_task(values, bank.truth)[0])
                found.setdefault(key, []).append((*skill, cost))
            print(f"  {name} seed {seed} {label}", flush=True)
    return {label: np.mean(rows, 0).tolist() for label, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("beds", nargs="*", default=["yeast", "chemicals"])
    beds = parser.parse_args().beds
    torch.set_num_threads(1)
    results = {name: measure(name) for name in beds}
    path = Path(__file__).parent.parent / "results" / "ablations.json"
    path.write_text(json.dumps({"seeds": SEEDS, "beds": results}, indent=1) + "\n")
    print("\n| | " + " | ".join(beds) + " |")
    print("|---" * (len(beds) + 1) + "|")
    for label in results[beds[0]]:
        cells = ["{:.2f} / {:.2f} ({:.0f})".format(*results[name][label]) for name in beds]
        print(f"| {label} | " + " | ".join(cells) + " |")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
