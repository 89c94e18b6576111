"""Published tables by name: those in the package, and others from a folder."""

from __future__ import annotations

import csv
import io
import lzma
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from coterie._check import named_choice
from coterie._surface import known_arguments
from coterie.errors import StoreError, WorkloadError
from coterie.study.results import Floats, Results

#: the five tasks of the tables of Standley et al., in the order of their columns
STANDLEY_TASKS = ("semantic segmentation", "depth", "normals", "keypoints", "edges")
#: setting -> file of the published results
STANDLEY = {
    "standley": "results",
    "standley-alternative": "results_alt",
    "standley-large": "results_large",
    "standley-small-data": "results_small_data",
}
#: images of the published affinities
TASKONOMY = {"taskonomy": "base", "taskonomy-16k": "16k", "taskonomy-1k": "1k"}
#: mixtures -> files of proportions and of metrics
MIXTURES = {
    "regmix-1m": ("regmix_train_mixture_1m", "regmix_train_pile_loss_1m"),
    "regmix-1m-test": ("regmix_test_mixture_1m", "regmix_test_pile_loss_1m"),
    "regmix-60m-test": ("regmix_test_mixture_60m", "regmix_test_pile_loss_60m"),
    "regmix-1b-test": ("regmix_test_mixture_1B", "regmix_test_pile_loss_1B"),
    "olmix-dclm": ("olmix_dclm_ratios", "olmix_dclm_metrics"),
    "olmix-reuse": ("olmix_full_reuse_update_5_seed_0_ratios", "olmix_full_reuse_update_5_seed_0_metrics"),
}
#: columns of mixtures that are neither a domain nor a metric
LABELS = {"", "index", "run", "name"}
#: what the published files write before a domain or around a metric
WRAPPING = ("train_the_pile_", "metric/the_pile_")
#: cost of a half-size network, in those of a full one
HALF = 0.5


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Models that were trained on mixtures of domains.

    Attributes:
        domains: names of the domains.
        metrics: names of the metrics.
        proportions: (models, domains) shares of the training data.
        values: (models, metrics), NaN where there is none; lower is better.

    Example:
        >>> table = load("regmix-1m")
        >>> table.proportions.shape, table.values.shape
        ((512, 17), (512, 13))
    """

    domains: tuple[str, ...]
    metrics: tuple[str, ...]
    proportions: Floats
    values: Floats


def names() -> tuple[str, ...]:
    """Names of the tables in the package: results of subsets first, then mixtures.

    Example:
        >>> names()[:2]
        ('standley', 'standley-alternative')
    """
    return (*STANDLEY, *TASKONOMY, *MIXTURES)


@known_arguments
def load(name: str, *, test: bool = False, folder: str | Path | None = None) -> Results | Mixtures:
    """Return a published table.

    Standley et al. trained all 31 subsets of five vision tasks in four settings (``standley``, ``-alternative``,
    ``-large``, ``-small-data``), and each task alone on a network of half the cost, which is the variant "half".
    Taskonomy has the value of sets of source tasks to a target, relative to other sets: higher was better, so losses
    are its negative. RegMix and Olmix are mixtures of text.

    Args:
        name: one of :func:`names`, or with `folder` the name of a file in it.
        test: losses on test images in place of validation images; for the tables of Standley et al. alone.
        folder: where NAME.csv is: one row a run, one column a task with its loss, empty where the task was not
            trained, "trained" where it was trained and not measured.

    Raises:
        SettingError: a name that there is not.
        StoreError: a file that is not in the folder.
        WorkloadError: a file that is no such table.

    Example:
        >>> results = load("standley")
        >>> results.losses.shape, results.variants.count("half")
        ((36, 5), 5)
    """
    if folder is not None:
        return _from_folder(name, Path(folder))
    named_choice(name, "name", names())
    if name in STANDLEY:
        return _standley(STANDLEY[name] + "_test" * test)
    if name in TASKONOMY:
        return _taskonomy(TASKONOMY[name])
    return _mixtures(*MIXTURES[name])


def _rows(file: str) -> list[dict[str, str]]:
    """Rows of a file of the package."""
    packed = (files("coterie.truth") / "data" / f"{file}.csv.xz").read_bytes()
    return list(csv.DictReader(io.StringIO(lzma.decompress(packed).decode("utf-8"))))


def _standley(file: str) -> Results:
    """All subsets of five tasks, and the networks of half the cost."""
    rows = [row for row in _rows("standley_taskonomy_all_subsets") if row["file"] == file]
    columns = [f"col{number}" for number in range(1, 6)]
    trained: list[list[bool]] = []
    losses: list[list[float]] = []
    halves: list[bool] = []
    for row in rows:
        values = [float(row[column]) if row[column] else np.nan for column in columns]
        half = row["subset"] == "each alone"
        for number in range(5) if half else [None]:
            inside = [str(place + 1) in row["subset"] if number is None else place == number for place in range(5)]
            trained.append(inside)
            losses.append([value if there else np.nan for value, there in zip(values, inside, strict=True)])
            halves.append(half)
    n = len(trained)
    variants = tuple("half" if half else "" for half in halves)
    costs = np.where(np.array(halves), HALF, 1.0)
    return Results(
        STANDLEY_TASKS, STANDLEY_TASKS, np.array(trained), np.array(losses), None, np.full(n, -1), variants, costs
    )


def _taskonomy(images: str) -> Results:
    """Values of sets of sources to targets, one of each a row; those of one set are one run."""
    rows = [row for row in _rows("taskonomy_affinities") if row["images"] == images]
    sets = list(dict.fromkeys(row["sources"] for row in rows))
    sources = tuple(sorted({one for several in sets for one in several.split("|")}))
    targets = tuple(sorted({row["target"] for row in rows}))
    trained = np.array([[source in several.split("|") for source in sources] for several in sets])
    losses = np.full((len(sets), len(targets)), np.nan)
    place = {several: number for number, several in enumerate(sets)}
    for row in rows:
        losses[place[row["sources"]], targets.index(row["target"])] = -float(row["value"])
    n = len(sets)
    return Results(sources, targets, trained, losses, None, np.full(n, -1), ("",) * n, np.ones(n))


def _mixtures(proportions: str, values: str) -> Mixtures:
    """Two files with a row a model each."""
    domains, shares = _numbers(_rows(proportions))
    metrics, found = _numbers(_rows(values))
    return Mixtures(domains, metrics, shares, found)


def _numbers(rows: list[dict[str, str]]) -> tuple[tuple[str, ...], Floats]:
    """Names and numbers of all columns that are no labels."""
    columns = [column for column in rows[0] if column not in LABELS]
    values = np.array([[float(row[column]) if row[column] else np.nan for column in columns] for row in rows])
    plain = list(columns)
    for text in WRAPPING:
        plain = [column.removeprefix(text) for column in plain]
    return tuple(column.removesuffix("_val_loss") for column in plain), values


def _from_folder(name: str, folder: Path) -> Results:
    """A table of the user's: one row a run, one column a task."""
    path = folder / f"{name}.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        there = sorted(one.stem for one in folder.glob("*.csv")) if folder.is_dir() else []
        raise StoreError(
            f"The table {name!r} cannot be read from {path}: {error.strerror}. Tables in that folder: {there}. "
            "Check the path, or leave `folder` out for a table of the package."
        ) from error
    rows = list(csv.reader(io.StringIO(text)))
    tasks = tuple(cell.strip() for cell in rows[0]) if rows else ()
    if not tasks or len(set(tasks)) < len(tasks) or len(rows) < 2:
        raise WorkloadError(
            f"The table {path} should have a first row of different names of tasks and a row for every run. "
            f"Found {len(rows)} rows, the first {list(tasks)}."
        )
    trained, losses = np.zeros((len(rows) - 1, len(tasks)), bool), np.full((len(rows) - 1, len(tasks)), np.nan)
    for number, row in enumerate(rows[1:]):
        cells = [cell.strip() for cell in row]
        if len(cells) != len(tasks):
            raise WorkloadError(f"Row {number + 2} of {path} has {len(cells)} cells. Expected {len(tasks)}.")
        for task, cell in enumerate(cells):
            trained[number, task] = bool(cell)
            losses[number, task] = np.nan if cell in ("", "trained") else _loss(cell, f"row {number + 2} of {path}")
    return Results.of(tasks, trained, losses)


def _loss(cell: str, where: str) -> float:
    """A number."""
    try:
        return float(cell)
    except ValueError as error:
        raise WorkloadError(f"Found {cell!r} in {where}. Expected a loss, 'trained', or an empty cell.") from error
