"""How often a study says "better than one model" in error, and how soon it says so in truth.

``python benchmarks/study_honesty.py`` simulates studies of four tasks in which somebody asks what to serve after every
single run. Losses have noise of 2 % from run to run, a part of which is shared by the targets of a run. "eager": after
the first design, whatever looks best by what was observed is written down and confirmed at once, and where nothing
does, subsets are run by chance. "design": runs follow `next_runs` to the end. Without differences every subset has the
same expected losses; with a gain, two groups of two tasks are better than one model by a known share.

``tests/study/test_sequential.py`` holds the bound of the e-process with a small simulation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from coterie.study.confirmation import Confirmation, WantedRun
from coterie.study.design import next_runs
from coterie.study.predictors import find_predictor
from coterie.study.recommend import recommend
from coterie.study.results import Floats, Mask, Results
from coterie.study.study_view import Aim

TASKS = ("a", "b", "c", "d")
#: standard deviation of a loss from run to run: its own part, and the part that is shared by the targets of a run
OWN, SHARED = 0.018, 0.009
#: runs of a study at most, and those of the first design
RUNS, FIRST = 80, 6


@dataclass
class SimulatedStudy:
    """A study whose trainer is a formula.

    Attributes:
        gain: mean gain of the groups (a, b) and (c, d) over one model for all tasks, as a share.
        heavy: whether noise has the tails of a Student's t with three degrees of freedom.
        rng: of the noise.
    """

    gain: float
    heavy: bool
    rng: np.random.Generator

    def losses(self, trained: Mask) -> Floats:
        """(4,) losses of one run; NaN outside of the subset."""
        pairs = np.kron(np.eye(2), np.ones((2, 2))) > 0
        strangers = trained @ np.where(pairs, 0.0, 1.0)
        values = 1 - self.gain * (1 - strangers / 2)
        draw = (lambda n: self.rng.standard_t(3, n) / 3**0.5) if self.heavy else self.rng.standard_normal
        noise = OWN * draw(4) + SHARED * draw(1)
        return np.where(trained, values + noise, np.nan)

    def told(self, results: Results, run: WantedRun) -> Results:
        """The results with one run more."""
        return replace(
            results,
            trained=np.concatenate([results.trained, run.trained[None]]),
            losses=np.concatenate([results.losses, self.losses(run.trained)[None]]),
            seeds=np.append(results.seeds, run.seed),
            costs=np.append(results.costs, 1.0),
            variants=(*results.variants, run.variant),
        )


@dataclass(frozen=True)
class Told:
    """What a study said: the number of the run after which it said yes, and how many choices it wrote down."""

    run: int | None
    attempts: int


def simulate(study: SimulatedStudy, *, eager: bool, runs: int = RUNS) -> Told:
    """Make runs, and ask after every one what to serve."""
    predictor, aim = find_predictor("linear"), Aim(models=2)
    results = Results.of(TASKS, np.zeros((0, 4), dtype=bool), np.zeros((0, 4)))
    confirmation: Confirmation | None = None
    waiting: list[WantedRun] = []
    while len(results.losses) < runs:
        if not waiting and eager and len(results.losses) >= FIRST:
            waiting = [subset_by_chance(results, study.rng)]
        elif not waiting:
            proposal = next_runs(results, aim=aim, predictor=predictor, confirmation=confirmation)
            confirmation, waiting = proposal.confirmation, list(proposal.runs)
        if not waiting:
            break
        results = study.told(results, waiting.pop(0))
        if len(results.losses) < FIRST:
            continue
        values = "observed" if eager else "posterior"
        found = recommend(results, models=2, values=values, predictor=predictor, confirmation=confirmation)
        confirmation = found.confirmation
        if found.verdict == "yes":
            return Told(len(results.losses), confirmation.attempt if confirmation else 0)
        if eager:
            waiting = list(found.confirm[:1])
    return Told(None, confirmation.attempt if confirmation else 0)


def subset_by_chance(results: Results, rng: np.random.Generator) -> WantedRun:
    """A run of some subset with a seed that it did not have."""
    trained = rng.random(4) < 0.5
    trained[rng.integers(4)] = True
    seed = int((results.trained == trained).all(axis=1).sum())
    return WantedRun(trained, seed, "by chance")


def many(count: int, gain: float, *, eager: bool, heavy: bool = False, first: int = 0) -> Iterator[Told]:
    """Studies with different luck."""
    for number in range(first, first + count):
        yield simulate(SimulatedStudy(gain, heavy, np.random.default_rng(number)), eager=eager)


def main() -> None:
    """Print a table of how often "yes" was said, and after how many runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--gains", type=float, nargs="*", default=[0.0, 0.02, 0.05])
    parser.add_argument("--policy", choices=("eager", "design", "both"), default="both")
    parser.add_argument("--heavy", action="store_true", help="noise with heavy tails")
    given = parser.parse_args()
    for policy in ("eager", "design") if given.policy == "both" else (given.policy,):
        for gain in given.gains:
            told = list(many(given.studies, gain, eager=policy == "eager", heavy=given.heavy))
            after = [one.run for one in told if one.run is not None]
            middle = f"{np.median(after):.0f} (90 %: {np.quantile(after, 0.9):.0f})" if after else "-"
            attempts = np.mean([one.attempts for one in told])
            print(
                f"{policy:6}  gain {100 * gain:3.0f} %: yes in {100 * len(after) / len(told):5.1f} % of {len(told)} "
                f"studies, after {middle} runs; {attempts:.1f} choices a study",
                flush=True,
            )


if __name__ == "__main__":
    main()
