"""Which runs a study would like next, given what was told and what is under way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.study.runs import StudyRun, Wish
from coterie.study.settings import StudySettings

#: wishes of one entry: so many workers may ask at the same moment and each gets another subset
WISHES_OF_ONE = 16


def next_wishes(runs: Sequence[StudyRun], settings: StudySettings) -> list[Wish]:
    """Runs to do next, best first: all tasks together, every task alone, then balanced random subsets.

    Args:
        runs: all runs so far, whatever became of them.
        settings: of the study.
    """
    n = len(settings.tasks)
    taken = {(settings.numbers(run.tasks), run.seed, run.variant) for run in runs}
    found: list[Wish] = []
    rng = np.random.default_rng([settings.seed, len(runs)])
    for tasks in [tuple(range(n)), *((task,) for task in range(n))]:
        _want(found, taken, tasks, 0)
    counts = np.zeros(n)
    for run in runs:
        counts[list(settings.numbers(run.tasks))] += 1
    for _ in range(20 * WISHES_OF_ONE):
        if len(found) >= WISHES_OF_ONE:
            break
        size = int(rng.integers(2, n)) if n > 2 else 2
        order = np.argsort(counts + rng.gumbel(size=n) * (1 + counts.std()))
        tasks = tuple(sorted(int(task) for task in order[:size]))
        counts[list(tasks)] += 1
        _want(found, taken, tasks, 0)
    seed = 1
    while len(found) < WISHES_OF_ONE:  # every subset that came up is there already: with other seeds
        before = len(found)
        for wish in [*found, *(Wish(settings.numbers(run.tasks)) for run in runs[:WISHES_OF_ONE])]:
            _want(found, taken, wish.tasks, seed)
        seed += 1
        if len(found) == before and seed > len(runs) + 2:
            break
    return found[:WISHES_OF_ONE]


def _want(
    found: list[Wish], taken: set[tuple[tuple[int, ...], int | None, str]], tasks: tuple[int, ...], seed: int
) -> None:
    if (tasks, seed, "") not in taken:
        taken.add((tasks, seed, ""))
        found.append(Wish(tasks, seed))
