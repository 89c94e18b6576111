"""Comparisons whose losses are drawn instead of trained: the truth is known, so that verdicts can be counted."""

from __future__ import annotations

import numpy as np

from coterie.evaluation import BASELINE, JOINT, Comparison
from coterie.evaluation.compare import all_in_one, single_task
from coterie.evaluation.labels import LabelLosses
from coterie.grouping import Grouping

#: how the luck of a training is distributed, in standard deviations
TAILS = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "heavy": lambda rng, size: rng.standard_t(2.5, size),
    # most trainings are alike, one in ten is much worse
    "failures": lambda rng, size: 0.3 * rng.standard_normal(size) + 8.0 * (rng.random(size) < 0.1),
}


def draw(
    rng: np.random.Generator,
    seeds: int,
    *,
    gain: float = 0.0,
    luck: float = 0.05,
    tail: str = "normal",
    tasks: int = 6,
    labels: int = 60,
    groups: tuple[int, ...] = (2, 3),
) -> Comparison:
    """A comparison of all-in-one, groupings and single-task models that are equal in truth, but for one.

    Args:
        rng: of everything.
        seeds: trainings of each model.
        gain: of the first grouping over everything else, on every task.
        luck: standard deviation of the log loss from one training to another, of a model and of each of its tasks.
        tail: how the luck is distributed, see `TAILS`.
        tasks: number of tasks.
        labels: labels of a task in each part.
        groups: numbers of groups of the groupings.
    """
    names = tuple(f"t{t}" for t in range(tasks))
    found = {JOINT: all_in_one(names)}
    for k in groups:
        found[f"grouped ({k})"] = Grouping.from_labels(names, [t % k for t in range(tasks)], method="drawn")
    found[BASELINE] = single_task(names)
    task, row = np.repeat(np.arange(tasks), labels), np.tile(np.arange(labels), tasks)
    lucky, draws = TAILS[tail], {}
    logs = np.zeros((len(found), seeds, tasks))
    for c, grouping in enumerate(found.values()):
        own = lucky(rng, (seeds, len(grouping.groups)))[:, list(grouping.serves)] + lucky(rng, (seeds, tasks))
        logs[c] = luck * own + (np.log1p(-gain) if c == 1 else 0.0)
    for part in ("validation", "test"):
        # some examples are hard for everybody, some for a candidate, some for one trained model
        noise = [rng.standard_normal(size) for size in ((1, 1, len(task)), (len(found), 1, len(task)))]
        hard = 0.8 * noise[0] + 0.2 * noise[1] + 0.2 * rng.standard_normal((len(found), seeds, len(task)))
        draws[part] = LabelLosses(np.exp(logs[..., task] + hard).astype(np.float32), task, row)
    means = [draws[part].means(tasks) for part in ("validation", "test")]
    return Comparison(names, tuple(found), tuple(found.values()), tuple(range(seeds)), *means, draws)
