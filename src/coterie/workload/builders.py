"""`build_model` from what users have at hand: a module, a class, a function of the seed or of nothing."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coterie._check import choice
from coterie._random import random_numbers
from coterie._surface import warn
from coterie.errors import DataWarning, ModelError, WorkloadError
from coterie.workload.arrays import as_labels
from coterie.workload.initial import Initial, copied, decide, draw_anew, named_tensors
from coterie.workload.sparse import SparseLabels, places
from coterie.workload.task import Task

INITIAL = ("auto", "draw", "given")


@dataclass(frozen=True)
class SeededBuilder:
    """Calls a user's function under a seeded copy of torch's random state, so that it need not seed anything itself.

    The result depends on the seed only and the global random state stays as it was.
    """

    build: Callable[..., nn.Module]
    takes_seed: bool

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed."""
        with random_numbers(seed=seed):
            return self.build(seed) if self.takes_seed else self.build()


@dataclass(frozen=True)
class FreshCopyBuilder:
    """Copies a module and draws its parameters anew.

    Every submodule with a method ``reset_parameters`` is re-initialised, children before their parents, so that a
    parent that initialises its children in its own way has the last word. What `kept` names (a frozen backbone, loaded
    weights, gates that start at zero) and what no ``reset_parameters`` reaches keep the values that were given.
    """

    model: nn.Module
    kept: frozenset[str]

    def __call__(self, seed: int) -> nn.Module:
        """The model of a seed."""
        model = copied(self.model)
        with random_numbers(seed=seed), torch.no_grad():
            draw_anew(model)
            for (name, given), (_, drawn) in zip(named_tensors(self.model), named_tensors(model), strict=True):
                if name in self.kept:
                    drawn.copy_(given)
        return model


def seeded(build_model: Any) -> SeededBuilder:
    """A reproducible `build_model` from a function of the seed, a function without arguments, or a Module class.

    Raises:
        ModelError: when it cannot be called.

    Example:
        >>> build = seeded(lambda: nn.Linear(2, 2))
        >>> bool((build(1).weight == build(1).weight).all()), bool((build(1).weight == build(2).weight).all())
        (True, False)
    """
    if isinstance(build_model, nn.Module):
        raise ModelError(
            "Parameter `build_model` should be a function of the seed. Found the module "
            f"{type(build_model).__name__}. Pass an instance as `model=` instead."
        )
    if not callable(build_model):
        raise ModelError(
            "Parameter `build_model` should be a function of the seed that returns a torch.nn.Module. Found "
            f"{type(build_model).__name__}. For example build_model=lambda seed: Net()."
        )
    if isinstance(build_model, SeededBuilder):
        return build_model
    build: Callable[..., Any] = build_model
    return SeededBuilder(build, _takes_seed(build))


def fresh_copies(model: Any, initial: str = "auto") -> FreshCopyBuilder:
    """A `build_model` that draws the parameters of copies of a module anew; see :class:`FreshCopyBuilder`.

    Args:
        model: the module.
        initial: ``"auto"`` draws what is as its ``reset_parameters`` leaves it, and keeps what was loaded, trained or
            set; ``"draw"`` draws all that is trained; ``"given"`` keeps everything.

    Raises:
        ModelError: when it is no module, cannot be copied, or has no numbers yet.
        SettingError: when `initial` is something else.

    Warns:
        DataWarning: when trained parameters have the same values for all seeds, saying which.

    Cost: three to 32 draws of the parameters.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"Parameter `model` should be a torch.nn.Module. Found {type(model).__name__}. A function or a class that "
            "makes one is passed as `build_model=` instead."
        )
    choice(initial, "initial", INITIAL)
    refuse_meta(model)
    try:
        given = copied(model)
    except Exception as error:
        raise ModelError(
            f"Parameter `model`: a {type(model).__name__} cannot be copied with copy.deepcopy ({error}). Pass "
            "`build_model=lambda seed: ...`, which makes a new one for each seed."
        ) from error
    with random_numbers(seed=0), torch.no_grad():
        decided = decide(model, initial)
    if decided.same:
        warn(_same(decided), DataWarning)
    return FreshCopyBuilder(given, decided.kept)


def refuse_meta(model: nn.Module) -> None:
    """Raise ModelError when parameters are on the meta device, where they have a shape and no numbers."""
    meta = [name for name, tensor in named_tensors(model) if tensor.is_meta]
    if meta:
        raise ModelError(
            f"The model has parameters or buffers on the meta device, without numbers: {', '.join(meta[:3])}. The "
            "likely cause is torch.device('meta') or init_empty_weights around its making. Make it on the CPU, or use "
            "model.to_empty(device='cpu') and initialise or load it."
        )


def _same(decided: Initial) -> str:
    def listed(names: Sequence[str]) -> str:
        return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" or "none"

    return (
        f"Parameter `model`: {len(decided.same)} parameters keep the values they have now for every seed, because they "
        "were loaded, trained, set or initialised in another way than by `reset_parameters`, or no such method reaches "
        f"them: {listed(decided.same)}. Drawn anew for each seed: {listed(decided.drawn)}. If all should be drawn, say "
        "initial='draw', or pass `build_model=lambda seed: ...`, which makes the model of a seed as you want it; "
        "initial='given' keeps all."
    )


def _takes_seed(build: Callable[..., Any]) -> bool:
    """Whether the first positional argument is the seed; a Module class that can be called bare gets none."""
    try:
        parameters = list(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):  # builtins without a signature
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if inspect.isclass(build) and all(p.default is not p.empty or p.kind is p.VAR_POSITIONAL for p in positional):
        return False  # its optional arguments are widths and the like, not a seed
    return bool(positional)


#: whole-numbered columns with more values than this are read as regression
MAX_INFERRED_CLASSES = 20

#: labels (rows, tasks) in the tasks' own units
Table = NDArray[np.float64] | SparseLabels
TasksLike = Sequence[str | Task] | Mapping[str, str | Task]


def infer_tasks(labels: Table, tasks: TasksLike | None, columns: tuple[str, ...] | None) -> tuple[Task, ...]:
    """One :class:`Task` a column of labels.

    A column of 0 and 1 is binary; whole numbers from 0 to at most 19 are classes; everything else is regression.
    Guesses that could be wrong are said in one DataWarning. `tasks` may hold names, tasks, or a mapping of names to
    kinds.

    Raises:
        WorkloadError: when the number of tasks differs from the number of columns.
    """
    width = labels.shape[1]
    given = _given(tasks, columns, width)
    if len(given) != width:
        raise WorkloadError(
            f"Parameter `tasks` should have one entry for each of the {width} columns of `y`. Found {len(given)}. The "
            "likely cause is `y` transposed: its rows are examples, its columns are tasks."
        )
    notes: list[str] = []
    made = tuple(
        _task(entry, labels.known(index)[1].numpy() if isinstance(labels, SparseLabels) else labels[:, index], notes)
        for index, entry in enumerate(given)
    )
    if notes:
        shown = "; ".join(notes[:4]) + (f"; and {len(notes) - 4} more" if len(notes) > 4 else "")
        warn(
            f"Parameter `tasks`: the kind of some tasks was guessed: {shown}. If a guess is wrong, say what they are, "
            "for example tasks=[Task('a', 'regression'), ...] or tasks={'a': 'binary', ...}.",
            DataWarning,
        )
    return made


def labels_and_tasks(
    y: Any, tasks: TasksLike | None, rows: int, problem: str
) -> tuple[NDArray[np.float64], tuple[Task, ...]]:
    """A table of labels (rows, tasks), float64, in the order of `tasks`, and a :class:`Task` for each of its columns.

    Args:
        y: labels as users give them.
        tasks: names, tasks, kinds or None, see :func:`infer_tasks`.
        rows: so many there should be.
        problem: what to say where there are not, with ``{found}`` for how many there are.

    Raises:
        WorkloadError: when they cannot be read, or are not as many.
    """
    labels, columns = as_labels(y)
    if len(labels) != rows:
        raise WorkloadError(problem.format(found=len(labels)))
    labels, columns = columns_as_named(labels, tasks, columns)
    return labels, infer_tasks(labels, tasks, columns)


def columns_as_named(
    labels: Table, tasks: TasksLike | None, columns: tuple[str, ...] | None
) -> tuple[Any, tuple[str, ...] | None]:
    """Labels and their column names in the order in which a list of `tasks` names them.

    Columns that are merely numbered (0, 1, ...) have no names of their own and are taken by position; so are labels
    without column names.

    Raises:
        WorkloadError: when the columns have names and `tasks` has others, or `tasks` is no list or mapping.
    """
    given: Any = tasks
    listed = hasattr(given, "__iter__") and hasattr(given, "__len__") and not isinstance(given, set | frozenset)
    if tasks is not None and not listed:
        raise WorkloadError(
            "Parameter `tasks` should be a list of names or tasks, or a mapping of names to kinds. Found "
            f"{type(given).__name__}. The likely cause is a set, which has no order, or a generator: use list(...)."
        )
    if columns is None or tasks is None or isinstance(tasks, str):
        return labels, columns
    entries = cast("list[Any]", list(tasks))
    names = [entry.name if isinstance(entry, Task) else entry for entry in entries]
    if not all(isinstance(name, str) for name in names):
        return labels, columns  # reported entry by entry later
    if isinstance(tasks, Mapping):
        names = [kind.name if isinstance(kind, Task) else name for name, kind in tasks.items()]
    if sorted(names) != sorted(columns) or len(set(columns)) < len(columns):
        if columns == tuple(map(str, range(len(columns)))) and not isinstance(tasks, Mapping):
            return labels, columns
        raise WorkloadError(_other_names(names, columns))
    if isinstance(tasks, Mapping):  # the order of the columns, not of the mapping
        return labels, columns
    order = [columns.index(name) for name in names]
    return labels.picked(order) if isinstance(labels, SparseLabels) else labels[:, order], tuple(names)


def _other_names(names: list[str], columns: tuple[str, ...]) -> str:
    missing = [name for name in columns if name not in set(names)]
    unknown = [name for name in names if name not in set(columns)]
    repeated = [name for name, count in Counter((*columns,)).items() if count > 1]
    repeated += [name for name, count in Counter(names).items() if count > 1 and name not in repeated]
    again = f"; found more than once: {repeated[:5]}" if repeated else ""
    return (
        f"Parameter `tasks` should have one entry for each of the {len(columns)} named columns of the labels, with its "
        f"name. Missing: {missing[:5] or 'none'}; no columns of the labels: {unknown[:5] or 'none'}{again}. The likely "
        "cause is a misspelt name, or columns left in that are no tasks. Rename or pick the columns first (for example "
        "`y[['a', 'b']]`), give kinds as tasks={'column': 'binary', ...}, or pass `y.to_numpy()` to go by position."
    )


def in_training_units(tasks: tuple[Task, ...], labels: Table, train: NDArray[np.int64]) -> tuple[Task, ...]:
    """Regression tasks with the mean and standard deviation of their training labels as `center` and `scale`.

    Tasks that state a center or a scale of their own keep it. Columns without two different training labels keep (0,
    1); the checks of the data report them.
    """
    made: list[Task] = []
    sparse = isinstance(labels, SparseLabels)
    place = places(torch.from_numpy(train), len(labels)) if sparse else torch.empty(0)
    for index, task in enumerate(tasks):
        column = labels.known_among(index, place).numpy() if sparse else labels[train, index]
        column = column[np.isfinite(column)]
        free = (task.center, task.scale) == (0.0, 1.0) and len(column) > 1
        if free and task.loss.standardizes(torch.from_numpy(column)):
            moved = column - column[0]  # a large offset does not enter any sum
            center, scale = float(column[0] + moved.mean()), float(moved.std())
            if scale > 1e-15 * abs(center):  # more than rounding errors
                task = replace(task, center=center, scale=scale)
        made.append(task)
    return tuple(made)


def _given(tasks: TasksLike | None, columns: tuple[str, ...] | None, width: int) -> list[str | Task]:
    if tasks is None:
        return list(columns) if columns is not None else [f"task {index}" for index in range(width)]
    if isinstance(tasks, str):
        raise WorkloadError(f"Parameter `tasks` should be a list of names or tasks. Found the text {tasks!r}.")
    if isinstance(tasks, Mapping):
        named = dict(tasks)
        if columns is not None and set(columns) == set(named):  # order of the columns, not of the mapping
            named = {name: named[name] for name in columns}
        return [kind if isinstance(kind, Task) else Task(name, kind) for name, kind in named.items()]
    return list(tasks)


def _task(entry: Any, column: NDArray[np.float64], notes: list[str]) -> Task:
    if isinstance(entry, Task):
        return entry
    if not isinstance(entry, str):
        raise WorkloadError(
            f"Parameter `tasks` should hold names (text) or coterie.workload.Task objects. Found {entry!r} "
            f"({type(entry).__name__})."
        )
    values = np.unique(column[np.isfinite(column)])
    if len(values) == 0 or set(values.tolist()) <= {0.0, 1.0}:
        return Task(entry, "binary")
    whole = bool((values == np.round(values)).all())
    if whole and values[0] == 0 and len(values) > 2 and values[-1] < MAX_INFERRED_CLASSES:
        classes = int(values[-1]) + 1
        notes.append(f"{entry!r} has whole numbers from 0 to {classes - 1} and was read as {classes} classes")
        return Task(entry, "multiclass", classes=classes)
    if whole and len(values) > 2 and values[0] == -1 and values[-1] < MAX_INFERRED_CLASSES:
        raise WorkloadError(
            f"Parameter `y`: the labels of {entry!r} are whole numbers from -1 to {values[-1]:g}. The likely cause is "
            "-1 as a mark for missing labels: put NaN there, for example with numpy.where(y < 0, numpy.nan, y). If -1 "
            f"is a value like the others, say tasks={{{entry!r}: 'regression', ...}}."
        )
    if len(values) == 2:
        notes.append(f"{entry!r} has the two values {values[0]:g} and {values[1]:g} and was read as regression")
    elif whole and len(values) <= MAX_INFERRED_CLASSES:
        notes.append(
            f"{entry!r} has {len(values)} whole numbers from {values[0]:g} to {values[-1]:g} and was read as regression"
        )
    return Task(entry, "regression")
