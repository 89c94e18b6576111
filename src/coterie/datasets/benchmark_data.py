"""Benchmark data sets: built-in data, split and trained for measuring estimators rather than for serving models.

What is to be measured is the difference that the partners make, so each has many validation rows (a value is the mean
over them), few test rows, small networks and a recipe that stops early. Most splits, sizes and architectures follow
published measurements of the same data, so that figures can be compared; see docs/benchmark.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from coterie._check import choice
from coterie.datasets import load
from coterie.datasets.mhc import read as read_mhc
from coterie.errors import WorkloadError
from coterie.workload.build import from_arrays
from coterie.workload.recipe import Recipe
from coterie.workload.task import Task
from coterie.workload.workload import Workload

#: tasks that are not used: a class with 1.4 % of positives has a loss that hardly any partner changes
RARE = "Class14"
NOISE = 0.1
#: an allele whose measured peptides hardly ever bind has labels of this standard deviation or less
NEARLY_CONSTANT = 0.02
#: rows of `mhc` and `chemicals` that are used: those with at least so many labels, and all rows of scarce tasks
ENOUGH, SCARCE = 5, 250


@dataclass(frozen=True)
class BenchmarkData:
    """A workload to measure on.

    Attributes:
        name: of the built-in data.
        sizes: sizes of the random subsets, used in turn.
        make: builds the workload.
        tuned: whether constants of the default estimator were chosen with this data set at hand.
    """

    name: str
    sizes: tuple[int, ...]
    make: Callable[[], Workload]
    tuned: bool


def benchmark_data(name: str) -> BenchmarkData:
    """The benchmark data set of a built-in workload.

    Raises:
        SettingError: there is none of that name.
        MissingDependencyError: when the data's package is not installed (raised by `make`).

    Example:
        >>> benchmark_data("yeast").sizes
        (2, 3, 4, 5, 6)
    """
    choice(name, "name", sorted(BENCHMARK_DATA))
    return BENCHMARK_DATA[name]


def _yeast() -> Workload:
    x, y, tasks = _raw(load("yeast"))
    keep = [index for index, task in enumerate(tasks) if task.name != RARE]
    recipe = Recipe(learning_rate=2e-3, weight_decay=0.1, epochs=20, batch_size=50, check_every=8, patience=3)
    return _build("yeast", x, y[:, keep], [tasks[index] for index in keep], recipe, (600, 1617), (64, 32))


def _water() -> Workload:
    work = load("water")
    x, y, tasks = _raw(work)
    counts: NDArray[np.int64] = (~np.isnan(y)).sum(0)
    day = np.concatenate([np.arange(n) for n in counts])  # rows of a station are its days in order
    days = int(day.max()) + 1
    order = np.random.default_rng(0).permutation(np.arange(423, days))
    parts = {"train": np.arange(423), "validation": order[:242], "test": order[242:]}
    split = {part: np.flatnonzero(np.isin(day, numbers)) for part, numbers in parts.items()}
    recipe = Recipe(learning_rate=2e-3, weight_decay=1e-2, epochs=60, batch_size=160, check_every=16, patience=3)
    return from_arrays(x, y, tasks=tasks, recipe=recipe, split=split, hidden=(64, 32), name="water")


def _chemicals() -> Workload:
    x, y, tasks = _raw(load("chemicals"))
    recipe = Recipe(learning_rate=1.5e-3, weight_decay=1e-2, epochs=20, batch_size=64, check_every=32, patience=3)
    rows = _informative(y, 6400)
    return _build("chemicals", x[rows], y[rows], tasks, recipe, (3000, 3000), (64, 32))


def _mhc() -> Workload:
    x, y, tasks = _raw(load("mhc"))
    recipe = Recipe(learning_rate=1e-3, weight_decay=1e-2, epochs=30, batch_size=64, check_every=16, patience=3)
    keep = np.flatnonzero(np.nanstd(y, 0) > NEARLY_CONSTANT)
    y, tasks = y[:, keep], [tasks[index] for index in keep]
    rows = _informative(y, 10400)
    return _build("mhc", x[rows], y[rows], tasks, recipe, (5000, 5000), (64, 32))


def _mhc2() -> Workload:
    """Binding to class II molecules: longer peptides, other alleles; no row or task in common with `mhc`."""
    x, y, alleles = read_mhc("mhcII")
    recipe = Recipe(learning_rate=1e-3, weight_decay=1e-2, epochs=30, batch_size=64, check_every=16, patience=3)
    tasks = [Task(allele, "regression") for allele in alleles]
    return _build("mhc2", x, y, tasks, recipe, (4000, 4000), (64, 32))


def _digits() -> Workload:
    """Ten digits and ten attributes of a digit; a tenth of the labels is wrong, so that tasks can help each other."""
    x, y, _ = _raw(load("digits"))
    digit = y.argmax(1)
    attributes = {
        "even": (0, 2, 4, 6, 8),
        "above 4": (5, 6, 7, 8, 9),
        "prime": (2, 3, 5, 7),
        "square": (0, 1, 4, 9),
        "divisible by 3": (0, 3, 6, 9),
        "with a loop": (0, 6, 8, 9),
        "with a straight stroke": (1, 4, 5, 7),
        "round at the bottom": (0, 3, 5, 6, 8),
        "1 to 3": (1, 2, 3),
        "ends of the row": (0, 1, 8, 9),
    }
    more = np.stack([np.isin(digit, members) for members in attributes.values()], 1)
    labels = np.concatenate([y, more], 1).astype(float)
    wrong = np.random.default_rng(0).random(labels.shape) < NOISE
    tasks = [Task(f"is {number}", "binary") for number in range(10)] + [Task(text, "binary") for text in attributes]
    recipe = Recipe(learning_rate=1.3e-3, weight_decay=0.1, epochs=50, batch_size=50, check_every=12, patience=3)
    return _build("digits", x, np.where(wrong, 1 - labels, labels), tasks, recipe, (300, 1297), (64, 32))


BENCHMARK_DATA = {
    "yeast": BenchmarkData("yeast", (2, 3, 4, 5, 6), _yeast, tuned=True),
    "water": BenchmarkData("water", (5,), _water, tuned=False),
    "chemicals": BenchmarkData("chemicals", (5,), _chemicals, tuned=True),
    "mhc": BenchmarkData("mhc", (5,), _mhc, tuned=False),
    "digits": BenchmarkData("digits", (4,), _digits, tuned=False),
    "mhc2": BenchmarkData("mhc2", (5,), _mhc2, tuned=False),
}


def _raw(work: Workload) -> tuple[NDArray[np.float32], NDArray[np.float64], list[Task]]:
    """Inputs and labels of a workload in their own units, and its tasks."""
    inputs, low, unit = work.inputs, work.input_center, work.input_scale
    if not isinstance(inputs, torch.Tensor) or low is None or unit is None:
        raise WorkloadError(f"The workload {work.name!r} has no standardised inputs, so it cannot be split anew.")
    x = (inputs * unit + low).numpy()
    center, scale = (np.array([getattr(task, name) for task in work.tasks]) for name in ("center", "scale"))
    return x, work.labels.double().numpy() * scale + center, [Task(task.name, task.kind) for task in work.tasks]


def _informative(y: NDArray[np.float64], rows: int) -> NDArray[np.int64]:
    """Rows with many labels, or with a label of a scarce task; `rows` of them at random, in order."""
    known = ~np.isnan(y)
    many = known.sum(1) >= ENOUGH
    scarce = known[many].sum(0) < SCARCE
    needed = np.asarray(known[:, scarce].any(1))
    kept = np.flatnonzero(many | needed)
    order = np.random.default_rng(0).permutation(len(kept))
    order = order[np.argsort(~needed[kept][order], kind="stable")]  # those of scarce tasks first
    return np.sort(kept[order[:rows]])


def _build(
    name: str,
    x: NDArray[np.float32],
    y: NDArray[np.float64],
    tasks: list[Task],
    recipe: Recipe,
    sizes: tuple[int, int],
    hidden: tuple[int, int],
) -> Workload:
    """A workload with so many training and validation rows; the rest is the test part."""
    order = np.random.default_rng(1).permutation(len(x))
    first, second = sizes[0], sizes[0] + sizes[1]
    split = {"train": order[:first], "validation": order[first:second], "test": order[second:]}
    split = {part: np.sort(rows) for part, rows in split.items()}
    return from_arrays(x, y, tasks=tasks, recipe=recipe, split=split, hidden=hidden, name=name)
