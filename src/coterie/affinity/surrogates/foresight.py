"""What an estimate is expected to be worth, said before anything is trained."""

from __future__ import annotations

import math

from coterie._surface import warn
from coterie.affinity.grad_tae import GradTAE
from coterie.affinity.surrogates.real_runs import LIMIT, runs_for_pairs
from coterie.errors import DataWarning

#: what runs tell for each time that a pair of tasks was together, as signal over noise: with it the correlations of a
#: linear surrogate on six data sets are met within .14 with 50 runs (docs/many-tasks.md)
TOLD = 0.09
#: an estimate with a smaller expected correlation is called of little use
USEFUL = 0.1
#: one that groups can be built on
GOOD = 0.3


def expected_skill(n_tasks: int, runs: float, size: int) -> float:
    """Within-task correlation with the truth that real runs alone let expect.

    Args:
        n_tasks: number of tasks.
        runs: subsets that are trained.
        size: of each.

    Example:
        >>> round(expected_skill(13, 50, 4), 2), round(expected_skill(500, 15, 25), 2)
        (0.51, 0.06)
    """
    told = TOLD * runs / runs_for_pairs(n_tasks, size, 1.0)
    return math.sqrt(told / (1 + told))


def warn_of_little(n_tasks: int, trainings: float, size: int, base: GradTAE) -> None:
    """Say that an estimate will be of little use, where arithmetic shows it: no base model and hardly any pair.

    Args:
        n_tasks: number of tasks.
        trainings: the budget, in ordinary trainings.
        size: of the subsets that would be trained.
        base: settings of the base models.

    Cost: nothing is trained.
    """
    forked = base.directions in ("secants", "task-vectors")
    # forks of half the length are the shortest; a training on all tasks is at least an ordinary one
    least = 1 + forked * n_tasks * base.fork / 2
    skill = expected_skill(n_tasks, trainings, size)
    if least <= LIMIT * trainings or skill >= USEFUL:
        return
    wanted = runs_for_pairs(n_tasks, size, GOOD**2 / (1 - GOOD**2) / TOLD)
    warn(
        f"The estimate will be of little use: for the short trainings of {n_tasks} tasks one base model takes "
        f"{least:.0f} trainings or more, the budget is {trainings:g}, and {trainings:g} real runs of {size} tasks show "
        f"{trainings / runs_for_pairs(n_tasks, size, 1.0):.1%} of the pairs. A correlation of about {skill:.2f} with "
        f"the truth is to be expected. Give `trainings`={least + 2:.0f} or more for a base model, or about "
        f"{wanted:.0f} for {GOOD:g} from runs alone; or leave out tasks.",
        DataWarning,
    )
