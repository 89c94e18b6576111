"""What successive halving is worth for the same number of real trainings.

Part 1 draws losses instead of training: candidates with known truth, luck of training seeds and of examples. Successive
halving (the code that ``compare(runs=...)`` runs) against equal seeds for all candidates, and against two stages (all
candidates alike, then a final of one): how often the best candidate is chosen, and how much worse the choice is.
Part 2 draws candidates without differences and asks how honest the winner's test interval is, with seeds that no rung
used (what is built) and with the seeds of the rungs counted in. Part 3 trains six groupings for real, within budgets
and in full. Writes benchmarks/results/halving.json. Run: ``python benchmarks/halving.py``; ``--draws 200`` is
a quick look, ``--no-real`` leaves part 3 out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from reference.halving_bed import Draw, prices  # noqa: E402

SEEDS, GROUPS, TASKS = 5, 3, 14
NUMBERS = (6, 12, 24)
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NOISES = (0.5, 1.0, 2.0)
REAL = ("yeast", "digits")


def choose(draws: int) -> list[dict[str, Any]]:
    """Part 1."""
    rows: list[dict[str, Any]] = []
    for count in NUMBERS:
        known = prices(count, GROUPS, TASKS)
        whole = SEEDS * known.final(list(known.subsets))
        for noise in NOISES:
            worlds = [Draw(known, np.random.default_rng((count, i)), seed_noise=noise) for i in range(draws)]
            rows += [_spend(worlds, count, noise, share, int(share * whole)) for share in SHARES]
    return rows


def _spend(worlds: list[Draw], count: int, noise: float, share: float, runs: int) -> dict[str, Any]:
    """One budget: paired over the worlds."""
    found: dict[str, list[int]] = {"halving": [], "equal": [], "two stages": []}
    seeds: list[int] = []
    for draw in worlds:
        chosen, record = draw.halving(runs, SEEDS)
        seeds.append(len(record.seeds))
        assert record.spent <= runs
        found["halving"].append(chosen)
        found["equal"].append(draw.equally(runs)[0])
        found["two stages"].append(draw.two_stages(runs, SEEDS))
    regrets = {
        name: np.array([d.regret(c) for d, c in zip(worlds, chosen, strict=True)]) for name, chosen in found.items()
    }
    row: dict[str, Any] = {
        "candidates": count, "seed_noise": noise, "share": share, "runs": runs,
        "seeds_final": float(np.mean(seeds)), "seeds_equal": worlds[0].equally(runs)[1],
    }  # fmt: skip
    for name, values in regrets.items():
        row[name] = {"best": float((values == 0).mean()), "regret": float(values.mean())}
    for name in ("equal", "two stages"):
        less = regrets[name] - regrets["halving"]
        row[name]["more_regret"] = [float(less.mean()), float(1.96 * less.std(ddof=1) / len(less) ** 0.5)]
    print(
        f"{count:3} candidates, luck {noise:.1f}, {runs:3} runs ({share:.0%}): best chosen "
        + ", ".join(f"{name} {row[name]['best']:.2f}" for name in regrets)
        + "; regret "
        + ", ".join(f"{row[name]['regret']:.3f}" for name in regrets)
        + f"; seeds {row['seeds_final']:.1f} against {row['seeds_equal']}"
    )
    return row


def honest(draws: int) -> list[dict[str, Any]]:
    """Part 2: no true differences."""
    rows: list[dict[str, Any]] = []
    for count in NUMBERS:
        known = prices(count, GROUPS, TASKS)
        whole = SEEDS * known.final(list(known.subsets))
        for share in (0.5, 0.7, 1.0):
            found: dict[str, list[tuple[bool, float]]] = {"fresh": [], "reused": []}
            for number in range(draws):
                draw = Draw(known, np.random.default_rng((count, number)), between=0, example_noise=0.1)
                chosen, record = draw.halving(int(share * whole), SEEDS)
                rungs = record.rungs[-1].seeds if record.rungs else ()
                found["fresh"].append(draw.covered(chosen, record.seeds))
                found["reused"].append(draw.covered(chosen, (*rungs, *record.seeds)))
            row: dict[str, Any] = {"candidates": count, "share": share}
            for name, values in found.items():
                held, errors = zip(*values, strict=True)
                row[name] = {"coverage": float(np.mean(held)), "bias": float(np.mean(errors))}
            rows.append(row)
            print(f"no differences, {count:3} candidates, {share:.0%}: " + ", ".join(
                f"{name} seeds: coverage {row[name]['coverage']:.3f}, bias {row[name]['bias']:+.3f}" for name in found
            ))  # fmt: skip
    return rows


def real(name: str, seeds: int = 5) -> dict[str, Any]:
    """Part 3: three random groupings and three of tasks that stand next to each other, for real."""
    from coterie.evaluation import JOINT, compare, recommend
    from coterie.grouping import Grouping
    from coterie.store import MemoryRun
    from coterie.workload import load_workload

    workload = load_workload(name)
    names, n = workload.task_names, workload.n_tasks
    rng = np.random.default_rng(0)
    labels = {f"random {i}": rng.permutation(np.arange(n) % 3) for i in range(3)}
    labels |= {f"neighbours, {k}": np.arange(n) * k // n for k in (2, 3, 5)}
    candidates = {name: Grouping.from_labels(names, list(map(int, value))) for name, value in labels.items()}
    result: dict[str, Any] = {"budgets": []}
    start = time.perf_counter()
    whole = compare(workload, candidates, seeds=seeds, store=MemoryRun()).comparison
    distinct = len({group for grouping in whole.groupings for group in grouping.groups})
    result["whole"] = {
        "runs": distinct * seeds,
        "seconds": time.perf_counter() - start,
        "choice": recommend(whole).candidate,
        "spread": _spread(whole, list(candidates)),
        "validation_loss": {name: _loss(whole, name, "validation") for name in whole.candidates},
        "test_gain_over_all_in_one": {name: whole.total(name, against=JOINT).mean for name in whole.candidates},
    }
    whole_losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result["whole"]["validation_loss"].items())
    print(f"{name}, standard deviations of log losses:", result["whole"]["spread"])
    print(f"{name}, all of it: {distinct * seeds} runs, {result['whole']['seconds']:.0f} s: {whole_losses}")
    for share in (0.45, 0.7, 0.9):
        runs = int(share * distinct * seeds)
        start = time.perf_counter()
        found = compare(workload, candidates, seeds=seeds, runs=runs).comparison
        assert found.halving is not None
        row = {
            "runs": runs,
            "spent": found.halving.spent,
            "seconds": time.perf_counter() - start,
            "record": found.halving.to_dict(),
            "lines": found.halving.lines(),
            "choice": recommend(found).candidate,
            "best_finalist": min(set(found.candidates) & set(candidates), key=lambda c: _loss(found, c, "validation")),
        }
        result["budgets"].append(row)
        print(f"{name}, {runs} runs: {row['seconds']:.0f} s; " + " ".join(row["lines"]) + f" Choice: {row['choice']}.")
    return result


def _spread(comparison: Any, names: list[str]) -> dict[str, float]:
    """Standard deviations of log losses: between candidates, over seeds of one, over draws of the examples of one."""
    logs = np.log(comparison.validation[[comparison.index(name) for name in names]]).mean(-1)
    luck = float((logs - logs.mean(0)).var(1, ddof=1).mean()) * len(names) / (len(names) - 1)
    between = float(logs.mean(1).var(ddof=1)) - luck / logs.shape[1]
    pairs = [(comparison.index(a), comparison.index(b)) for a in names for b in names if a < b]
    tasks = range(len(comparison.tasks))
    examples = float(np.mean([comparison.labels["validation"].noise(a, b, tasks).variance for a, b in pairs])) / 2
    # what looks like a difference between candidates is partly the luck of the examples
    truth = max(between - examples, 0.0)
    return {name: x**0.5 for name, x in (("candidates", truth), ("seeds", luck), ("examples", examples))}


def _loss(comparison: Any, name: str, part: str) -> float:
    """Geometric mean over seeds and tasks."""
    return float(np.exp(np.log(comparison.losses(part)[comparison.index(name)]).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--no-real", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "halving.json")
    given = parser.parse_args()
    result: dict[str, Any] = {"draws": given.draws, "seeds": SEEDS, "groups": GROUPS, "tasks": TASKS}
    result["choice"] = choose(given.draws)
    result["honesty"] = honest(4 * given.draws)
    if not given.no_real:
        result["real"] = {name: real(name) for name in REAL}
    elif given.out.exists():
        result["real"] = json.loads(given.out.read_text()).get("real")
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
