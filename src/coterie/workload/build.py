"""A workload from arrays: one table of labels, or one data set a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie._check import whole_number
from coterie._read import read_array
from coterie._surface import known_arguments
from coterie.errors import SettingError, WorkloadError
from coterie.workload.arrays import (
    Inputs,
    aligned,
    as_inputs,
    as_labels,
    input_names,
    paired,
    row_labels,
    standardised,
    warn_rounded,
)
from coterie.workload.builders import (
    Table,
    TasksLike,
    columns_as_named,
    fresh_copies,
    in_training_units,
    infer_tasks,
    seeded,
)
from coterie.workload.checks import as_groups, as_name, as_recipe, as_widths
from coterie.workload.lazy.inputs import LazyInputs
from coterie.workload.mlp import build_from_spec, mlp_spec
from coterie.workload.recipe import Recipe
from coterie.workload.sparse import SparseLabels
from coterie.workload.split import PARTS, SplitLike, by_position, make_split
from coterie.workload.task import Task
from coterie.workload.validate import check_data
from coterie.workload.validate_model import warn_labels_among_inputs
from coterie.workload.weights import as_weights, joined_weights
from coterie.workload.workload import BuildModel, Forward, OnDevice, Split, Workload

FRACTIONS = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class BuildOptions:
    """What all builders pass through."""

    model: nn.Module | None
    build_model: Callable[..., nn.Module] | None
    initial: str
    recipe: Recipe | Mapping[str, Any] | None
    standardize: bool
    name: str
    hidden: Sequence[int] | int
    forward: Forward | None
    known_groups: Sequence[Sequence[str]] | None
    input_names: tuple[str, ...] | None
    weights: Any = None

    @property
    def own_model(self) -> bool:
        """Whether the user brought a model."""
        return self.model is not None or self.build_model is not None


@known_arguments
def from_arrays(
    x: Any,
    y: Any,
    *,
    tasks: TasksLike | None = None,
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
    weights: Any = None,
) -> Workload:
    """A workload whose tasks share their rows; missing labels are NaN.

    Args:
        x: (rows, ...) inputs: array, tensor, data frame, or a mapping of names to such things. Finite. Names of columns
            are kept, so that served models find them by name.
        y: (rows, tasks) labels: array, tensor, data frame, or a mapping of task names to columns. NaN where missing. Or
            :class:`SparseLabels`, which stay sparse.
            Rows are paired with those of `x` by position, those of two data frames by the labels of their indexes.
        tasks: names, :class:`Task` objects, or a mapping of names to kinds. Where `y` has names, its columns are found
            by name and put into the order of the list. None takes the column names of `y` and
            reads the kinds off the labels: 0 and 1 are binary, whole numbers from 0 to at most 19 are classes, others
            regression.
        model: a module of your own; copies of it are drawn anew for each seed by the ``reset_parameters`` of its parts.
            What is frozen is kept, and so is what was loaded, trained or set; a warning says what.
        build_model: in place of `model`, a function of the seed, or of nothing, or a Module class; called with torch
            seeded. Use it for pretrained models, and for layers that are initialised in a way of your own.
        initial: of `model`, ``"draw"`` to draw all parameters that can be drawn, loaded ones too; ``"given"`` to start
            every seed from the values of `model`; ``"auto"`` to draw those that are as their layers' initialisation
            leaves them.
        recipe: how every model is trained, a :class:`Recipe` or a mapping of its fields; None takes the default.
        split: fractions of (train, validation, test), a :class:`Split`, or a mapping of these names to row numbers or
            masks. Beside data frames, a pandas Index holds labels of rows, and a boolean Series goes by its index.
        seed: of the random split.
        standardize: bring inputs and regression targets to mean 0 and standard deviation 1 over the training rows.
            Columns are standardised one by one; images and the like (three dimensions and more) as a whole; mappings
            and whole numbers for a model of your own not at all.
        name: for tables and reports.
        hidden: widths of the hidden layers of the built-in model, when no model is given; one number is one layer.
        forward: ``forward(model, batch)`` -> outputs, where calling the model is not enough.
        known_groups: groups of task names to compare the found ones with; a task is in one of them at most.
        weights: (rows,) or (rows, tasks) how much labels count in the training loss, by position in `x`; at least 0.
            Validation and test losses stay plain means.

    Raises:
        WorkloadError: when the data cannot be used as they are.
        SettingError: when another argument is of the wrong type or out of range.
        ModelError: when the model cannot be copied or called.

    Warns:
        DataWarning: for guessed kinds, rare classes and other things that are unusual.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> workload = from_arrays(x, x[:, :3] > 0, tasks=["a", "b", "c"])
        >>> workload.task_names, tuple(workload.labels.shape), workload.tasks[0].kind
        (('a', 'b', 'c'), (60, 3), 'binary')
    """
    seed = whole_number(seed, "seed", low=0)
    names, (x, y) = input_names(x), paired(x, y)
    options = BuildOptions(
        model, build_model, initial, recipe, standardize, name, hidden, forward, known_groups, names, weights
    )
    labels, columns = (y, y.names) if isinstance(y, SparseLabels) else as_labels(y)
    inputs = as_inputs(x, own_model=options.own_model, exact=standardize)
    rows = n_rows(inputs)
    if rows != len(labels):
        raise WorkloadError(
            f"Parameters `x` and `y` should have the same number of rows. Found {rows} and {len(labels)}. The likely "
            "cause is one of them transposed or filtered without the other."
        )
    if rows == 0:
        raise WorkloadError(
            "Parameters `x` and `y` have no rows. The likely cause is a filter that dropped everything."
        )
    labels, columns = columns_as_named(labels, tasks, columns)
    made = infer_tasks(labels, tasks, columns)
    chosen = make_split(by_position(split, row_labels(x, y)), rows, seed)
    return assemble(inputs, labels, made, chosen, options)


@known_arguments
def from_datasets(
    datasets: Mapping[str, tuple[Any, Any]] | Sequence[tuple[Any, Any]],
    *,
    tasks: TasksLike | None = None,
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
    weights: Any = None,
) -> Workload:
    """A workload with one data set a task: the rows are put one below the other, with the label of their task only.

    Takes `datasets`, a mapping of task names to pairs (x, y) with x (rows, ...) inputs and y (rows,) labels, or a list
    of such pairs; all inputs have the same columns; those of data frames are matched by name. The other arguments are
    those of :func:`from_arrays`, except `split`: fractions are applied to each data set on its own; a mapping of
    ``"train"``, ``"validation"`` and ``"test"`` to row numbers means rows inside each data set, the same for all; a
    :class:`Split` means rows of all data sets put together. And except `weights`: in the form of `datasets`, for each
    data set (rows,) weights or one number for all of its rows; data sets that a mapping leaves out have 1.

    Raises:
        WorkloadError: when the data cannot be used as they are.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sets = {name: (rng.normal(size=(20, 3)), rng.normal(size=20)) for name in ("north", "south")}
        >>> workload = from_datasets(sets)
        >>> tuple(workload.labels.shape), int(workload.observed.sum())
        ((40, 2), 40)
    """
    seed = whole_number(seed, "seed", low=0)
    keys, pairs, columns = _listed(datasets)
    pairs, names = _same_columns(keys, pairs)
    options = BuildOptions(model, build_model, initial, recipe, standardize, name, hidden, forward, known_groups, names)
    parts = [_pair(pair, key, options) for key, pair in zip(keys, pairs, strict=True)]
    sizes = [len(y) for _, y in parts]
    options = replace(options, weights=None if weights is None else joined_weights(weights, keys, sizes))
    labels = np.full((sum(sizes), len(parts)), np.nan)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    for index, (_, y) in enumerate(parts):
        labels[offsets[index] : offsets[index + 1], index] = y
    inputs = _concatenate([x for x, _ in parts], keys)
    labels, columns = columns_as_named(labels, tasks, columns)
    made = infer_tasks(labels, tasks, columns)
    return assemble(
        inputs, labels, made, split_each(split, sizes, seed, [row_labels(*pair) for pair in pairs]), options
    )


def n_rows(inputs: Inputs) -> int:
    """Number of rows of a tensor or a dict of tensors."""
    return next(iter(inputs.values())).shape[0] if isinstance(inputs, dict) else inputs.shape[0]


def assemble(
    inputs: Inputs | LazyInputs,
    labels: Table,
    tasks: tuple[Task, ...],
    split: Split,
    options: BuildOptions,
) -> Workload:
    """The checked workload of inputs and labels in the tasks' own units."""
    sample = inputs.example if isinstance(inputs, LazyInputs) else inputs
    device = next(iter(sample.values())).device if isinstance(sample, dict) else sample.device
    train = split.train.cpu()
    if not isinstance(inputs, LazyInputs) and not isinstance(labels, SparseLabels):
        warn_labels_among_inputs(inputs, labels, tasks, options.input_names)
    if options.standardize:
        tasks = in_training_units(tasks, labels, train.numpy())
    center = np.array([task.center for task in tasks])
    scale = np.array([task.scale for task in tasks])
    with np.errstate(over="ignore", invalid="ignore"):  # infinite labels are reported by check_data
        if isinstance(labels, SparseLabels):
            targets = cast("Tensor", labels.in_units(center, scale).to(device))
        else:
            exact = (labels - center) / scale
            targets = torch.from_numpy(exact.astype(np.float32)).to(device)
            warn_rounded(exact, targets.cpu().numpy(), "y")
    input_center = input_scale = None
    if options.standardize and isinstance(inputs, Tensor) and inputs.is_floating_point():
        inputs, input_center, input_scale = standardised(inputs, train.to(device))
    sample_weights = as_weights(options.weights, *labels.shape)
    build, spec = _model(sample, sum(task.width for task in tasks), options)
    if device.type != "cpu":
        build = OnDevice(build, device)
    workload = Workload(
        name=as_name(options.name),
        tasks=tasks,
        inputs=inputs,
        labels=targets,
        split=make_split(split, len(labels), 0, device),
        build_model=build,
        recipe=as_recipe(options.recipe),
        forward=options.forward,
        model_spec=spec,
        input_center=input_center,
        input_scale=input_scale,
        known_groups=as_groups(options.known_groups),
        input_names=options.input_names,
        weights=None if sample_weights is None else sample_weights.to(device),
    )
    check_data(workload)
    return workload


def _model(inputs: Inputs, width: int, options: BuildOptions) -> tuple[BuildModel, dict[str, Any] | None]:
    if options.model is not None and options.build_model is not None:
        raise SettingError("Parameters `model` and `build_model` exclude each other. Give one of them.")
    if options.model is not None:
        return fresh_copies(options.model, options.initial), None
    if options.build_model is not None:
        return seeded(options.build_model), None
    if isinstance(inputs, dict):
        raise WorkloadError(
            f"Parameter `x` is a mapping ({', '.join(list(inputs)[:5])}), which the built-in model cannot read. Pass "
            "`model` or `build_model`, or put the columns into one array."
        )
    spec = mlp_spec(math.prod(inputs.shape[1:]), as_widths(options.hidden), width)
    return build_from_spec(spec), spec


def _listed(datasets: Any) -> tuple[list[str], list[Any], tuple[str, ...] | None]:
    """Keys for messages, the pairs, and the names of the tasks where there are some."""
    columns: tuple[str, ...] | None = None
    if isinstance(datasets, Mapping):
        named = cast("Mapping[Any, Any]", datasets)
        columns, pairs = tuple(str(key) for key in named), list(named.values())
    elif isinstance(datasets, Sequence) and not isinstance(datasets, str):
        pairs = list(cast("Sequence[Any]", datasets))
    else:
        raise WorkloadError(
            "Parameter `datasets` should be a mapping of task names to pairs (x, y), or a list of such pairs. Found "
            f"{type(datasets).__name__}. For example {{'north': (x1, y1), 'south': (x2, y2)}}; one table of labels for "
            "all tasks is given to coterie.workload.from_arrays."
        )
    if not pairs:
        raise WorkloadError("Parameter `datasets` is empty. Give at least two data sets, one a task.")
    return list(columns or map(str, range(len(pairs)))), pairs, columns


def _same_columns(keys: list[str], pairs: list[Any]) -> tuple[list[Any], tuple[str, ...] | None]:
    """The pairs with the columns of all data frames in the order of the first one, and the names if all have them."""
    whole = [_is_pair(pair) for pair in pairs]  # others are reported by _pair
    found = [input_names(pair[0]) if ok else None for pair, ok in zip(pairs, whole, strict=True)]
    first = next((index for index, names in enumerate(found) if names is not None), None)
    if first is None:
        return pairs, None
    made: list[Any] = []
    for key, pair, ok in zip(keys, pairs, whole, strict=True):
        where = f"Parameter `datasets`: the inputs of entry {key!r}"
        reference = f"entry {keys[first]!r}"
        made.append((aligned(pair[0], found[first], where=where, reference=reference), pair[1]) if ok else pair)
    return made, found[first] if all(names is not None for names in found) else None


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple | list) and len(cast("Sequence[Any]", pair)) == 2


def _pair(pair: Any, key: str, options: BuildOptions) -> tuple[Inputs, NDArray[np.float64]]:
    if not _is_pair(pair):
        raise WorkloadError(
            f"Parameter `datasets`: entry {key!r} should be a pair (x, y). Found {type(pair).__name__}."
        )
    given = paired(pair[0], pair[1], f"Parameter `datasets`: the inputs and labels of entry {key!r}")
    try:
        x = as_inputs(given[0], own_model=options.own_model, exact=options.standardize)
    except WorkloadError as error:
        raise WorkloadError(f"Parameter `datasets`, entry {key!r}: {error}") from error
    y = read_array(given[1], f"datasets[{key!r}][1]").astype(np.float64)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) != n_rows(x) or len(y) == 0:
        raise WorkloadError(
            f"Parameter `datasets`: entry {key!r} should have one label a row, and at least one row. Found "
            f"{n_rows(x)} rows of inputs and labels of shape {y.shape}."
        )
    return x, y


def _concatenate(parts: list[Inputs], keys: list[str]) -> Inputs:
    first = parts[0]
    for key, part in zip(keys, parts, strict=True):
        if _form(part) != _form(first):
            raise WorkloadError(
                f"Parameter `datasets`: all inputs should have the same columns. Found {_form(first)} for {keys[0]!r} "
                f"and {_form(part)} for {key!r}."
            )
    if isinstance(first, dict):
        mappings = cast("list[dict[str, Tensor]]", parts)
        return {name: torch.cat([part[name] for part in mappings]) for name in first}
    return torch.cat(cast("list[Tensor]", parts))  # float32 beside float64 becomes float64


def _form(inputs: Inputs) -> Any:
    """Everything about inputs but the number of rows."""
    if isinstance(inputs, dict):
        return {name: _form(part) for name, part in inputs.items()}
    return (*inputs.shape[1:], "float32" if inputs.is_floating_point() else "int64")


def split_each(split: SplitLike, sizes: list[int], seed: int, indexes: Sequence[Any] = ()) -> Split:
    """One split of data sets below each other.

    Args:
        split: as for :func:`from_datasets`.
        sizes: rows of each data set.
        seed: of the random split of the first one.
        indexes: labels of the rows of each data set, None where they have none.
    """
    if isinstance(split, Split):
        return make_split(split, sum(sizes), seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    labels = list(indexes) or [None] * len(sizes)
    each = [
        make_split(by_position(split, own), size, seed + number)
        for number, (size, own) in enumerate(zip(sizes, labels, strict=True))
    ]
    return Split(
        *(torch.cat([own.part(part) + offset for own, offset in zip(each, offsets, strict=False)]) for part in PARTS)
    )
