"""A workload from data sets and loaders, whose rows are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

from coterie._check import whole_number
from coterie._surface import known_arguments, warn
from coterie.errors import DataWarning, SettingError, WorkloadError
from coterie.workload.arrays import as_labels
from coterie.workload.build import FRACTIONS, BuildOptions, assemble, split_each
from coterie.workload.builders import Table, TasksLike, columns_as_named, infer_tasks
from coterie.workload.lazy.form import ItemForm, LabelReader
from coterie.workload.lazy.inputs import JoinedInputs
from coterie.workload.lazy.read import Source, is_stream, read_sources
from coterie.workload.recipe import Recipe
from coterie.workload.sparse import SparseLabels
from coterie.workload.split import PARTS, SplitLike
from coterie.workload.task import Task
from coterie.workload.workload import Forward, Split, Workload


@known_arguments
def from_dataset(
    dataset: Any,
    *,
    tasks: TasksLike | None = None,
    validation: Any = None,
    test: Any = None,
    inputs: str | Sequence[str] | None = None,
    labels: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
    workers: int = 0,
    model: nn.Module | None = None,
    build_model: Callable[..., nn.Module] | None = None,
    initial: str = "auto",
    recipe: Recipe | Mapping[str, Any] | None = None,
    split: SplitLike = FRACTIONS,
    seed: int = 0,
    standardize: bool = True,
    name: str = "workload",
    hidden: Sequence[int] | int = (64, 32),
    forward: Forward | None = None,
    known_groups: Sequence[Sequence[str]] | None = None,
) -> Workload:
    """A workload whose inputs are read from data sets when a batch needs them, and are never in memory as a whole.

    The data are read once at first, for their labels. A data set whose items have numbers (``__getitem__`` and
    ``__len__``: torch, Hugging Face ``datasets``) is read again for each batch. A stream (``__iter__`` alone: torch's
    ``IterableDataset``, ``datasets`` in streaming mode, a generator) is read once, to its end; its inputs go to a
    temporary folder, from where rows are drawn in any order.

    Items are pairs (inputs, labels), or mappings. Inputs are numbers or tensors of one size, or a dict of them. Labels
    are one number a task in the order of `tasks`, NaN or None where missing; or a mapping of task names to numbers,
    which may lack tasks.

    Random augmentation in a data set is seeded row by row, by `seed`, the seed of a training and its step: each step
    sees another view, the same training sees the same ones, and outside of training steps a row has one view. What a
    stream has drawn is drawn once for all.

    * `dataset`: of all tasks; or a mapping of task names to data sets, one a task, whose labels are one number a row. A
      mapping of ``"train"``, ``"validation"`` and ``"test"`` (``DatasetDict``) gives the three parts.
    * `validation`, `test`: data sets of these parts, of the same form; both or none. Use them where training rows are
      augmented, as the rows that judge should not be. Without them `split` splits the rows.
    * `inputs`: of items that are mappings, the name of the part that the model gets, or names, for a dict. None takes
      all parts that are no labels.
    * `labels`: of items that are mappings, the name of the part with the labels, or names of parts that are a task
      each. Or the labels of all rows as a table, as `y` of :func:`from_arrays`; then the data are not read first.
    * `collate`: makes a batch, (inputs, labels) or a mapping, of a list of items, as that of a ``DataLoader``.
    * `workers`: processes that read items; 0 reads in this one.
    * `standardize`: bring regression targets to mean 0 and standard deviation 1. Inputs are left as they are read.

    `tasks`, `model`, `build_model`, `initial`, `recipe`, `split`, `seed`, `name`, `hidden`, `forward` and
    `known_groups` are those of :func:`from_arrays`; with a data set a task, `split` is that of :func:`from_datasets`.

    Raises:
        WorkloadError: when there is no length, no row or no label, or they cannot be used as they are.
        SettingError: when another argument is of the wrong type or out of range.

    Warns:
        DataWarning: when rows cannot be seeded, when those that judge are augmented, and as :func:`from_arrays` does.

    Cost: one pass over the data; the disk space of the inputs of streams.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        >>> workload = from_dataset(TensorDataset(x, (x[:, :3] > 0).float()), tasks=["a", "b", "c"])
        >>> workload.task_names, tuple(workload.labels.shape), tuple(workload.batch(torch.tensor([4, 2])).shape)
        (('a', 'b', 'c'), (60, 3), (2, 5))
    """
    seed = whole_number(seed, "seed", low=0)
    if collate is not None and not callable(collate):
        raise SettingError(
            f"Parameter `collate` should be a function of a list of items. Found {type(collate).__name__}."
        )
    options = BuildOptions(model, build_model, initial, recipe, standardize, name, hidden, forward, known_groups, None)
    given = _Given.of(inputs, labels, tasks, collate, whole_number(workers, "workers", low=0))
    return _build(_parts(dataset, validation, test), given.of_dataset, given, split, seed, options)


@known_arguments
def from_loaders(
    loader: Any,
    *,
    tasks: TasksLike | None = None,
    validation: Any = None,
    test: Any = None,
    inputs: str | Sequence[str] | None = None,
    labels: Any = None,
    model: nn.Module | None = None,
    build_model: Callable[..., nn.Module] | None = None,
    initial: str = "auto",
    recipe: Recipe | Mapping[str, Any] | None = None,
    split: SplitLike = FRACTIONS,
    seed: int = 0,
    standardize: bool = True,
    name: str = "workload",
    hidden: Sequence[int] | int = (64, 32),
    forward: Forward | None = None,
    known_groups: Sequence[Sequence[str]] | None = None,
) -> Workload:
    """A workload from loaders: their data sets, with their collate, workers and batch size.

    Of a ``DataLoader`` over a data set with numbers, data set, `collate_fn` and workers are taken over; which rows make
    a batch is drawn by the seed of each training, so that groups can be compared. Its `batch_size` counts where the
    recipe says none. A loader over a stream, and any other iterable of batches, is read once to its end, see
    :func:`from_dataset`.

    Takes `loader`, a loader of all tasks, a mapping of task names to loaders, one a task, or a mapping of ``"train"``,
    ``"validation"`` and ``"test"``; and `validation` and `test`, loaders of these parts, both or none. The other
    arguments are those of :func:`from_dataset`.

    Raises:
        WorkloadError: when a batch has no labels, there is no batch, or they cannot be used as they are.

    Warns:
        DataWarning: when a loader has a sampler of its own, which is not kept; and as :func:`from_dataset`.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        >>> loader = DataLoader(TensorDataset(x, (x[:, :3] > 0).float()), batch_size=16, shuffle=True)
        >>> workload = from_loaders(loader, tasks=["a", "b", "c"])
        >>> workload.recipe.batch_size, workload.n_tasks
        (16, 3)
    """
    seed = whole_number(seed, "seed", low=0)
    parts = _parts(loader, validation, test)
    recipe = _with_batch_size(recipe, next(iter(parts.values()))[0][1])
    options = BuildOptions(model, build_model, initial, recipe, standardize, name, hidden, forward, known_groups, None)
    given = _Given.of(inputs, labels, tasks, None, 0)
    return _build(parts, given.of_loader, given, split, seed, options)


#: tables of labels with more places than this stay sparse (80 MB in float64) ...
_DENSE = 10**7
#: ... where a smaller share of them is known: a known label takes 28 bytes, a place of a table 5
_SPARSE = 0.1
#: part -> (task or None, data) of each of its data sets
_Parts = dict[str | None, list[tuple[str | None, Any]]]


@dataclass(frozen=True)
class _Given:
    """How items are read, as the arguments say."""

    inputs: str | tuple[str, ...] | None
    labels: str | tuple[str, ...] | None
    table: Any
    tasks: TasksLike | None
    collate: Callable[[list[Any]], Any] | None
    workers: int

    @staticmethod
    def of(inputs: Any, labels: Any, tasks: TasksLike | None, collate: Any, workers: int) -> _Given:
        names, picked = _names(labels), _names(inputs)
        if inputs is not None and picked is None:
            raise SettingError(
                f"Parameter `inputs` should be the name of a part of the items, or a list of names. Found {inputs!r}."
            )
        return _Given(picked, names, None if names is not None else labels, tasks, collate, workers)

    def task_names(self) -> tuple[str, ...] | None:
        """Names that `tasks`, or names of labels, say."""
        if self.tasks is None:
            return self.labels if isinstance(self.labels, tuple) else None
        if isinstance(self.tasks, Mapping):
            return tuple(kind.name if isinstance(kind, Task) else name for name, kind in self.tasks.items())
        return tuple(entry.name if isinstance(entry, Task) else str(entry) for entry in self.tasks)

    def form(self, where: str) -> ItemForm:
        """How items are taken apart."""
        return ItemForm(where, self.inputs, self.labels, self.task_names() or (), self.table is None)

    def of_dataset(self, data: Any, where: str, own: str | None, part: str | None) -> Source:
        """A data set or a stream of items."""
        if isinstance(data, DataLoader):
            raise WorkloadError(f"{where} is a DataLoader. Give it to coterie.workload.from_loaders.")
        return Source(data, self.form(where), own, part, self.collate, self.workers)

    def of_loader(self, data: Any, where: str, own: str | None, part: str | None) -> Source:
        """A loader: its data set, or the stream of its batches."""
        form = self.form(where)
        if not hasattr(data, "__iter__"):
            raise WorkloadError(
                f"{where} should be a DataLoader, or another iterable of batches. Found {type(data).__name__}."
            )
        if not isinstance(data, DataLoader) or is_stream(cast("DataLoader[Any]", data).dataset):
            return Source(data, form, own, part, batches=True)
        loader = cast("DataLoader[Any]", data)
        if not isinstance(loader.sampler, RandomSampler | SequentialSampler):
            warn(
                f"{where} draws its rows with a {type(loader.sampler).__name__}, which is not kept: every "
                "training goes through all its rows in an order of its own. Rows that should be seen more often can be "
                "named several times by a torch.utils.data.Subset.",
                DataWarning,
            )
        collate: Any = None if loader.collate_fn is default_collate else loader.collate_fn
        workers, context = loader.num_workers, loader.multiprocessing_context
        return Source(loader.dataset, form, own, part, collate, workers, loader.worker_init_fn, context)


def _names(given: Any) -> str | tuple[str, ...] | None:
    """A name or several; None for everything else."""
    if isinstance(given, str):
        return given
    listed = isinstance(given, Sequence) and len(cast("Sequence[Any]", given)) > 0
    if listed and all(isinstance(name, str) for name in given):
        return tuple(cast("Sequence[str]", given))
    return None


def _parts(data: Any, validation: Any, test: Any) -> _Parts:
    """Data sets by part, each with its task where there is one a task."""
    if isinstance(data, Mapping) and set(cast("Mapping[str, Any]", data)) == set(PARTS) and validation is None:
        named = cast("Mapping[str, Any]", data)
        data, validation, test = (named[part] for part in PARTS)
    if (validation is None) != (test is None):
        raise SettingError(
            "Parameters `validation` and `test` go together: one part stops trainings and chooses, the other judges. "
            f"Found only `{'test' if validation is None else 'validation'}`."
        )
    if validation is None:
        return {None: _by_task(data)}
    return {part: _by_task(given) for part, given in zip(PARTS, (data, validation, test), strict=True)}


def _by_task(data: Any) -> list[tuple[str | None, Any]]:
    if not isinstance(data, Mapping):
        return [(None, data)]
    if not data:
        raise WorkloadError("Parameter `dataset` is an empty mapping. Give a data set for each task.")
    return [(str(name), own) for name, own in cast("Mapping[Any, Any]", data).items()]


def _with_batch_size(recipe: Any, loader: Any) -> Any:
    size = getattr(loader, "batch_size", None)
    if size is None or not (recipe is None or (isinstance(recipe, Mapping) and "batch_size" not in recipe)):
        return recipe
    return {**cast("Mapping[str, Any]", recipe or {}), "batch_size": size}


def _build(
    parts: _Parts,
    make: Callable[[Any, str, str | None, str | None], Source],
    given: _Given,
    split: SplitLike,
    seed: int,
    options: BuildOptions,
) -> Workload:
    sources = [make(data, _where(part, own), own, part) for part, all_of in parts.items() for own, data in all_of]
    owners = tuple(dict.fromkeys(own for _, own in ((s.part, s.own) for s in sources) if own is not None))
    names = given.task_names() or owners or None
    if owners and names is not None and set(owners) - set(names):
        raise WorkloadError(
            f"Parameter `tasks` lacks the data sets {sorted(set(owners) - set(names))[:5]}, which have a name each."
        )
    reader = LabelReader("Parameter `dataset`", names)
    found, places = read_sources(sources, reader, seed)
    inputs = found[0] if len(found) == 1 else JoinedInputs(found)
    table: Table
    if given.table is None:
        table, columns = _table(reader, inputs.rows), tuple(reader.names)
    elif isinstance(given.table, SparseLabels):
        table, columns = given.table, given.table.names
    else:
        table, columns = as_labels(given.table)
    if len(table) != inputs.rows:
        raise WorkloadError(
            f"Parameter `labels` should have one row for each of the {inputs.rows} rows of the data (training, "
            f"then validation, then test). Found {len(table)}."
        )
    table, columns = columns_as_named(table, given.tasks, columns)
    made = infer_tasks(table, given.tasks, columns)
    if None in places:
        chosen = split_each(split, [stop - start for start, stop in places[None]], seed)
    else:
        chosen = Split(*(torch.cat([torch.arange(*place) for place in places[part]]) for part in PARTS))
    if inputs.random and None in places:
        warn(
            "Parameter `dataset`: its rows are augmented at random, also those that stop and judge trainings (each in "
            "one way, always the same). Give these parts without augmentation: validation=..., test=....",
            DataWarning,
        )
    return assemble(inputs, table, made, chosen, options)


def _where(part: str | None, own: str | None) -> str:
    where = f"Parameter `{'dataset' if part in (None, 'train') else part}`"
    return where if own is None else f"{where}, entry {own!r},"


def _table(reader: LabelReader, rows: int) -> Table:
    row, task, value = reader.triples()
    if not len(row):
        raise WorkloadError(
            "Parameter `dataset` has no labels: all of them are missing. The likely cause is a name in `labels` that "
            "stands for something else."
        )
    if rows * len(reader.names) > _DENSE and len(row) < _SPARSE * rows * len(reader.names):
        return SparseLabels.of(row, task, value, (rows, len(reader.names)))
    table = np.full((rows, len(reader.names)), np.nan)
    table[row, task] = value
    return table
