"""What :func:`coterie.grouping.group` is given, read into one symmetric matrix with task names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coterie._check import choice, is_whole
from coterie._read import is_frame, read_array, read_frame
from coterie.errors import SettingError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DIAGONALS = ("keep", "zero", "mean")
#: the largest size of an entry; squares of entries must be finite numbers
HUGE = 1e150
#: entries of sorted rows that are compared first; real affinities hardly ever need more
_FIRST_KEYS = 4


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
        affinity: object with `values` and `tasks`, (T, T) array, data frame (its names decide, see :func:`as_square`),
            or gain model (its pairwise matrix is read).
        diagonal: see :func:`with_diagonal`. A gain model whose pairwise diagonal is NaN gets 0 there first, because
            the gain of a task against training it alone is 0 by definition.

    Raises:
        SettingError: not square, fewer than two tasks, NaN or infinite entries, names that do not fit.
    """
    model: GainModelLike | None = None
    source: Any = affinity
    if isinstance(affinity, GainModelLike):
        model, source = affinity, affinity.pairwise()
    if is_frame(source):
        values, names = read_frame(source, "affinity")
    else:
        names: Any = getattr(model if model is not None else source, "tasks", None)
        values: Any = source.values if hasattr(source, "values") and hasattr(source, "tasks") else source
    matrix = as_square(values)
    tasks = tuple(str(name) for name in names) if names is not None else tuple(f"task {i}" for i in range(len(matrix)))
    if len(tasks) != len(matrix) or len(set(tasks)) != len(tasks):
        raise SettingError(
            f"Parameter `affinity` should name each of its {len(matrix)} tasks once. Found {len(tasks)} names, "
            f"{len(set(tasks))} of them different. Rename the tasks or rebuild the matrix."
        )
    check_size(matrix, tasks)
    if model is not None and np.isnan(np.diag(matrix)).all():
        matrix = with_diagonal(matrix, "zero")
    return Problem(symmetrise(check_finite(with_diagonal(matrix, diagonal), tasks)), tasks, model)


def as_square(values: ArrayLike) -> FloatArray:
    """A float64 copy of a square matrix of at least two tasks; masked entries are NaN.

    The rows of a data frame are put into the order of its columns by name; a plain numbering 0, 1, ... of one of them,
    where the other has names, says nothing.
    """
    given: Any = read_frame(values, "affinity")[0] if is_frame(values) else values
    try:
        matrix = read_array(given, "affinity", SettingError).astype(np.float64)
    except SettingError as error:
        is_complex = np.iscomplexobj(given)
        raise SettingError(
            f"Parameter `affinity` should be a square matrix of numbers, an Affinity or a GainModel. Found a value of "
            f"type {type(values).__name__} that cannot be read as real numbers "
            f"({'they are complex; take their real part or their size first' if is_complex else error})."
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
    choice(diagonal, "diagonal", DIAGONALS)
    result = matrix.copy()
    if diagonal == "zero":
        np.fill_diagonal(result, 0.0)
    elif diagonal == "mean":
        # Sorted before adding up: the sum must not depend on the order of the tasks, not even in its last bit.
        others = symmetrise(matrix)
        n = len(others)
        for row in range(n):  # what is left of the diagonal moves one place, so that the row has its others first
            others[row, row:-1] = others[row, row + 1 :]
        others = others[:, : n - 1]
        others.sort(axis=1)
        np.fill_diagonal(result, np.ascontiguousarray(others).mean(axis=1))
    return result


def check_finite(matrix: FloatArray, tasks: Sequence[str]) -> FloatArray:
    """The matrix itself, when all entries are finite numbers."""
    # The sum is finite only if all entries are; for huge ones it may not be, so that they are looked at one by one.
    with np.errstate(over="ignore", invalid="ignore"):
        fine = bool(np.isfinite(matrix.sum()))
    bad = np.empty((0, 2), dtype=np.int64) if fine else np.argwhere(~np.isfinite(matrix))
    if len(bad):
        row, column = (int(index) for index in bad[0])
        hint = (
            "The diagonal is missing: choose diagonal='mean' or diagonal='zero' (--diagonal on the command line)."
            if all(int(i) == int(j) for i, j in bad)
            else "These pairs were probably never in the same subset: estimate with more subsets, or fill them in."
        )
        raise SettingError(
            f"Parameter `affinity` should have finite entries only. Found {len(bad)} that are not, the first is "
            f"{matrix[row, column]} for target {tasks[row]!r} and source {tasks[column]!r}. {hint}"
        )
    return matrix


def check_size(matrix: FloatArray, tasks: Sequence[str]) -> None:
    """Sums and squares of the entries should stay finite."""
    if float(np.nanmax(matrix, initial=0.0)) <= HUGE and float(np.nanmin(matrix, initial=0.0)) >= -HUGE:
        return
    huge = np.argwhere(np.isfinite(matrix) & (np.abs(matrix) > HUGE))
    if len(huge):
        row, column = (int(index) for index in huge[0])
        raise SettingError(
            f"Parameter `affinity` should have entries of at most {HUGE:g} in size, so that they can be added up. "
            f"Found {matrix[row, column]:g} for target {tasks[row]!r} and source {tasks[column]!r}. A mark for missing "
            "values is a frequent cause; otherwise divide all entries by the same number: the groups stay the same."
        )


def check_count(name: str, value: Any, n: int) -> None:
    """A number of groups is a whole number from 1 to the number of tasks."""
    if not is_whole(value) or not 1 <= value <= n:
        raise SettingError(
            f"Parameter `{name}` should be a whole number of groups from 1 to the number of tasks, {n}. Found "
            f"{value!r}. Every group needs at least one task."
        )


def check_seed(value: Any) -> None:
    """A seed is a whole number from 0."""
    if not is_whole(value) or not 0 <= value < 2**32:
        raise SettingError(
            f"Parameter `seed` should be a whole number from 0 to {2**32 - 1}. Found {value!r}. The same seed gives "
            "the same groups: any small number will do, such as seed=0."
        )


def symmetrise(matrix: FloatArray) -> FloatArray:
    """(A + A') / 2: sums over groups see nothing else. Halved first: the sum of two huge numbers has no room."""
    result = matrix / 2
    for which in _blocks(len(matrix)):
        result[which] += matrix[:, which].T / 2
    return result


def is_symmetric(matrix: FloatArray) -> bool:
    """Whether both triangles are the same to the last bit."""
    return all(np.array_equal(matrix[which], matrix[:, which].T) for which in _blocks(len(matrix)))


def as_symmetric(values: ArrayLike) -> FloatArray:
    """The symmetric part of a square matrix. A float64 array that is symmetric is returned as it is: do not write."""
    if type(values) is np.ndarray and values.dtype == np.float64 and values.ndim == 2 and len(values) > 1:
        matrix: FloatArray = values  # no subclass, which may carry a mask
        if matrix.shape[0] == matrix.shape[1] and is_symmetric(matrix):
            return matrix
    return symmetrise(as_square(values))


def centred(matrix: FloatArray) -> FloatArray:
    """The matrix less the mean of its off-diagonal entries: the same groups, no loss of digits to a large constant."""
    return matrix - shift_of(matrix)


def shift_of(matrix: FloatArray) -> float:
    """Mean of the off-diagonal entries. Taking it off rounds each difference once, relative to the difference."""
    n = len(matrix)
    # The entries between the diagonal ones, as rows of T numbers: no copy, no mask.
    off = matrix.ravel()[1:].reshape(n - 1, n + 1)[:, :-1] if n > 1 else matrix
    return float(off.mean())


def largest(matrix: FloatArray) -> float:
    """Size of the largest entry, without a copy of the matrix."""
    return max(float(matrix.max()), -float(matrix.min()))


def _blocks(n: int) -> list[slice]:
    """Slices of rows with about a million entries each: transposed reading stays in the cache, and memory small."""
    step = max(1, min(n, (1 << 20) // max(n, 1)))
    return [slice(first, first + step) for first in range(0, n, step)]


def canonical_order(matrix: FloatArray) -> IntArray:
    """An order of the tasks that depends on the matrix only, not on the order in which they came.

    Tasks are sorted by their diagonal entry and then by their sorted row, so that everything after it (k-means with a
    seed, ties, rounding errors) gives the same groups for the same tasks in another order. Tasks that tie have the
    same multiset of affinities.
    """
    ordered = np.sort(matrix, axis=1)
    keys = np.column_stack([np.diag(matrix), ordered[:, :_FIRST_KEYS]])
    order = np.lexsort(keys.T[::-1])
    if (keys[order[1:]] == keys[order[:-1]]).all(axis=1).any():  # ties: all of the row decides
        keys = np.column_stack([np.diag(matrix), ordered])
        order = np.lexsort(keys.T[::-1])
    return order.astype(np.int64)


def check_gains(gains: FloatArray, subsets: BoolArray, tasks: Sequence[str]) -> None:
    """Refuse predicted gains, (m, T), that are not finite somewhere in the subsets, (m, T).

    Raises:
        SettingError: naming the first task and its group.
    """
    if np.isfinite(gains).all():
        return
    row, task = (int(index) for index in np.argwhere(~np.isfinite(gains))[0])
    members = [str(tasks[int(index)]) for index in np.flatnonzero(subsets[row])]
    raise SettingError(
        "Parameter `affinity` should predict a finite gain for every task of every group. Found "
        f"{gains[row, task]} for task {tasks[task]!r} in the group {members}. The model was probably fitted on too few "
        "subsets."
    )


#: steps of the grid in a typical difference between two entries, and least size of a step in units of rounding
STEPS, ROUNDING = 2**18, 8


@dataclass(frozen=True, eq=False)
class Gridded:
    """A = unit * whole + origin, up to half a unit.

    Attributes:
        whole: (T, T) whole numbers, as float64.
        unit: step of the grid, in the units of A.
        origin: an entry of A, or 0.
    """

    whole: FloatArray
    unit: float
    origin: float


def on_grid(matrix: FloatArray, *, signed: bool = False) -> Gridded:
    """Round to whole multiples of a small part of a typical difference between entries.

    Multiplying a matrix by 3 or adding 0.1 changes last digits, and with them whether entries, or sums of them, are
    equal; a method without tolerances may then answer differently. The whole numbers stay the same.

    Args:
        matrix: (T, T) finite.
        signed: keep 0 at 0, for methods that read signs. Otherwise the median entry is the origin.

    Cost:
        Two partial sorts and two copies of the matrix.

    Example:
        >>> one, other = np.array([[0.0, 0.1], [0.3, 0.0]]), np.array([[1.0, 1.7], [3.1, 1.0]])
        >>> np.array_equal(one, (other - 1) / 7), np.array_equal(on_grid(one).whole, on_grid(other).whole)
        (False, True)
    """
    pairs = matrix.ravel()[1:].reshape(len(matrix) - 1, len(matrix) + 1)[:, :-1]
    origin = _median(pairs.ravel())
    noise = ROUNDING * float(np.finfo(np.float64).eps) * largest(matrix)
    spread = 0.0
    for entries in (pairs, np.diag(matrix)):  # where all pairs are alike, the diagonal has the differences
        apart = np.abs(entries - origin)
        apart = apart[apart > noise]
        if len(apart):
            spread = _median(apart)  # an outlier has no say
            break
    # A coarser grid holds every second, fourth, ... line of the finer one, so that simple numbers stay on it.
    coarser = 2.0 ** np.ceil(np.log2(max(STEPS * noise / spread, 1.0))) if spread else 1.0
    unit = coarser * spread / STEPS or 1.0
    return Gridded(np.rint((matrix - (0.0 if signed else origin)) / unit), unit, 0.0 if signed else origin)


def _median(values: FloatArray) -> float:
    """The lower median: always one of the values, so that differences from it are exact where values are equal."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


def submasks(code: int) -> IntArray:
    """All submasks of a bit mask, the empty one included.

    Example:
        >>> submasks(0b101).tolist()
        [0, 1, 4, 5]
    """
    masks = np.zeros(1, dtype=np.int64)
    while code:
        lowest = code & -code
        masks = np.concatenate([masks, masks | lowest])
        code ^= lowest
    return masks
