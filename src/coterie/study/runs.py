"""Which run each entry of the storage is: derived from the order of the entries, so that no two workers get the same.

A worker that asks appends one entry with a list of wishes, best first. The entry stands for the first of its wishes
that no earlier entry stands for. Entries are numbered by the storage and their wishes never change, so whoever reads
them derives the same runs, without locks, and however many workers ask at the same moment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coterie._surface import known_arguments
from coterie.study.settings import StudySettings

#: where the wishes of an entry stand among the system attributes of its Optuna trial
WISHES = "coterie:wishes"
#: names of the user attributes with what a run brought, why it failed, and when its worker was alive
RESULT, FAILED, ALIVE = "result", "failed", "alive"
#: when a run counts as alive that its worker has given back, to be asked for again at once
GIVEN_BACK = -1.0
#: states of a run
ASKED, TOLD, FAILED_STATE, DROPPED = "asked", "told", "failed", "dropped"


@known_arguments
@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        tasks: names of the tasks that are trained together.
        seed: of everything random in the training; None where it is not known.
        number: of the run in the study, and of its Optuna trial.
        variant: the way in which it is trained; "" is the usual one.
        state: "asked", "told", "failed", or "dropped" (asked for, and not needed any more).
        losses: task -> (loss, standard error that is known or 0), as they were told; None before that.
        test: the same on test data; None where there are none.
        metrics: task -> metric -> value, where a run reported several.
        cost: in the unit of the study; None where it is not known.
        reason: why it failed or was dropped.
        again: number of the run that is asked for again by this one.
        since: when its worker was known to be alive, in seconds as :func:`time.time` counts them.
        why: what it was asked for.
        enough: whether runs enough were there already when it was asked for.
        shares: source -> its share of the data, in a study of mixtures; None in others.

    Example:
        >>> StudyRun(("a", "b"), seed=3, number=7)
        StudyRun(tasks=('a', 'b'), seed=3, number=7)
    """

    tasks: tuple[str, ...]
    seed: int | None
    number: int
    variant: str = ""
    state: str = field(default=ASKED, compare=False)
    losses: Mapping[str, tuple[float, float]] | None = field(default=None, compare=False)
    test: Mapping[str, tuple[float, float]] | None = field(default=None, compare=False)
    metrics: Mapping[str, Mapping[str, float]] | None = field(default=None, compare=False)
    cost: float | None = field(default=None, compare=False)
    reason: str | None = field(default=None, compare=False)
    again: int | None = field(default=None, compare=False)
    since: float = field(default=0.0, compare=False)
    why: str = field(default="", compare=False)
    enough: bool = field(default=False, compare=False)
    shares: Mapping[str, float] | None = None

    def __repr__(self) -> str:
        what = f"tasks={self.tasks!r}" if self.shares is None else f"shares={dict(self.shares)!r}"
        shown = f"{what}, seed={self.seed}, number={self.number}"
        shown += f", variant={self.variant!r}" if self.variant else ""
        return f"StudyRun({shown}{'' if self.state == ASKED else f', state={self.state!r}'})"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        found: dict[str, Any] = {"number": self.number, "tasks": list(self.tasks)}
        found |= {} if self.shares is None else {"mixture": dict(self.shares)}
        found |= {"seed": self.seed, "variant": self.variant}
        found |= {
            "state": self.state,
            "losses": None if self.losses is None else {t: v for t, (v, _) in self.losses.items()},
        }
        return {**found, "cost": self.cost, "reason": self.reason}


@dataclass(frozen=True)
class Wish:
    """A run that an entry may stand for: numbers of its tasks, a seed and a variant, or a run to be asked for again.

    In a study of mixtures, `shares` are those of all sources, and the tasks are the sources that have one.
    """

    tasks: tuple[int, ...] = ()
    seed: int | None = None
    variant: str = ""
    again: int | None = None
    shares: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for the same run."""
        return self.tasks, self.seed, self.variant, self.shares

    def pack(self) -> list[Any]:
        """A short form for JSON."""
        if self.again is not None:
            return [self.again]
        mask = format(sum(1 << task for task in self.tasks), "x")
        return [mask, self.seed, self.variant, *([list(self.shares)] if self.shares else [])]

    @staticmethod
    def unpack(data: Sequence[Any]) -> Wish:
        """The inverse of :meth:`pack`."""
        if len(data) == 1:
            return Wish(again=int(data[0]))
        mask = int(data[0], 16)
        tasks = tuple(task for task in range(mask.bit_length()) if mask >> task & 1)
        shares = tuple(map(float, data[3])) if len(data) > 3 else ()
        return Wish(tasks, None if data[1] is None else int(data[1]), str(data[2]), shares=shares)

    @staticmethod
    def of(run: StudyRun, settings: StudySettings) -> Wish:
        """The wish that a run stands for."""
        shares = () if run.shares is None else tuple(run.shares.get(name, 0.0) for name in settings.tasks)
        return Wish(settings.numbers(run.tasks), run.seed, run.variant, shares=shares)


def entry(wishes: Sequence[Wish], token: str, **facts: Any) -> dict[str, Any]:
    """The system attributes of a new entry.

    Args:
        wishes: best first.
        token: by which the worker finds the entry.
        facts: `added`, when it stands for its only wish, whatever came before; `why` and `enough`.
    """
    return {WISHES: {"runs": [wish.pack() for wish in wishes], "token": token, "time": time.time(), **facts}}


def token_of(trial: Any) -> str | None:
    """What its worker wrote on an entry to find it again."""
    return trial.system_attrs.get(WISHES, {}).get("token")


@dataclass(frozen=True)
class _Kept:
    """What is known of the first entries for good.

    Attributes:
        granted: number of a trial -> the run that it stands for.
        taken: runs that nobody gets any more.
        again: numbers of runs that were asked for again.
        ended: the runs whose trials are finished, which nothing changes any more.
    """

    granted: Mapping[int, Wish] = field(default_factory=dict)
    taken: frozenset[tuple[Any, ...]] = frozenset()
    again: frozenset[int] = frozenset()
    ended: Mapping[int, StudyRun] = field(default_factory=dict)


class RunLog:
    """Reads the entries of a study again and again, and derives of each read only what is new.

    Args:
        settings: of the study.
    """

    def __init__(self, settings: StudySettings) -> None:
        self.settings, self._kept = settings, _Kept()

    def read(self, trials: Sequence[Any]) -> list[StudyRun]:
        """The run that each Optuna trial stands for; trials of others are left out.

        Args:
            trials: all trials of the study.
        """
        trials = sorted(trials, key=lambda trial: trial.number)
        whole = [trial.number for trial in trials] == list(range(len(trials)))
        kept = self._kept if whole else _Kept()  # what an entry stands for hangs on all before it
        granted, taken, again, ended = dict(kept.granted), set(kept.taken), set(kept.again), dict(kept.ended)
        found: list[StudyRun] = []
        for trial in trials:
            number, data = trial.number, trial.system_attrs.get(WISHES)
            if data is None:
                continue
            if number not in granted:
                granted[number] = _granted(data, granted, taken, again)
            run = ended.get(number) or _record(trial, granted[number], self.settings, data)
            if trial.state.name not in ("RUNNING", "WAITING"):
                ended[number] = run
            found.append(run)
        if whole:  # one assignment, so that threads that read at the same time do no harm
            self._kept = _Kept(granted, frozenset(taken), frozenset(again), ended)
        return found


def _granted(data: Mapping[str, Any], before: Mapping[int, Wish], taken: set[tuple[Any, ...]], again: set[int]) -> Wish:
    """The run that a new entry stands for, which nobody gets any more from here on."""
    wish = _first_free(data["runs"], taken, again, added=bool(data.get("added")))
    if wish.again is not None:
        again.add(wish.again)
        return replace(before[wish.again], again=wish.again)
    if wish.seed is not None:
        taken.add(wish.key)
    return wish


def _first_free(packed: Sequence[Any], taken: set[tuple[Any, ...]], again: set[int], *, added: bool) -> Wish:
    """The first wish that nobody has; when all are taken, the last one's tasks with a seed that nobody has."""
    for one in packed:
        wish = Wish.unpack(one)
        free = wish.again not in again if wish.again is not None else wish.key not in taken
        if free or added:
            return wish
    last = next(wish for wish in map(Wish.unpack, reversed(packed)) if wish.again is None)
    last = replace(last, seed=last.seed or 0)
    while last.key in taken:
        last = replace(last, seed=(last.seed or 0) + 1)
    return last


def _record(trial: Any, wish: Wish, settings: StudySettings, data: Mapping[str, Any]) -> StudyRun:
    """A trial of Optuna as a run."""
    own = trial.user_attrs
    result = own.get(RESULT) or {}
    state = {"RUNNING": ASKED, "COMPLETE": TOLD}.get(trial.state.name, FAILED_STATE)
    reason = own.get(FAILED)
    if isinstance(reason, str) and reason.startswith(DROPPED):
        state = DROPPED
    losses, test = (
        {task: (float(value), float(error)) for task, (value, error) in result[part].items()}
        if part in result
        else None
        for part in ("losses", "test")
    )
    return StudyRun(
        tuple(settings.tasks[task] for task in wish.tasks),
        wish.seed,
        trial.number,
        wish.variant,
        state,
        losses,
        test,
        result.get("metrics"),
        result.get("cost"),
        reason,
        wish.again,
        GIVEN_BACK if own.get(ALIVE) == GIVEN_BACK else max(float(data["time"]), float(own.get(ALIVE, 0.0))),
        str(data.get("why", "")),
        bool(data.get("enough")),
        {name: share for name, share in zip(settings.tasks, wish.shares, strict=True) if share}
        if wish.shares
        else None,
    )


def root_of(run: StudyRun, runs: Mapping[int, StudyRun]) -> int:
    """Number of the run that was asked for first, where this one asks for it again."""
    number = run.number
    while (before := runs[number].again) is not None:
        number = before
    return number


def told_runs(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """The runs with results: of a run that was asked for twice, the first that was told."""
    numbered = {run.number: run for run in runs}
    found: dict[int, StudyRun] = {}
    for run in runs:
        if run.state == TOLD:
            found.setdefault(root_of(run, numbered), run)
    return sorted(found.values(), key=lambda run: run.number)


def count_of(runs: Sequence[StudyRun]) -> int:
    """Number of runs that were asked for or added, each once however often it was asked for."""
    return sum(run.again is None and run.state != DROPPED for run in runs)


def seen_by_optuna(
    tasks: Sequence[str], seed: int | None, variant: str, shares: Sequence[float] = ()
) -> dict[str, Any]:
    """What Optuna's tools show of a run; shares are those of the tasks, others are 0."""
    kept = [share for share in shares if share]
    what = {"mixture": dict(zip(tasks, kept, strict=True))} if kept else {"tasks": list(tasks)}
    return {**what, "seed": seed, **({"variant": variant} if variant else {})}


def shown_losses(run: StudyRun) -> str:
    """The first losses of a run, for messages."""
    return ", ".join(f"{task} {value:.6g}" for task, (value, _) in [*(run.losses or {}).items()][:5])


def lost_runs(runs: Sequence[StudyRun], limit: float) -> list[StudyRun]:
    """Runs whose worker was last known to be alive before a time, and that nobody told or asked for again since."""
    numbered = {run.number: run for run in runs}
    again = {run.again for run in runs}
    done = {root_of(run, numbered) for run in runs if run.state == TOLD}
    waiting = (run for run in runs if run.state == ASKED and run.since < limit and run.number not in again)
    return [run for run in waiting if root_of(run, numbered) not in done]
