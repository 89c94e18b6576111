"""Models that predict the gain of a task in any subset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from coterie._show import names
from coterie._surface import known_arguments
from coterie.affinity.affinity import Affinity
from coterie.errors import SettingError

#: a bool array (subsets, tasks), or a sequence of subsets, each a sequence of task indices or names
SubsetsLike = NDArray[np.bool_] | Sequence[Sequence[int | str]]


def as_subsets(subsets: SubsetsLike, task_names: Sequence[str]) -> NDArray[np.bool_]:
    """Subsets as a bool array (m, T) whose entry [l, t] says whether subset l contains task t.

    Args:
        subsets: a bool array (m, T), or a sequence of subsets; a subset is a sequence of task indices or task names.
        task_names: the T names, in the order of the columns.

    Raises:
        SettingError: for an empty subset, an unknown task, a task named twice, or an array of the wrong shape or type.

    Example:
        >>> as_subsets([["a", "c"], [1]], ["a", "b", "c"])
        array([[ True, False,  True],
               [False,  True, False]])
    """
    if isinstance(subsets, np.ndarray) and subsets.dtype != object and subsets.ndim == 2:
        return _checked_mask(subsets, len(task_names))
    index = {name: position for position, name in enumerate(task_names)}
    mask = np.zeros((len(subsets), len(task_names)), dtype=bool)
    for row, subset in enumerate(subsets):
        if isinstance(subset, str):
            raise SettingError(
                f"Parameter `subsets`: subset {row} is a text, not a sequence of tasks. Write [[{subset!r}]]."
            )
        for task in subset:
            column = _position(task, index, row)
            if mask[row, column]:
                raise SettingError(f"Parameter `subsets`: subset {row} names task {task!r} twice. Name it once.")
            mask[row, column] = True
    return _checked_mask(mask, len(task_names))


def _position(task: object, index: dict[str, int], row: int) -> int:
    if isinstance(task, str):
        if task not in index:
            raise SettingError(
                f"Parameter `subsets`: subset {row} names the task {task!r}, which is none of the {len(index)} tasks "
                f"{list(index)[:5]}{'...' if len(index) > 5 else ''}."
            )
        return index[task]
    if isinstance(task, bool | np.bool_) or not isinstance(task, int | np.integer):
        raise SettingError(
            f"Parameter `subsets`: subset {row} should hold task indices or names. Found {task!r} "
            f"({type(task).__name__}). A table of True and False should be a numpy array (subsets, tasks)."
        )
    if not 0 <= task < len(index):
        raise SettingError(
            f"Parameter `subsets`: subset {row} holds the task index {task}; "
            f"there are {len(index)} tasks, counted from 0."
        )
    return int(task)


def _checked_mask(mask: NDArray[np.generic], tasks: int) -> NDArray[np.bool_]:
    if mask.dtype != np.bool_:
        raise SettingError(
            f"Parameter `subsets` as an array should be of type bool, (subsets, tasks). Found {mask.dtype}. "
            "Give index lists as lists (array.tolist()), or use array.astype(bool)."
        )
    if mask.shape[1] != tasks:
        raise SettingError(f"Parameter `subsets` should have {tasks} columns, one a task. Found shape {mask.shape}.")
    empty = np.flatnonzero(~mask.any(1))
    if len(empty):
        raise SettingError(f"Parameter `subsets`: subset {int(empty[0])} is empty. Each needs at least one task.")
    return mask.astype(np.bool_, copy=False)


@known_arguments
def random_subsets(
    n_tasks: int, count: int, size: int | Sequence[int], *, seed: int = 0, cover: bool = True
) -> NDArray[np.bool_]:
    """Random subsets, drawn uniformly except for as few as it takes that every pair of tasks is in at least one.

    Args:
        n_tasks: number of tasks T.
        count: number of subsets m.
        size: tasks in a subset; or several sizes, used in turn.
        seed: the same seed gives the same subsets.
        cover: whether every pair must meet.

    Returns:
        bool (m, T), in random order. Repeated subsets are replaced by fresh ones where that is easy.

    Raises:
        SettingError: for sizes outside 1 ... T, or when `count` subsets cannot hold every pair;
            the message says how many can.

    Example:
        >>> subsets = random_subsets(6, 10, 3, seed=1)
        >>> subsets.sum(1).tolist(), bool((subsets.T.astype(int) @ subsets > 0).all())
        ([3, 3, 3, 3, 3, 3, 3, 3, 3, 3], True)
    """
    sizes = [size] if isinstance(size, int) else list(size)
    if not sizes or any(not 1 <= one <= n_tasks for one in sizes):
        raise SettingError(f"Parameter `size` should be between 1 and the {n_tasks} tasks. Found {size}.")
    if count < 1:
        raise SettingError(f"Parameter `count` should be at least 1. Found {count}.")
    if cover and n_tasks > 1 and max(sizes) < 2:
        raise SettingError("Parameter `size` should be at least 2, so that pairs of tasks can meet. Found 1.")
    rng = np.random.default_rng(seed)
    wanted = [sizes[number % len(sizes)] for number in range(count)]
    drawn = _draw(rng, n_tasks, wanted)
    if cover and n_tasks > 1:
        drawn = _covered(rng, drawn, max(sizes), wanted)
    return drawn[rng.permutation(len(drawn))]


def _draw(rng: np.random.Generator, n_tasks: int, sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Uniform subsets; one that came before is drawn again a few times."""
    mask = np.zeros((len(sizes), n_tasks), dtype=bool)
    seen: set[bytes] = set()
    for row, size in enumerate(sizes):
        for _ in range(20):
            mask[row] = False
            mask[row, rng.permutation(n_tasks)[:size]] = True
            if mask[row].tobytes() not in seen:
                break
        seen.add(mask[row].tobytes())
    return mask


def _covered(rng: np.random.Generator, drawn: NDArray[np.bool_], size: int, sizes: Sequence[int]) -> NDArray[np.bool_]:
    """The same subsets with as many of the last ones as needed replaced by such that hold the missing pairs."""
    count, kept = len(drawn), len(drawn)
    while True:
        extra = _missing_pairs(rng, drawn[:kept], size)
        if kept + len(extra) <= count:
            mask = np.concatenate([drawn[:kept], extra]) if len(extra) else drawn[:kept]
            if len(mask) < count:
                mask = np.concatenate([mask, _draw(rng, drawn.shape[1], sizes[len(mask) :])])
            return mask
        if kept == 0:
            raise SettingError(
                f"{count} subsets of at most {size} tasks cannot hold every pair of {drawn.shape[1]} tasks; "
                f"{len(extra)} can. Draw more or larger subsets, or pass cover=False."
            )
        kept = max(0, min(kept - 1, count - len(extra)))


def _missing_pairs(rng: np.random.Generator, mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Subsets, found greedily, that hold all pairs which are in none of the given subsets."""
    met = mask.T.astype(np.float32) @ mask.astype(np.float32) > 0
    np.fill_diagonal(met, True)
    extra: list[NDArray[np.bool_]] = []
    while not met.all():
        subset = np.zeros(mask.shape[1], dtype=bool)
        lonely = (~met).sum(1)
        first = int(rng.choice(np.flatnonzero(lonely == lonely.max())))
        subset[first] = True
        missing = (~met[first]).astype(float)
        while subset.sum() < size:
            # most missing pairs with what is chosen; among equals the task with most missing pairs, then chance
            score = np.where(subset, -np.inf, missing + 1e-3 * lonely / len(subset) + 1e-6 * rng.random(len(subset)))
            task = int(np.argmax(score))
            subset[task] = True
            missing += ~met[task]
        met |= np.outer(subset, subset)
        extra.append(subset)
    return np.array(extra, dtype=bool).reshape(len(extra), mask.shape[1])


_BLOCK = 4096


class GainModel(ABC):
    """Predicts gains, ``(f({t}, t) - f(S, t)) / f({t}, t)``: relative loss reduction against training alone.

    Larger is better.
    Subclasses implement :meth:`_predict` and, where they know how sure they are, :meth:`_standard_error`.
    """

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""

    @property
    def method(self) -> str:
        """How the model was found, for tables."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}; tasks={names(self.tasks)})"

    @abstractmethod
    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Gains (m, T) of bool subsets (m, T); entries outside the subset are ignored."""

    def _standard_error(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Standard errors (m, T), or None."""
        del subsets

    def forget(self) -> None:  # noqa: B027 - most models keep nothing
        """Drop kept predictions, so that the next ones do not depend, by rounding, on what was asked before."""

    def predict(self, subsets: SubsetsLike) -> NDArray[np.float64]:
        """Gain of every task in every subset.

        Args:
            subsets: bool array (m, T), or a sequence of sequences of task indices or names.

        Returns:
            (m, T), NaN where the task is not in the subset.
        """
        mask = as_subsets(subsets, self.tasks)
        return np.where(mask, self._predict(mask), np.nan)

    def standard_error(self, subsets: SubsetsLike) -> NDArray[np.float64] | None:
        """Standard error of every prediction, (m, T) with NaN outside the subset; None where the method has none."""
        mask = as_subsets(subsets, self.tasks)
        errors = self._standard_error(mask)
        return None if errors is None else np.where(mask, errors, np.nan)

    @property
    def uncertainty(self) -> str:
        """What standard errors cover.

        ``"posterior"``: all that is believed to be unknown. ``"spread of bases"``: the luck of the base models only.
        Empty where there are none.
        """
        return ""

    def _total_covariance(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Covariance (m, m) of the errors of summed gains, or None."""
        del subsets

    def total_covariance(self, subsets: SubsetsLike) -> NDArray[np.float64] | None:
        """How sure the summed gains of subsets are, jointly.

        The total of a subset S is the sum over t in S of the gain of t. Errors of different totals go together, since
        they come from the same runs and base models, so that a difference between two groupings is surer than the
        totals alone would say: its variance is ``w' C w`` with the weights w of the groups, +1 and -1.

        Args:
            subsets: bool array (m, T), or a sequence of sequences of task indices or names.

        Returns:
            (m, m) covariance of the errors of the totals, squared units of gains; None where the method has none.
        """
        return self._total_covariance(as_subsets(subsets, self.tasks))

    def task_covariance(self, subsets: NDArray[np.bool_], task: int) -> NDArray[np.float64] | None:
        """How the errors of one task's gains in several subsets go together, or None where that is not known.

        What is not known of the task alone, which moves all of its gains, is left out.

        Args:
            subsets: bool array (m, T); the task is in all of them.
            task: its number.

        Returns:
            (m, m), squared units of gains.
        """
        del subsets, task

    def pairwise(self) -> Affinity:
        """Entry [i, j] is the gain of i when it is trained with j alone; 0 on the diagonal."""
        size = len(self.tasks)
        values = np.zeros((size, size))
        first, second = np.triu_indices(size, 1)
        for part in _slices(len(first)):
            rows = np.arange(len(first[part]))
            mask = np.zeros((len(rows), size), dtype=bool)
            mask[rows, first[part]] = mask[rows, second[part]] = True
            gains = self.predict(mask)
            values[first[part], second[part]] = gains[rows, first[part]]
            values[second[part], first[part]] = gains[rows, second[part]]
        return Affinity(values, self.tasks, np.ones((size, size), dtype=np.int64), "gain", f"{self.method}, pairs")

    def higher_order(self, m: int, size: int | Sequence[int], seed: int = 0) -> Affinity:
        """Entry [i, j] is the mean gain of i over random subsets that hold i and j; 0 on the diagonal.

        Args:
            m: number of subsets; every pair of tasks is in at least one.
            size: tasks in a subset, or several sizes used in turn.
            seed: of the drawing.

        Returns:
            the affinity with ``counts[i, j]``, the number of subsets behind each entry; on the diagonal the number of
            subsets with the task.

        Raises:
            SettingError: when `m` subsets of that size cannot hold every pair.
        """
        subsets = random_subsets(len(self.tasks), m, size, seed=seed)
        total = np.zeros((len(self.tasks), len(self.tasks)))
        for part in _slices(m):
            total += np.nan_to_num(self.predict(subsets[part])).T @ subsets[part]
        members = subsets.astype(np.float64)
        counts = (members.T @ members).round().astype(np.int64)
        values = total / np.maximum(counts, 1)
        np.fill_diagonal(values, 0.0)
        return Affinity(values, self.tasks, counts, "gain", f"{self.method}, {m} subsets of {size}")


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


class NamedGainModel(GainModel):
    """A gain model that holds the names of its tasks and of its method."""

    def __init__(self, tasks: tuple[str, ...], method: str) -> None:
        self._tasks = tasks
        self._method = method

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self._tasks

    @property
    def method(self) -> str:
        """How the model was found, for tables."""
        return self._method


class PairwiseGainModel(GainModel):
    """Predicts the gain of a task as the mean of its affinities with its partners; a task alone has gain 0.

    Args:
        affinity: every entry off the diagonal must be known; the diagonal is not used.

    Example:
        >>> a = Affinity(np.array([[0, 0.2, 0.4], [0, 0, 0], [0.1, 0.1, 0]]), ("x", "y", "z"))
        >>> PairwiseGainModel(a).predict([["x", "y", "z"], ["x"]]).round(3).tolist()
        [[0.3, 0.0, 0.1], [0.0, nan, nan]]
    """

    def __init__(self, affinity: Affinity) -> None:
        values = affinity.values.copy()
        np.fill_diagonal(values, 0.0)
        if np.isnan(values).any():
            row, column = np.argwhere(np.isnan(values))[0].tolist()
            raise SettingError(
                f"The affinity of target {affinity.tasks[row]!r} and source {affinity.tasks[column]!r} is not "
                "known, so subsets with both cannot be predicted. Estimate it from more subsets, or fill in a value."
            )
        self.affinity = affinity
        self._values = values

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.affinity.tasks

    @property
    def method(self) -> str:
        """The method of the affinity."""
        return self.affinity.method or "pairwise affinity"

    def _predict(self, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        partners = np.maximum(subsets.sum(1, keepdims=True) - 1, 1)
        return (subsets.astype(np.float64) @ self._values.T) / partners
