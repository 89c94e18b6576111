"""How well mixtures are ranked from the results of k runs, replayed on published runs; and whether asking pays.

``predict``: RegMix (k of 512 runs of 1M parameters; 256 other mixtures of the same size and 64 models of 1B are the
truth) and Olmix (k of 127 mixtures of DCLM's topics; the others are the truth), mean over targets of the rank
correlation, mean and standard deviation over draws of the runs, and seconds of a fit. ``sizes``: the 1B models from k
of their own runs, with and without 64 runs of 1M, and with 64 of which the losses are shuffled. ``reuse``: Olmix after
its partitions had changed, from k new runs with and without the runs on DCLM's topics, which share names and not texts.
``active``: the loss of the mixture that is recommended after 40 runs, asked for in batches of 8 or random, where runs
are emulated: the mean of a process fit on all runs of a table, plus the luck of a run (half the error of that fit at
runs that are left out). The study itself looks at the process without trees, in both cases, for speed.

    python benchmarks/mixtures.py [predict|sizes|reuse|active] [--draws 3]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from coterie import truth
from coterie.study.mixtures.average import EarlierRuns, MixtureProcess
from coterie.study.mixtures.design import next_mixtures
from coterie.study.mixtures.limits import drawn
from coterie.study.mixtures.objective import MixtureAim, pool, smallest
from coterie.study.mixtures.predictors import MIXTURE_PREDICTORS, find_mixture_predictor
from coterie.study.mixtures.results import MixtureResults
from coterie.study.mixtures.view import MixtureView

RESULTS = Path(__file__).parent / "results"
#: topic of the later partitions -> the topic of DCLM that has this name
TOPICS = {
    "adult": "adult_content", "art_design": "art_and_design", "crime_law": "crime_and_law",
    "education_jobs": "education_and_jobs", "entertainment": "entertainment", "fashion_beauty": "fashion_and_beauty",
    "finance_business": "finance_and_business", "food_dining": "food_and_dining", "games": "games", "health": "health",
    "home_hobbies": "home_and_hobbies", "industrial": "industrial", "literature": "literature", "politics": "politics",
    "religion": "religion", "science_tech": "science_math_and_technology", "software": "software",
    "software_dev": "software_development", "sports_fitness": "sports_and_fitness",
    "transportation": "transportation", "travel": "travel_and_tourism",
}  # fmt: skip


def rank(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over targets of the rank correlation; 0 for what is the same everywhere."""
    pairs = zip(found.T, wanted.T, strict=True)
    return float(np.mean([spearmanr(a, b)[0] if np.ptp(a) > 0 else 0.0 for a, b in pairs]))


def some(table: truth.tables.Mixtures, rows: np.ndarray) -> MixtureResults:
    return MixtureResults.of(table.domains, table.metrics, table.proportions[rows], table.values[rows])


def regmix(k: int, draws: int) -> Iterator[tuple[MixtureResults, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Runs, and the mixtures and values that they should predict."""
    runs = truth.load("regmix-1m")
    tests = {name: truth.load(f"regmix-{name}-test") for name in ("1m", "1b")}
    for draw in range(draws):
        rows = np.random.default_rng([draw, k]).permutation(len(runs.values))[:k]
        yield some(runs, rows), {name: (test.proportions, test.values) for name, test in tests.items()}


def olmix(k: int, draws: int) -> Iterator[tuple[MixtureResults, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    runs = truth.load("olmix-dclm")
    for draw in range(draws):
        order = np.random.default_rng([draw, k]).permutation(len(runs.values))
        rest = order[k:]
        yield some(runs, order[:k]), {"others": (runs.proportions[rest], runs.values[rest])}


def predict(draws: int) -> list[dict]:
    """Every predictor on every table."""
    cases = [("RegMix", regmix, k) for k in (32, 64, 512)] + [("Olmix DCLM", olmix, k) for k in (32, 64, 96)]
    rows = []
    for table, replayed, k in cases:
        for name in MIXTURE_PREDICTORS:
            skill: dict[str, list[float]] = {}
            seconds = []
            for results, tests in replayed(k, 1 if k == 512 else draws):
                start = time.perf_counter()
                posterior = find_mixture_predictor(name).fit(results)
                seconds.append(time.perf_counter() - start)
                for test, (shares, values) in tests.items():
                    skill.setdefault(test, []).append(rank(posterior.mean(shares), values))
            row = {"table": table, "runs": k, "predictor": name, "seconds": float(np.mean(seconds))}
            row |= {test: [float(np.mean(found)), float(np.std(found))] for test, found in skill.items()}
            rows.append(row)
            shown = ", ".join(f"{test} {np.mean(found):.4f} +- {np.std(found):.4f}" for test, found in skill.items())
            print(f"{table} {k} {name}: {shown} ({row['seconds']:.1f} s)", flush=True)
    return rows


def sizes(draws: int) -> list[dict]:
    """Models of 1B from few runs of their own and runs of 1M."""
    large, small = truth.load("regmix-1b-test"), truth.load("regmix-1m")
    rows = []
    for k in (8, 16, 32):
        for kind in ("alone", "with 1M", "with shuffled 1M"):
            found = []
            for draw in range(draws):
                rng = np.random.default_rng(draw)
                order, others = rng.permutation(64), rng.permutation(512)[:64]
                test = order[32:]
                results = some(large, order[:k])
                if kind != "alone":
                    told = small.values[rng.permutation(others) if "shuffled" in kind else others]
                    results = replace(
                        results,
                        shares=np.concatenate([results.shares, small.proportions[others]]),
                        losses=np.concatenate([results.losses, told]),
                        seeds=np.full(k + 64, -1),
                        sizes=("",) * k + ("1M",) * 64,
                        costs=np.ones(k + 64),
                    )
                found.append(rank(MixtureProcess().fit(results).mean(large.proportions[test]), large.values[test]))
            rows.append({"own": k, "kind": kind, "rank": float(np.mean(found)), "sd": float(np.std(found))})
            print(f"1B from {k} runs {kind}: {np.mean(found):.4f} +- {np.std(found):.4f}", flush=True)
    return rows


def reuse(draws: int) -> list[dict]:
    """New partitions from new runs, with and without runs of before."""
    then, now = truth.load("olmix-dclm"), truth.load("olmix-reuse")
    before = EarlierRuns(some(then, np.arange(len(then.values))), {f"s2pdfv1:{a}": {b: 1.0} for a, b in TOPICS.items()})
    rows = []
    for k in (15, 30, 45):
        for kind, earlier in (("alone", ()), ("with DCLM", (before,))):
            found = []
            for draw in range(draws):
                order = np.random.default_rng(draw).permutation(64)
                test = order[45:]
                posterior = MixtureProcess(earlier=earlier).fit(some(now, order[:k]))
                found.append(rank(posterior.mean(now.proportions[test]), now.values[test]))
            rows.append({"new": k, "kind": kind, "rank": float(np.mean(found)), "sd": float(np.std(found))})
            print(f"new partitions from {k} runs {kind}: {np.mean(found):.4f} +- {np.std(found):.4f}", flush=True)
    return rows


@dataclass(frozen=True, eq=False)
class Emulated:
    """Runs of any mixture, emulated by a fit on all runs of a table; the objective is the mean of all targets.

    Attributes:
        table: the published runs.
        aim: the mean of all targets; the natural mixture is the mean of the published ones.
        fit: (mixtures, sources) -> (mixtures, targets) losses without luck.
        luck: (targets,) standard deviations of a run.
    """

    table: truth.tables.Mixtures
    aim: MixtureAim
    fit: Callable[[np.ndarray], np.ndarray]
    luck: np.ndarray

    @staticmethod
    def of(name: str) -> Emulated:
        """After a fit on all runs of a table."""
        table = truth.load(name)
        natural, sources, targets = table.proportions.mean(0), len(table.domains), len(table.metrics)
        fit = MixtureProcess(trees=False).fit(some(table, np.arange(len(table.values))))
        weights = np.full(targets, 1 / targets)
        aim = MixtureAim(weights, np.zeros(sources), np.ones(sources), natural / natural.sum())
        return Emulated(table, aim, fit.mean, 0.5 * (fit.left_out - table.values).std(0))

    def loss(self, shares: np.ndarray) -> np.ndarray:
        """(mixtures,) mean of all targets, without luck."""
        return self.fit(shares) @ self.aim.weights

    def told(self, shares: np.ndarray, rng: np.random.Generator) -> MixtureResults:
        """Runs with their luck."""
        values = self.fit(shares) + rng.standard_normal((len(shares), len(self.luck))) * self.luck
        return MixtureResults.of(self.table.domains, self.table.metrics, shares, values)

    def best_known(self) -> float:
        """The smallest loss that a search finds from all published runs and 2,000 random mixtures."""
        everything = some(self.table, np.arange(len(self.table.values)))
        rows = np.concatenate([self.table.proportions, pool(self.aim, everything, np.random.default_rng(0), 2000)])
        return float(self.loss(smallest(self.loss, rows, self.aim, np.random.default_rng(1))).min())

    def recommended(self, runs: int, draw: int, *, asked: bool) -> float:
        """Loss of the mixture that is recommended after some runs."""
        rng, aim = np.random.default_rng([draw, 7]), self.aim
        first = 0 if asked else runs
        told = self.told(drawn(aim.natural, aim.low, aim.high, first, np.random.default_rng(draw)), rng)
        written = None
        while (left := runs - len(told.losses)) > 0:
            usual = MixtureProcess(trees=False)
            found = next_mixtures(told, aim, min(8, left), predictor=usual, seed=draw, confirmation=written)
            written = found.confirmation  # fresh seeds that confirm a choice are among the runs, as in a study
            new = self.told(np.stack([run.shares for run in found.runs])[:left], rng)
            told = replace(
                told,
                shares=np.concatenate([told.shares, new.shares]),
                losses=np.concatenate([told.losses, new.losses]),
                seeds=np.concatenate([told.seeds, [run.seed for run in found.runs[:left]]]),
                sizes=told.sizes + new.sizes,
                costs=np.concatenate([told.costs, new.costs]),
            )
        return float(self.loss(MixtureView.of(told, aim, MixtureProcess(trees=False)).best[None])[0])


def active(draws: int) -> list[dict]:
    """Runs that are asked for against random ones, on emulated runs; lower is better."""
    rows = []
    for name in ("regmix-1m", "olmix-dclm"):
        runs = Emulated.of(name)
        row = {"table": name, "runs": 40, "draws": draws, "best known": runs.best_known()}
        row["best published run"] = float(runs.loss(runs.table.proportions).min())
        row["natural"] = float(runs.loss(runs.aim.natural[None])[0])
        for kind in ("asked", "random"):
            found = [runs.recommended(40, draw, asked=kind == "asked") for draw in range(draws)]
            row |= {kind: float(np.mean(found)), f"{kind} sd": float(np.std(found)), f"{kind} draws": found}
        rows.append(row)
        print(row, flush=True)
    return rows


PARTS: dict[str, Callable[[int], list[dict]]] = {"predict": predict, "sizes": sizes, "reuse": reuse, "active": active}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in PARTS if arguments.part == "all" else [arguments.part]:
        found = PARTS[name](arguments.draws)
        (RESULTS / f"mixtures_{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
