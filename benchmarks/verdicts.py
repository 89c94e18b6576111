"""How often each verdict is wrong, with 2 to 10 training seeds.

Part 1 draws comparisons whose truth is known (tests/reference/verdict_bed.py) and lets the whole procedure conclude:
choice among several groupings, mixtures, veto of the test data. Without true differences a "yes" is an error; with one
grouping that is truly 5 % better a "no" is one. Counted beside: how often more than one model is served (undecided runs
serve their best guess), and the regret of what is served. Part 2 draws means of a few seeds and many examples, and asks
how often their 95 % interval misses the truth: the interval that is built, and one t quantile with the degrees of
freedom of Welch and Satterthwaite. Writes benchmarks/results/verdicts.json. Run: ``python benchmarks/verdicts.py``
(some ten minutes of one core); ``--draws 50`` is a quick look.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from coterie.evaluation import Comparison  # noqa: E402
from coterie.evaluation.intervals import Noise, Spread  # noqa: E402
from coterie.evaluation.recommend import conclude  # noqa: E402
from reference.verdict_bed import draw  # noqa: E402

SEEDS = tuple(range(2, 11))
#: (luck of trainings, its standard deviation, labels of a task)
WORLDS = (("normal", 0.02, 60), ("heavy", 0.02, 60), ("failures", 0.02, 60), ("normal", 0.003, 600))
GAINS = (0.0, 0.05)
FREEDOM = 40


def regret(comparison: Comparison, served: str, gain: float) -> float:
    """True log loss of what is served over that of the best, with the first grouping `gain` better than all else."""
    # tasks of a mixture that are still served by the better grouping keep its gain
    better = comparison.groupings[1]
    groups = {tuple(sorted(group)) for group in better.groups}
    chosen = comparison.groupings[comparison.index(served)]
    share = np.mean([tuple(sorted(chosen.groups[server])) in groups for server in chosen.serves])
    return float(np.log1p(-gain) * (share - 1))


def verdicts(draws: int) -> list[dict[str, Any]]:
    """Part 1."""
    rows: list[dict[str, Any]] = []
    for tail, luck, labels in WORLDS:
        for gain in GAINS:
            for seeds in SEEDS:
                start, counts, lost, several = time.process_time(), Counter[str](), 0.0, 0
                for number in range(draws):
                    rng = np.random.default_rng((number, seeds))
                    drawn = draw(rng, seeds, gain=gain, tail=tail, luck=luck, labels=labels)
                    comparison, advice = conclude(drawn)
                    counts[advice.verdict] += 1
                    several += advice.models > 1
                    lost += regret(comparison, advice.candidate, gain) / draws
                rates = {verdict: counts[verdict] / draws for verdict in ("yes", "no", "undecided")}
                used = time.process_time() - start
                rows.append({"luck": tail, "size": luck, "labels": labels, "gain": gain, "seeds": seeds, **rates})
                rows[-1] |= {"wrong": rates["no" if gain else "yes"], "several": several / draws, "regret": lost}
                rows[-1]["cpu_seconds"] = used
                print(
                    f"{tail:8} luck {luck:.3f}, {labels:3} labels, true gain {gain:.0%}, {seeds:2} seeds: "
                    + ", ".join(f"{verdict} {rate:.3f}" for verdict, rate in rates.items())
                    + f"; several models {several / draws:.3f}, regret {lost:.4f}; {1e3 * used / draws:.0f} ms",
                    flush=True,
                )
    return rows


def intervals(draws: int) -> list[dict[str, Any]]:
    """Part 2."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for seeds in SEEDS:
        for ratio in (0.1, 1.0, 3.0, 30.0, 300.0):  # variance of the mean by seed over that by examples
            missed = np.zeros(2)
            for _ in range(draws):
                samples = rng.standard_normal(seeds) * (ratio * seeds) ** 0.5 + rng.standard_normal()
                noise = Noise(float(rng.chisquare(FREEDOM)) / FREEDOM, FREEDOM)
                spread = Spread.of(samples, noise)
                parts = np.array([spread.by_seed / seeds, noise.variance])
                freedom = parts.sum() ** 2 / float((parts**2 / [seeds - 1, FREEDOM]).sum())
                usual = float(t.ppf(0.975, freedom)) * spread.error()
                missed += np.abs(spread.mean) > np.array([spread.reach(), usual])
            built, usual = (missed / draws).tolist()
            rows.append({"seeds": seeds, "ratio": ratio, "missed": built, "missed_by_one_quantile": usual})
        worst = max(rows[-5:], key=lambda row: row["missed_by_one_quantile"])
        print(
            f"{seeds:2} seeds: the interval misses in at most {max(row['missed'] for row in rows[-5:]):.3f}, "
            f"with one t quantile in {worst['missed_by_one_quantile']:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    found = {"draws": options.draws, "intervals": intervals(4 * options.draws), "verdicts": verdicts(options.draws)}
    for gain, word in zip(GAINS, ("yes", "no"), strict=True):
        worst = max(row["wrong"] for row in found["verdicts"] if row["gain"] == gain)
        print(f'true gain {gain:.0%}: wrongly "{word}" in at most {worst:.3f}')
    if options.draws >= 1000:
        (ROOT / "benchmarks" / "results" / "verdicts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
