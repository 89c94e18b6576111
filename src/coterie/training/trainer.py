"""Trainers: whoever can train a subset of tasks and say what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coterie._check import is_number, whole_number
from coterie._context import DEFAULT_CONTEXT, Context, keywords_into
from coterie._executor import Done, Parcel, reissue_warnings, run_jobs
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie._units import Payload, look
from coterie.errors import ModelError, SettingError

if TYPE_CHECKING:
    from coterie.workload import Workload

Floats = NDArray[np.float64]
#: parts of the data for which a run may report losses: the one that chooses, and the one that is reported
PARTS = ("validation", "test")
#: name of the units of runs in a store: the same run is found again by whoever asks for it
UNIT = "run"
_ADVICE = (
    "Define the function at the top level of a module that workers can import, or install cloudpickle, which carries a "
    "lambda and a script's own functions along"
)


@known_arguments
@dataclass(frozen=True)
class Run:
    """One training to be done.

    Args:
        tasks: names of the tasks that are trained together.
        seed: of everything random in the training.

    Example:
        >>> Run(("a", "b"), seed=3)
        Run(tasks=('a', 'b'), seed=3)
    """

    tasks: tuple[str, ...]
    seed: int


@known_arguments
@short_repr
@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a run.

    Args:
        validation: task -> its loss on validation data, lower is better: one number, or one number an example (NaN
            where the task has no label). With examples, intervals cover their noise beside that of the seeds.
        test: the same on test data, which chose nothing; None where there are none.
        cost: what the run took, in a unit of the trainer's choice, the same for all of its runs; None counts every run
            as 1.

    Raises:
        SettingError: when a loss is no number, a task of `test` is not in `validation`, or `cost` is not positive.

    Example:
        >>> Outcome({"a": 0.3, "b": [0.1, 0.5]}).mean("b")
        0.3
    """

    validation: Mapping[str, Any]
    test: Mapping[str, Any] | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            losses: Any = getattr(self, part)
            if losses is not None or part == "validation":
                object.__setattr__(self, part, _read_losses(losses, part))
        if self.test is not None and set(self.test) != set(self.validation):
            raise SettingError(
                f"Parameter `test` should hold a loss of the same tasks as `validation`, {sorted(self.validation)}. "
                f"Found {sorted(self.test)}."
            )
        if self.cost is not None and not (is_number(self.cost) and 0 < self.cost < float("inf")):
            raise SettingError(f"Parameter `cost` should be a positive number, or None. Found {self.cost!r}.")

    def losses(self, part: str) -> Mapping[str, Floats]:
        """Task -> losses of a part, one number an example, or a single number; of ``"validation"`` without a test."""
        return self.validation if part == "validation" or self.test is None else self.test

    def mean(self, task: str, part: str = "validation") -> float:
        """Mean loss of a task; lower is better."""
        return float(np.nanmean(self.losses(part)[task]))


@runtime_checkable
class Trainer(Protocol):
    """Whoever can do runs.

    Attributes:
        tasks: names of all tasks.
        fingerprint: equal for trainers whose runs have the same outcomes; part of the key of every run in a store.
    """

    tasks: tuple[str, ...]
    fingerprint: str

    def train(self, run: Run) -> Outcome:
        """Do one run."""
        ...


@known_arguments
class FunctionTrainer:
    """A Python function that trains a subset of tasks: with any framework, or with none.

    Args:
        function: called as ``function(tasks, seed)`` with a tuple of names and a whole number. Returns a mapping of
            these tasks to losses (see :class:`Outcome`, lower is better), or an :class:`Outcome`. The same arguments
            have to give the same losses up to noise.
        tasks: names of all tasks.
        version: what the function and its data are, in your own words, for the fingerprint: change it whenever one of
            them changes. None takes the function's code and all that it refers to, which serves where nothing of it
            changes from call to call, and where no data are read from elsewhere.

    Raises:
        SettingError: when `function` cannot be called, or `tasks` are not at least two different names.

    Example:
        >>> def train(tasks, seed):
        ...     return {task: 1.0 / len(tasks) + 0.01 * seed for task in tasks}
        >>> trainer = FunctionTrainer(train, ["a", "b", "c"])
        >>> trainer.train(Run(("a", "c"), seed=0)).mean("c")
        0.5
    """

    def __init__(
        self, function: Callable[[tuple[str, ...], int], Any], tasks: Sequence[str], *, version: str | None = None
    ) -> None:
        if not callable(function):
            raise SettingError(
                f"Parameter `function` should be a function of (tasks, seed). Found {type(function).__name__}."
            )
        self.function, self.tasks, self.version = function, read_tasks(tasks), version
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        from coterie.workload.identity import Description

        found = Description()
        if self.version is None:
            found.add("function", self.function)
        text = repr((self.tasks, self.version, sorted(found.entries.items())))
        return f"function-{hashlib.sha256(text.encode()).hexdigest()}"

    def train(self, run: Run) -> Outcome:
        """Call the function.

        Raises:
            ModelError: when it fails, or returns no losses.
        """
        try:
            answer = self.function(run.tasks, run.seed)
        except Exception as error:
            raise ModelError(
                f"The function of the trainer failed in the run on {describe_run(run)}: "
                f"{type(error).__name__}: {error}. Runs that are done already are kept."
            ) from error
        try:
            return answer if isinstance(answer, Outcome) else Outcome(answer)
        except SettingError as error:
            raise ModelError(
                f"The function of the trainer returned no losses for {describe_run(run)}: {error} "
                "Return {task: loss} for every task of the run, or a coterie.training.Outcome."
            ) from error

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"FunctionTrainer({name}, {len(self.tasks)} tasks)"


def names_of(source: Workload | Trainer) -> tuple[str, ...]:
    """Names of the tasks of a workload, or of a trainer."""
    return getattr(source, "task_names", None) or source.tasks  # pyright: ignore[reportReturnType]


def as_trainer(value: Any) -> Trainer:
    """The trainer itself.

    Raises:
        SettingError: when it is none.
    """
    if isinstance(value, Trainer):
        return value
    hint = " Write FunctionTrainer(function, tasks=[...])." if callable(value) else ""
    raise SettingError(
        "Parameter `workload` should be a Workload, or a trainer with `tasks`, `fingerprint` and `train(run)`. "
        f"Found {type(value).__name__}.{hint}"
    )


@keywords_into(context=Context)
@known_arguments
def train_runs(
    trainer: Trainer, runs: Sequence[Run], context: Context = DEFAULT_CONTEXT, *, stage: str = "runs"
) -> list[tuple[Outcome, float]]:
    """Do the runs that the store does not have; each is kept as soon as it is done.

    Args:
        trainer: who does them.
        runs: what to do; the same run is done once.
        context: store of the outcomes, progress, told of runs that are done, and executor, where the trainer works.
            Seeds are those of the runs.
        stage: what the progress is told of.

    Returns:
        Outcome and seconds of each run, in their order.

    Raises:
        ModelError: when a run brings no loss, or none that is finite, of one of its tasks; what was done before is
            kept.
        WorkerError: when the workers of the executor are lost too often, or cannot take the runs.
    """
    wanted, store = list(dict.fromkeys(runs)), context.store
    found = {run: payload for run in wanted if (payload := look(store, UNIT, _key(trainer, run))) is not None}
    missing = [run for run in wanted if run not in found]
    context.progress(stage, len(found), len(wanted))

    def keep(number: int, done: Done) -> None:
        reissue_warnings(done.warned)
        run = missing[number]
        payload = Payload(done.result.arrays, {**done.result.meta, "seconds": done.seconds})
        found[run] = store.unit(UNIT, _key(trainer, run), lambda: payload)
        context.progress(stage, len(found), len(wanted))

    parcel = Parcel(trainer, [("pickled", lambda: _pack(trainer))], _ADVICE)
    run_jobs(context.executor, _train, missing, parcel, stage=stage, done=keep)
    return [(_unpack(found[run]), float(found[run].meta["seconds"])) for run in runs]


def describe_run(run: Run) -> str:
    """Tasks and seed in words, for messages."""
    shown = ", ".join(map(repr, run.tasks[:5])) + (f" and {len(run.tasks) - 5} more" if len(run.tasks) > 5 else "")
    return f"tasks {shown}; seed {run.seed}"


def _train(trainer: Trainer, run: Run) -> Payload:
    """What a worker does."""
    outcome = trainer.train(run)
    for part in PARTS:
        losses = outcome.losses(part)
        lacking = [task for task in run.tasks if task not in losses or not np.isfinite(losses[task]).any()]
        infinite = [task for task in run.tasks if task in losses and np.isinf(losses[task]).any()]
        if lacking or infinite:
            named = ", ".join(map(repr, lacking or infinite))
            raise ModelError(
                f"The run on {describe_run(run)} has no finite {part} loss of {named}. "
                "A training that diverged, or a task without data in this part, is the likely cause. Report a loss for "
                "every task of the run; runs that are done already are kept."
            )
    arrays = {
        f"{part}/{number}": losses[task]
        for part in PARTS
        for losses in [getattr(outcome, part)]
        if losses is not None
        for number, task in enumerate(run.tasks)
    }
    return Payload(dict(arrays), {"tasks": list(run.tasks), "cost": outcome.cost})


def _unpack(payload: Payload) -> Outcome:
    parts: dict[str, dict[str, Any]] = {}
    for number, task in enumerate(payload.meta["tasks"]):
        for part in PARTS:
            if f"{part}/{number}" in payload.arrays:
                parts.setdefault(part, {})[task] = np.asarray(payload.arrays[f"{part}/{number}"])
    return Outcome(parts["validation"], parts.get("test"), payload.meta["cost"])


def _key(trainer: Trainer, run: Run) -> dict[str, Any]:
    return {"trainer": trainer.fingerprint, "tasks": list(run.tasks), "seed": run.seed}


@dataclass(frozen=True, eq=False)
class _Carried:
    """A trainer on its way to a worker."""

    trainer: Trainer

    def open(self) -> Trainer:
        return self.trainer


def _pack(trainer: Trainer) -> bytes:
    from coterie.workload.travel import pack

    return pack(_Carried(trainer))


def _read_losses(losses: Any, part: str) -> dict[str, Floats]:
    """Losses as arrays of one dimension."""
    if not isinstance(losses, Mapping) or not losses:
        raise SettingError(
            f"Parameter `{part}` should map names of tasks to losses. Found {type(losses).__name__} {losses!r:.60}."
        )
    found: dict[str, Floats] = {}
    for task, value in losses.items():
        try:
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.empty((0, 0))
        if array.ndim > 1 or not array.size:
            raise SettingError(
                f"Parameter `{part}`: the loss of task {task!r} should be a number, or one number an example. "
                f"Found {value!r:.60}."
            )
        found[str(task)] = np.atleast_1d(array)
    return found


def read_tasks(tasks: Any) -> tuple[str, ...]:
    """Names of at least two tasks.

    Raises:
        SettingError: for anything else.
    """
    listed = list(tasks) if isinstance(tasks, Sequence) and not isinstance(tasks, str) else []
    if len(listed) < 2 or len(set(listed)) < len(listed) or not all(isinstance(task, str) and task for task in listed):
        raise SettingError(f"Parameter `tasks` should be at least two different names. Found {tasks!r:.80}.")
    return tuple(listed)


def make_run(trainer: Trainer, subset: Sequence[int], seed: int) -> Run:
    """The run on some tasks by their numbers."""
    return Run(tuple(trainer.tasks[task] for task in sorted(subset)), whole_number(seed, "seed", low=0))
