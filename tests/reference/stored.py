"""Small whole files of every kind that is stored, or what is written into them."""

import json
from functools import cache
from pathlib import Path

import numpy as np

from coterie import Context, from_arrays
from coterie.affinity import get_estimator
from coterie.diffusion.affinity import StepAffinity
from coterie.diffusion.config import DiffusionConfig
from coterie.diffusion.study import StepStudy
from coterie.evaluation import Comparison
from coterie.evaluation.halving import Halving, Rung, Standing
from coterie.evaluation.intervals import Interval
from coterie.evaluation.labels import LabelLosses
from coterie.grouping import Grouping
from coterie.serving.saved import save_served
from coterie.workload import Recipe, Task

TASKS = ("a", "b & c", "d")


def interval(mean, half=None):
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def made_study(seeds=2, methods=("equal", "<b>&{{ 7 * 7 }}"), k=3, t=100):
    """A study that nobody did."""
    rng = np.random.default_rng(0)
    half = None if seeds == 1 else 0.02
    steps = np.array([0, 25, 50, 75, t - 1])
    values = np.exp(-np.abs(steps[:, None] - steps[None, :]) / 40) - 0.2
    first, second = np.triu_indices(len(steps), 1)
    spans = [[round(i * t / k), round((i + 1) * t / k) - 1] for i in range(k)]
    rows = [
        {
            "name": name,
            "loss": [interval(0.3 / 4**i, half) for i in range(k)],
            "change": None if place == 0 else [interval(0.05 * (i - 1), half) for i in range(k)],
            "overall": interval(0.1, half),
            "overall_change": None if place == 0 else interval(-0.03, half),
            "frechet": interval(30.0, half),
            "frechet_change": None if place == 0 else interval(0.01, half),
            "seconds_per_step": 0.01,
            "by_seed": {},
        }
        for place, name in enumerate(("vanilla", *methods))
    ]
    facts = {
        "diffusion": 1,
        "config": DiffusionConfig().to_dict(),
        "seeds": list(range(seeds)),
        "torch": "2",
        "data": {"name": "digits", "shape": [1, 8, 8], "train": 1400, "validation": 397, "measured": 300},
        "affinity": {
            "steps": steps.tolist(), "values": values.tolist(), "n_steps": t, "kind": "cosine", "facts": {},
            "gaps": [0, 25, 50, 75, 99], "curve": [0.8, 0.4, 0.1, 0.0, -0.1], "curves": [[0.8, 0.5, 0.1, 0, 0]] * seeds,
            "snr_gaps": [np.abs(steps[first] - steps[second]).tolist(), values[first, second].tolist()],
            "falling": interval(-0.9, half),
        },
        "intervals": {"starts": [a for a, _ in spans], "n": t, "cost": 1.0, "spans": spans,
                      "log_snr": [[3.0 - i, 2.0 - i] for i in range(k)]},
        "methods": rows,
        "frechet": {"real": 5.4, "accuracy": 0.98, "features": 32, "count": 300},
    }  # fmt: skip
    names = ("data", "vanilla", *methods)
    facts["samples"] = {"names": list(names)}
    return StepStudy(facts, {name: rng.integers(0, 256, (64, 8, 8)).astype(np.uint8) for name in names})


def benchmark_result():
    """A result of `coterie benchmark` on two tasks of the digits, as it was written."""
    return json.loads((Path(__file__).parent / "benchmark.json").read_text(encoding="utf-8"))


@cache
def comparison():
    """Three candidates, two seeds, labels and a rung of halving; no number was measured."""
    rng = np.random.default_rng(0)
    task, row = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    parts = {
        part: LabelLosses(rng.uniform(0.1, 1, (3, 2, 12)).astype(np.float32), task, row)
        for part in ("validation", "test")
    }
    means = {part: losses.means(3) for part, losses in parts.items()}
    groupings = tuple(Grouping.from_labels(TASKS, labels) for labels in ([0, 0, 0], [0, 1, 2], [0, 0, 1]))
    names = ("all-in-one", "single-task", "grouped (2)")
    standings = tuple(Standing(name, 0.5, Interval(-0.1, -0.2, 0.0), name != "other") for name in (*names, "other"))
    halving = Halving(20, 12, (Rung((5,), 6, standings),), names, (0, 1), 3, ("large",), (("twin", "other"),))
    return Comparison(TASKS, names, groupings, (0, 1), means["validation"], means["test"], parts, halving)


@cache
def workload():
    """Four inputs, a binary, a regression and a multi-class task."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 5, size=(90, 4))
    y = np.column_stack([x[:, 0] > 3, 100 + 7 * x[:, 1], rng.integers(0, 3, 90)]).astype(float)
    tasks = [Task("a"), Task("b & c", "regression"), Task("d", "multiclass", classes=3)]
    return from_arrays(x, y, tasks=tasks, hidden=(5,), recipe=Recipe(epochs=2, check_every=2))


def served(folder):
    """The files of a predictor, in a folder."""
    work = workload()
    grouping = Grouping(TASKS, ((0, 1), (1, 2)), (0, 0, 1))
    save_served(folder, work, grouping, [dict(work.build_model(seed).state_dict()) for seed in (0, 1)])


@cache
def gain_model():
    """A fitted estimate."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    work = from_arrays(x, x[:, :3] > 0, tasks=list(TASKS), hidden=(3,), recipe=Recipe(epochs=1, check_every=2))
    return get_estimator("secants", bases=1).estimate(work, context=Context(seed=0), subset_size=2).model


def step_affinity():
    """Three probed steps of five."""
    return StepAffinity(np.array([0, 2, 4]), np.array([[1, 0.8, 0], [0.8, 1, 0.4], [0, 0.4, 1]]), 5, facts={"seed": 0})
