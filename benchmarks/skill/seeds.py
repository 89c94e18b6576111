"""How much do skill and calibration of the fused estimate hang on its seed?

    python benchmarks/skill/seeds.py [yeast digits water mhc2 mhc chemicals]

`coterie benchmark` measures every method with one seed. All real runs of an estimate share their random numbers, so
that the luck of one seed moves the level of a task, and coverage with one seed is one draw. Here the fused estimate is
made with five seeds on every bank: within-task correlation (mean, smallest), share of true values inside the 90 %
interval (mean, smallest, largest), cost in ordinary trainings. Writes benchmarks/results/seeds.json, prints a table.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from banks import opened

from coterie import Context
from coterie.affinity import get_estimator
from coterie.benchmark.bank import make_bank
from coterie.benchmark.measure import measure
from coterie.benchmark.references import references

SEEDS = range(5)
BUDGETS = (15, 50, 150)
BEDS = ("yeast", "digits", "water", "mhc2", "mhc", "chemicals")


def runs_of(name: str) -> dict[int, dict[str, list[float]]]:
    """Correlation, coverage and cost by budget, one number a seed."""
    with opened(name) as (work, plan, store):
        bank = make_bank(work, plan, context=Context(store=store))
    found = references(bank, resamples=0)
    size = round(float(bank.test.subsets.sum(1).mean()))
    result = {}
    for trainings in BUDGETS:
        method = get_estimator("fused", trainings=float(trainings))
        rows = [
            measure(bank, found, method.estimate(work, context=Context(seed=seed), subset_size=size)) for seed in SEEDS
        ]
        result[trainings] = {
            "correlation": [row["pooled"]["mean"] for row in rows],
            "coverage": [row["calibration"]["mean"] for row in rows],
            "trainings": [row["cost"]["trainings"] for row in rows],
            "bases": [row["facts"]["base models"] for row in rows],
        }
        print(line(name, trainings, result[trainings]), flush=True)
    return result


def line(name: str, trainings: int, found: dict[str, list[float]]) -> str:
    """A row of the table."""
    r, inside, cost = (np.array(found[key]) for key in ("correlation", "coverage", "trainings"))
    covered = f"{inside.mean():.0%} ({inside.min():.0%} to {inside.max():.0%})".replace("%", " %")
    return f"| {name} | {trainings} | {r.mean():.2f} | {r.min():.2f} | {covered} | {cost.mean():.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("beds", nargs="*", default=list(BEDS))
    beds = parser.parse_args().beds
    torch.set_num_threads(1)
    print("| bed | trainings | correlation | smallest | inside the 90 % interval | cost |\n|---|---|---|---|---|---|")
    path = Path(__file__).parent.parent / "results" / "seeds.json"
    known = json.loads(path.read_text())["beds"] if path.exists() else {}
    known |= {name: runs_of(name) for name in beds}
    path.write_text(json.dumps({"seeds": list(SEEDS), "beds": known}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
