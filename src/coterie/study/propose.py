"""Which runs a study would like next: what the design says, kept for the workers that ask soon after."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie.errors import CoterieError
from coterie.study.runs import ASKED, FAILED_STATE, StudyRun, Wish, told_runs

if TYPE_CHECKING:
    from coterie.study.study import Study

#: fewest runs that are chosen at a time, and wishes of one entry: so many workers may ask at the same moment and each
#: gets another subset
CHOSEN, WISHES_OF_ONE = 8, 16
#: what was chosen serves until this share of the runs is new, and as many are chosen
_NEW = 0.1
#: names of the study's attributes: what was chosen last, the choice that fresh seeds judge, and who is choosing
ADVICE, CONFIRMATION, CHOOSING = "coterie:advice", "coterie:confirmation", "coterie:choosing"
#: seconds in which a worker that chooses is done; the others use what was chosen before
_CHOOSING_TIME = 60.0
#: seconds that a worker waits for the one that chooses when nothing is left of what was chosen before; that one may
#: have been killed. And seconds after which it looks again
_PATIENCE, _LOOK = 15.0, 0.2


@dataclass(frozen=True)
class Advice:
    """Runs to do next.

    Attributes:
        wishes: best first.
        enough: whether more runs are not expected to be worth it.
        why: in one sentence.
    """

    wishes: tuple[Wish, ...]
    enough: bool
    why: str


def advise(study: Study, runs: Sequence[StudyRun]) -> Advice:
    """The runs to do next, chosen now or by a worker a short time ago.

    One worker chooses at a time: to choose takes a second and more, and as many results as workers would be one.

    Args:
        study: whose runs; what it says to choose is chosen.
        runs: all runs so far, whatever became of them.
    """
    begin = time.monotonic()
    while True:
        taken = {Wish.of(run, study.settings).key for run in runs}
        known = study.optuna_study.user_attrs
        told, before = len(told_runs(runs)), known.get(ADVICE)
        if before is None:
            break
        wishes = [wish for wish in map(Wish.unpack, before["wishes"]) if wish.key not in taken]
        young = told - before["told"] < max(1, _NEW * told)
        others = time.time() - known.get(CHOOSING, 0.0) < _CHOOSING_TIME
        if (young or others) and (wishes or before["enough"]):
            return _with_spare(study, wishes, runs, taken, Advice((), before["enough"], before["why"]))
        if not others or time.monotonic() - begin > _PATIENCE:
            break
        _wait(study, known, begin + _PATIENCE)
        runs = study.runs
    study.optuna_study.set_user_attr(CHOOSING, time.time())
    try:
        found = study.choose(runs, known.get(CONFIRMATION))
    finally:
        study.optuna_study.set_user_attr(CHOOSING, 0.0)
    kept = {"told": told, "wishes": [wish.pack() for wish in found.wishes], "enough": found.enough, "why": found.why}
    study.optuna_study.set_user_attr(ADVICE, kept)
    return _with_spare(study, found.wishes, runs, taken, found)


def _wait(study: Study, known: Mapping[str, Any], until: float) -> None:
    """Wait until another worker has chosen, or given up, or the time has come."""
    before = known.get(ADVICE), known.get(CHOOSING)
    pause = _LOOK
    while time.monotonic() < until:
        time.sleep(pause)
        pause = min(1.2 * pause, 5 * _LOOK)
        now = study.optuna_study.user_attrs
        if (now.get(ADVICE), now.get(CHOOSING)) != before:
            return


def choose_subsets(study: Study, runs: Sequence[StudyRun], confirmation: Any) -> Advice:
    """What the design says."""
    from coterie.study.confirmation import Confirmation, WantedRun
    from coterie.study.design import design_size, next_runs

    under_way = [
        WantedRun(np.array([task in run.tasks for task in study.tasks]), run.seed or 0, "", run.variant)
        for run in runs
        if run.state in (ASKED, FAILED_STATE) and run.again is None
    ]
    if not told_runs(runs) and len(under_way) >= design_size(len(study.tasks)):
        return Advice((), False, "No run was told yet: these subsets are random.")
    written = None if confirmation is None else Confirmation.from_dict(confirmation)
    try:
        found = next_runs(
            study.results(),
            max(CHOSEN, round(_NEW * len(told_runs(runs)))),
            aim=study.aim(),
            seed=study.settings.seed,
            confirmation=written,
            taken=under_way,
        )
    except CoterieError as error:  # runs that tell too little; random subsets will tell more
        return Advice((), False, str(error))
    if found.confirmation is not None and found.confirmation is not written:
        study.optuna_study.set_user_attr(CONFIRMATION, found.confirmation.to_dict())
    wishes = [Wish(tuple(map(int, np.flatnonzero(run.trained))), run.seed, run.variant) for run in found.runs]
    return Advice(tuple(wishes), found.enough, found.reason)


def _with_spare(
    study: Study, wishes: Sequence[Wish], runs: Sequence[StudyRun], taken: set[tuple[Any, ...]], advice: Advice
) -> Advice:
    """Advice with random subsets after what was chosen, for workers that ask at the same moment."""
    found, there = list(wishes[:WISHES_OF_ONE]), taken | {wish.key for wish in wishes}
    for wish in study.spare(runs) if len(found) < WISHES_OF_ONE else ():
        if len(found) >= WISHES_OF_ONE:
            break
        if wish.key not in there:
            there.add(wish.key)
            found.append(wish)
    return Advice(tuple(found), advice.enough, advice.why)


def spare_subsets(study: Study, runs: Sequence[StudyRun]) -> list[Wish]:
    """All tasks together, every task alone, then balanced random subsets, with seeds that nobody has."""
    n, rng = len(study.tasks), np.random.default_rng([study.settings.seed, len(runs)])
    counts = np.zeros(n)
    for run in runs:
        counts[list(study.settings.numbers(run.tasks))] += 1
    rows = [np.ones(n, dtype=bool), *np.eye(n, dtype=bool)]
    for _ in range(4 * WISHES_OF_ONE):
        order = np.argsort(counts + rng.gumbel(size=n) * (1 + counts.std()))
        rows.append(np.isin(np.arange(n), order[: int(rng.integers(min(2, n - 1), n))]))
        counts[rows[-1]] += 1
    allowed = study.settings.subset_rules.allowed(study.tasks, np.array(rows))
    subsets = list(dict.fromkeys(tuple(map(int, np.flatnonzero(row))) for row in np.array(rows)[allowed]))
    seeds: dict[tuple[int, ...], set[int]] = {tasks: set() for tasks in subsets}
    for run in runs:
        if (tasks := study.settings.numbers(run.tasks)) in seeds and run.seed is not None:
            seeds[tasks].add(run.seed)
    free = {
        tasks: [seed for seed in range(len(used) + WISHES_OF_ONE) if seed not in used] for tasks, used in seeds.items()
    }
    listed = [Wish(tasks, free[tasks][place]) for place in range(WISHES_OF_ONE) for tasks in subsets]
    return sorted(listed, key=lambda wish: wish.seed or 0)
