"""Replayed decisions: what the groups that a study recommends after some runs miss of the best groups.

``python benchmarks/study_decisions.py --banks DIR`` buys runs from tables in which every subset was really trained,
and from simulated ones. A bank is an .npz with `subsets` (m, tasks) and `values` (seeds, m, tasks), NaN outside of a
subset: the first half of the seeds can be bought, the mean of the other half is the truth. After 30 and 60 runs the
predictor chooses 2, 3 or 5 models, and the regret is the mean gain over one model that the best choice has beyond this
one, in the truth. Compared are the active design (`next_runs`, three runs at a time), random subsets with the same
predictor (mean of three draws), and averages of pairs after all pairs were run once.

Result (30 November 2026): all 255 subsets of 8 tasks of three data sets, three seeds to buy and three as the truth,
mean over 2, 3 and 5 models, one replay of the design each:

    regret, %          best gain   active 30 / 60   random 30 / 60   pairs (37 runs)
    yeast                1.5-2.4     0.99 / 0.54      0.72 / 0.86     1.02
    digits               0.8-1.5     1.33 / 1.45      1.70 / 1.49     2.27
    water                13-19       8.56 / 8.93      9.51 / 8.89    10.67
    mean                             3.63 / 3.64      3.98 / 3.75     4.65

The lead over random subsets is small and within the luck of one replay. The mean of three seeds is a rough truth: noise
is 0.8 % of a loss on yeast, 1.2 % on digits and 10 % on water, so part of every regret is luck of the truth.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coterie.study.design import next_runs
from coterie.study.predictors import find_predictor
from coterie.study.results import Floats, Mask, Results, ValuePredictor
from coterie.study.served_models import ServingLimits, choose_models
from coterie.study.study_view import Aim, StudyView, fit_values
from coterie.study.subset_rules import all_subsets

MARKS, MODELS = (30, 60), (2, 3, 5)
#: a study that never thinks that it has enough
ON = 1e-7


@dataclass(frozen=True, eq=False)
class RunBank:
    """Runs of every subset.

    Attributes:
        name: of the bank.
        subsets: (m, tasks), every subset once.
        runs: (seeds, m, tasks) losses that can be bought.
        truth: (m, tasks) expected losses.
    """

    name: str
    subsets: Mask
    runs: Floats
    truth: Floats

    def row(self, trained: Mask) -> int:
        """The row of a subset."""
        return int(np.flatnonzero((self.subsets == trained).all(axis=1))[0])

    def results(self, rows: list[int], seeds: list[int]) -> Results:
        """What was bought; seeds beyond those of the bank start again."""
        tasks = tuple(f"t{i}" for i in range(self.subsets.shape[1]))
        bought = np.array(rows, dtype=np.int64)
        losses = self.runs[np.array(seeds, dtype=np.int64) % len(self.runs), bought]
        found = Results.of(tasks, self.subsets[bought], losses)
        return replace(found, seeds=np.array(seeds, dtype=np.int64))

    def regret(self, results: Results, predictor: ValuePredictor, models: int) -> float:
        """What the choice after some runs misses, as a share of the losses of one model."""
        view = StudyView.of(results, Aim(models), fit_values(results, predictor))
        one = self.truth[self.row(np.ones(self.subsets.shape[1], dtype=bool))]
        shares = 1 / (len(one) * np.abs(one))
        best = choose_models(self.truth * shares, np.ones(len(self.subsets)), ServingLimits(models)).total
        rows = [self.row(view.menu.trained[row]) for row in view.chosen.serves]
        return float(sum(self.truth[row, t] * shares[t] for t, row in enumerate(rows)) - best)


def simulated(seed: int, tasks: int = 8, noise: float = 0.02, seeds: int = 4) -> RunBank:
    """Tasks with two hidden traits each, good and bad sources, pairs that do not fit in, and an effect of the size."""
    rng, subsets = np.random.default_rng(seed), all_subsets(tasks)
    traits, quality = rng.normal(size=(tasks, 2)), 0.5 * rng.normal(size=tasks)
    effects = 0.015 * traits @ rng.normal(size=(2, 2)) @ traits.T + 0.02 * quality
    effects += 0.015 * rng.normal(size=(tasks, tasks))
    np.fill_diagonal(effects, 0)
    size = subsets.sum(axis=1)
    sums = subsets @ effects.T / np.sqrt(np.maximum(size - 1, 1))[:, None] ** rng.uniform(0, 1)
    crowd = 0.03 * rng.uniform(0.5, 1.5, tasks) * np.log(size)[:, None] * rng.choice([1, 0.3])
    level = np.exp(0.7 * rng.normal(size=tasks))
    truth = level * np.maximum(1 + sums + crowd, 0.2)
    luck = rng.normal(size=(seeds, *truth.shape)) + 0.3 * rng.normal(size=(seeds, len(subsets), 1))
    return RunBank(
        f"simulated {seed}", subsets, np.where(subsets, truth + noise * level * luck, np.nan),
        np.where(subsets, truth, np.nan),
    )  # fmt: skip


def trained(path: Path) -> RunBank:
    """A bank of trainings."""
    found = np.load(path, allow_pickle=False)
    values: Floats = found["values"]
    half = len(values) // 2
    return RunBank(path.stem, found["subsets"], values[:half], values[half:].mean(axis=0))


def active(bank: RunBank, models: int, seed: int) -> dict[int, Results]:
    """Results after each mark, where every run is the one that the design asks for."""
    rows, seeds, found = list[int](), list[int](), dict[int, Results]()
    aim, predictor = Aim(models, matters=ON), find_predictor("process")
    while len(rows) < max(MARKS):
        for run in next_runs(bank.results(rows, seeds), 3, aim=aim, predictor=predictor, seed=seed).runs:
            rows.append(bank.row(run.trained))
            seeds.append(run.seed)
        found |= {m: bank.results(rows[:m], seeds[:m]) for m in MARKS if m not in found and len(rows) >= m}
    return found


def drawn(bank: RunBank, count: int, rng: np.random.Generator) -> Results:
    """All tasks together and random subsets, each once."""
    one = bank.row(np.ones(bank.subsets.shape[1], dtype=bool))
    rows: NDArray[np.int64] = rng.permutation(len(bank.subsets))
    return bank.results([one, *(int(row) for row in rows if row != one)][:count], [0] * count)


def pairs(bank: RunBank) -> Results:
    """Every pair and every task alone, and all tasks together."""
    size = bank.subsets.sum(axis=1)
    rows = [int(row) for row in np.flatnonzero((size <= 2) | (size == bank.subsets.shape[1]))]
    return bank.results(rows, [0] * len(rows))


def replay(bank: RunBank, number: int) -> Iterator[dict[str, object]]:
    """Regrets of all ways, for every number of models."""
    process, averages = find_predictor("process"), find_predictor("pairs")
    for models in MODELS:
        bought, known = active(bank, models, number), pairs(bank)
        row: dict[str, object] = {"bank": bank.name, "models": models, "pair runs": len(known.losses)}
        row["pairs"] = bank.regret(known, averages, models)
        for mark in MARKS:
            rng = np.random.default_rng([number, mark])
            row[f"active {mark}"] = bank.regret(bought[mark], process, models)
            by_chance = [bank.regret(drawn(bank, mark, rng), process, models) for _ in range(3)]
            row[f"random {mark}"] = float(np.mean(by_chance))
        yield row


def main() -> None:
    """Print a line for every bank and number of models, then means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--banks", type=Path, help="folder of .npz files")
    parser.add_argument("--simulated", type=int, nargs="*", default=[20, 21, 22, 23])
    given = parser.parse_args()
    banks = [trained(path) for path in sorted(given.banks.glob("*.npz"))] if given.banks else []
    banks += [simulated(seed) for seed in given.simulated]
    sums: dict[str, list[float]] = defaultdict(list)
    for number, bank in enumerate(banks):
        for row in replay(bank, number):
            print(json.dumps(row), flush=True)
            for name, value in row.items():
                if isinstance(value, float):
                    sums[name].append(value)
    print({name: f"{100 * np.mean(values):.2f} %" for name, values in sums.items()})


if __name__ == "__main__":
    main()
