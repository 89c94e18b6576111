"""What the short formula of a run takes, beside the fit of the process that it describes: processor seconds.

The process corrects a made-up additive estimate by 12 runs whose values are that estimate and luck; the formula asks it
for gains of random subsets and, up to 60 tasks, for how the errors of one task's values go together.

    OMP_NUM_THREADS=1 python benchmarks/formula.py [14 27 60 150]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from coterie.affinity.formula import fit_formula
from coterie.affinity.gain_model import random_subsets
from coterie.affinity.surrogates.prior import FusedModel
from coterie.affinity.surrogates.views import WeighedProcess, fit_views


def seconds(n: int, runs: int = 12) -> tuple[float, float]:
    """Of the fit and of the formula, with as many views as count."""
    rng, size = np.random.default_rng(0), max(3, n // 5)
    effects = rng.normal(size=(n, n)) * 0.01

    def estimate(subsets: np.ndarray) -> np.ndarray:
        return np.where(subsets, 1 + subsets @ effects.T, np.nan)

    seen, reference = (random_subsets(n, count, size, seed=k, cover=False) for k, count in enumerate((runs, 200)))
    told = estimate(seen) + 0.01 * rng.normal(size=seen.shape)
    start = time.process_time()
    process = fit_views(seen, told, estimate(seen), reference, estimate(reference))
    fitted = time.process_time()
    both = WeighedProcess(process.views * (2 // len(process.views)), np.full(2, 0.5))  # as slow as two views are
    fit_formula(FusedModel(tuple(map(str, range(n))), "fused", both, estimate), size)
    return fitted - start, time.process_time() - fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", type=int, default=[14, 27, 60, 150])
    for n in parser.parse_args().tasks:
        fit, formula = seconds(n)
        print(f"{n} tasks: fit {fit:.2f} s, formula {formula:.2f} s", flush=True)


if __name__ == "__main__":
    main()
