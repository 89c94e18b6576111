"""What :func:`coterie.grouping.group` is given, read into one symmetric matrix with task names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coterie.errors import SettingError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DIAGONALS = ("keep", "zero", "mean")


@runtime_checkable
class AffinityLike(Protocol):
    """Anything with a (T, T) matrix, rows are targets, and the names of its tasks."""

    @property
    def values(self) -> Any: ...  # noqa: D102

    @property
    def tasks(self) -> Sequence[str]: ...  # noqa: D102


@runtime_checkable
class GainModelLike(Protocol):
    """Anything that predicts the gain of every task of any subset (see :class:`coterie.affinity.GainModel`)."""

    @property
    def tasks(self) -> Sequence[str]: ...  # noqa: D102

    def predict(self, subsets: Any, /) -> Any: ...  # noqa: D102

    def pairwise(self) -> Any: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Problem:
    """A grouping problem: symmetric (T, T) matrix, larger is better together; task names; the gain model, if any."""

    matrix: FloatArray
    tasks: tuple[str, ...]
    model: GainModelLike | None = None

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.tasks)


def read_problem(affinity: Any, diagonal: str = "keep") -> Problem:
    """Read an affinity, a bare square array or a gain model.

    Args:
        affinity: object with `values` and `tasks`, (T, T) array, or gain model (its pairwise matrix is read).
        diagonal: see :func:`with_diagonal`. A gain model whose pairwise diagonal is NaN gets 0 there first, because
            the gain of a task against training it alone is 0 by definition.

    Raises:
        SettingError: not square, fewer than two tasks, NaN or infinite entries, names that do not fit.
    """
    model: GainModelLike | None = None
    source: Any = affinity
    if isinstance(affinity, GainModelLike):
        model, source = affinity, affinity.pairwise()
    values: Any = source.values if hasattr(source, "values") and hasattr(source, "tasks") else source
    matrix = as_square(values)
    names: Any = getattr(model if model is not None else source, "tasks", None)
    tasks = tuple(str(name) for name in names) if names is not None else tuple(f"task {i}" for i in range(len(matrix)))
    if len(tasks) != len(matrix) or len(set(tasks)) != len(tasks):
        raise SettingError(
            f"Parameter `affinity` should name each of its {len(matrix)} tasks once. Found {len(tasks)} names, "
            f"{len(set(tasks))} of them different. Rename the tasks or rebuild the matrix."
        )
    if model is not None and np.isnan(np.diag(matrix)).all():
        matrix = with_diagonal(matrix, "zero")
    return Problem(symmetrise(check_finite(with_diagonal(matrix, diagonal), tasks)), tasks, model)


def as_square(values: ArrayLike) -> FloatArray:
    """A float64 copy of a square matrix of at least two tasks."""
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"Parameter `affinity` should be a square matrix of numbers, an Affinity or a GainModel. Found a value of "
            f"type {type(values).__name__} that cannot be read as numbers ({error})."
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise SettingError(
            f"Parameter `affinity` should be square: one row and one column for each task. Found shape {matrix.shape}. "
            "A frequent cause is a CSV file with an index column that was read as data."
        )
    if len(matrix) < 2:
        raise SettingError(
            f"Parameter `affinity` should have at least two tasks. Found {len(matrix)}: there is nothing to group."
        )
    return matrix


def with_diagonal(matrix: FloatArray, diagonal: str) -> FloatArray:
    """The matrix with its diagonal set on purpose.

    The diagonal is what a task is worth to itself, and decides between small and large groups when the number of
    groups is
    free: the density of a group of size s is (sum of its diagonal + sum of its pairs) / s.

    * ``"keep"``: as given. Right for affinities whose diagonal was measured on the same scale (value of the task alone;
      0 for gains against single-task training).
    * ``"zero"``: 0. Singletons are worth nothing; pairs must gain to be worth more.
    * ``"mean"``: the task's mean over its other entries (rows and columns): a singleton is worth an average companion.

    With the number of groups given, adding the same number to the whole diagonal changes nothing.
    """
    if diagonal not in DIAGONALS:
        raise SettingError(f"Parameter `diagonal` should be one of {DIAGONALS}. Found {diagonal!r}.")
    result = matrix.copy()
    if diagonal == "zero":
        np.fill_diagonal(result, 0.0)
    elif diagonal == "mean":
        # Sorted before adding up: the sum must not depend on the order of the tasks, not even in its last bit.
        others = np.sort(symmetrise(matrix)[~np.eye(len(matrix), dtype=bool)].reshape(len(matrix), -1), axis=1)
        np.fill_diagonal(result, others.mean(axis=1))
    return result


def check_finite(matrix: FloatArray, tasks: Sequence[str]) -> FloatArray:
    """The matrix itself, when all entries are finite numbers."""
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        row, column = (int(index) for index in bad[0])
        hint = (
            "The diagonal is missing: choose diagonal='mean' or diagonal='zero'."
            if all(int(i) == int(j) for i, j in bad)
            else "These pairs were probably never in the same subset: estimate with more subsets, or fill them in."
        )
        raise SettingError(
            f"Parameter `affinity` should have finite entries only. Found {len(bad)} that are not, the first is "
            f"{matrix[row, column]} for target {tasks[row]!r} and source {tasks[column]!r}. {hint}"
        )
    return matrix


def check_count(name: str, value: Any, n: int) -> None:
    """A number of groups is a whole number from 1 to the number of tasks."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= n:
        raise SettingError(
            f"Parameter `{name}` should be a whole number of groups from 1 to the number of tasks, {n}. Found "
            f"{value!r}. Every group needs at least one task."
        )


def symmetrise(matrix: FloatArray) -> FloatArray:
    """(A + A') / 2: sums over groups see nothing else."""
    return (matrix + matrix.T) / 2


def centred(matrix: FloatArray) -> FloatArray:
    """The matrix less the mean of its off-diagonal entries: the same groups, no loss of digits to a large constant."""
    return matrix - matrix[~np.eye(len(matrix), dtype=bool)].mean()


def canonical_order(matrix: FloatArray) -> IntArray:
    """An order of the tasks that depends on the matrix only, not on the order in which they came.

    Tasks are sorted by their diagonal entry and then by their sorted row, so that everything after it (k-means with a
    seed, ties, rounding errors) gives the same groups for the same tasks in another order. Tasks that tie have the
    same multiset of affinities.
    """
    keys = np.column_stack([np.diag(matrix), np.sort(matrix, axis=1)])
    return np.lexsort(keys.T[::-1]).astype(np.int64)
