"""A study of four tasks of which two pairs belong together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coterie.study.results import Results

TASKS = ("a", "b", "c", "d")


def losses_of(trained, rng, harm=0.1, noise=0.01):
    """Losses around 1: a and b help each other, so do c and d, and everything else harms by `harm`."""
    pairs = np.kron(np.eye(2), np.ones((2, 2))) > 0
    values = 1 + harm * trained @ np.where(pairs, -1.0, 1.0) + harm * trained  # nobody helps itself
    return np.where(trained, values + noise * rng.normal(size=trained.shape), np.nan)


def study(trained, seed=0, seeds=None, **problem):
    """Results of one run a row."""
    trained = np.asarray(trained, dtype=bool)
    found = Results.of(TASKS, trained, losses_of(trained, np.random.default_rng(seed), **problem))
    return replace(found, seeds=np.zeros(len(trained), dtype=np.int64) if seeds is None else np.asarray(seeds))


def joined(first, second):
    """Runs of both."""
    arrays = ("trained", "losses", "seeds", "costs")
    both = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in arrays}
    return replace(first, **both, variants=first.variants + second.variants)


def made(results, wanted, seed=1, **problem):
    """Results with the wanted runs."""
    trained, seeds = np.array([run.trained for run in wanted]), [run.seed for run in wanted]
    return joined(results, study(trained, seed, seeds, **problem))
