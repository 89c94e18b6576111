"""One linearised base model: from subsets to values without the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.affinity.blocks import Penalty, Statistics, TaskBlock
from coterie.affinity.conjugate import CROSSOVER
from coterie.affinity.neighbours import Neighbours, neighbourhoods
from coterie.affinity.newton import Solution, solve, values
from coterie.affinity.refine import iterate
from coterie.workload import Workload

#: examples whose features are read at a time
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class LinearBase:
    """A base model as the regression sees it.

    Attributes:
        statistics: of the training features.
        train: training block of each task; empty where only the one-step fit is needed and they were let go.
        validation: validation block of each task.
        stretch: norm of the trunk displacement for one unit of ``|u|``: 1 for orthonormal directions.
        raw: whether a ridge acts on the features as they are and is divided by the labels of each subset, as ``1 / C``
            of scikit-learn; False lets it act as if features had been normalised.
    """

    statistics: Statistics
    train: tuple[TaskBlock, ...]
    validation: tuple[TaskBlock, ...]
    stretch: float = 1.0
    raw: bool = False

    def solve(
        self,
        subsets: NDArray[np.bool_],
        ridge: float | NDArray[np.float64],
        *,
        converged: bool = False,
        memory: int = 2**30,
    ) -> Solution:
        """Displacements of every subset: one Newton step from the base, or on to the optimum."""
        penalty = Penalty() if self.raw else self.statistics.penalty()
        if self.raw:
            ridge = ridge / (subsets @ self.statistics.counts.cpu().numpy())
        if converged:
            return iterate(self.statistics, self.train, subsets, ridge, penalty=penalty, memory=memory)
        return solve(self.statistics, subsets, ridge, penalty=penalty, memory=memory)

    def values(
        self,
        subsets: NDArray[np.bool_],
        ridge: float | NDArray[np.float64],
        *,
        converged: bool = False,
        memory: int = 2**30,
    ) -> NDArray[np.float64]:
        """(m, T) validation losses by the linear model, NaN outside the subset."""
        return values(self.solve(subsets, ridge, converged=converged, memory=memory), self.validation)

    def neighbours(self, path: tuple[float, ...]) -> Neighbours:
        """What fits neighbours of a group along a path of ridges; made once."""
        if path not in self._near:
            self._near[path] = Neighbours(self.statistics, self.validation, self.statistics.penalty(), path)
        return self._near[path]

    @cached_property
    def _near(self) -> dict[tuple[float, ...], Neighbours]:
        return {}

    def single_moves(
        self, grid: Sequence[float] | NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far one-step single-task fits move, for each strength of a grid.

        Returns:
            (grid, tasks) root mean square move of the task's training margins, and (grid, tasks) norm of the trunk
            displacement in the network's own units.
        """
        alone = np.eye(self.statistics.n_tasks, dtype=bool)
        margin_moves, trunk_moves = [], []
        for ridge in grid:
            solution = self.solve(alone, float(ridge))
            rows = []
            for task, block in enumerate(self.train):
                _, head = solution.head(task)
                trunk, total = solution.trunk[task].to(block.offset.dtype), 0.0
                for part in block.chunks(_ROWS):
                    move = part.g @ trunk
                    if block.head.shape[1]:
                        move = move + part.head @ head[0].to(block.head.dtype)
                    total += float(move.double().square().sum())
                rows.append((total / max(1, block.rows)) ** 0.5)
            margin_moves.append(rows)
            trunk_moves.append((self.stretch * torch.linalg.vector_norm(solution.trunk, dim=1)).tolist())
        return np.asarray(margin_moves), np.asarray(trunk_moves)


#: strengths at which fits are made; in between values are interpolated. Evenly spaced logarithms
PATH = tuple(float(value) for value in np.logspace(0, -4, 5))
#: random subsets that say what the typical strength is
SAMPLE = 60
_FLAT = 1e-12


def path_values(
    base: LinearBase,
    subsets: NDArray[np.bool_],
    path: Sequence[float],
    *,
    around: float | None = None,
    converged: bool = False,
    memory: int = 2**30,
) -> NDArray[np.float64]:
    """(strengths, m, T) validation losses along a path of ridges.

    One step is solved for all strengths at once, so that what is done for each task is done once; but not where all
    subsets have as many examples, since a strength is then one system for all of them. Where subsets are neighbours of
    a group, see :mod:`coterie.affinity.neighbours`, they are solved from that.

    Args:
        base: the linearised base model.
        subsets: bool (m, T).
        path: the strengths, falling.
        around: a place on the path, as in :func:`at`. Where there are so many directions that fits are dear, the three
            strengths around it come first, and the others only for subsets whose mean loss is lowest at that end of
            the three beyond which there are more: NaN for the rest. None fits all.
        converged: to the optimum instead of one step.
        memory: bytes that may be used at a time.
    """
    if around is None or converged or base.statistics.width <= CROSSOVER:
        return _along(base, subsets, path, range(len(path)), converged, memory)
    middle, last = int(np.clip(np.round(around), 1, len(path) - 2)), len(path) - 1
    first = range(middle - 1, middle + 2)
    result = np.full((len(path), *subsets.shape), np.nan)
    result[first] = _along(base, subsets, path, first, converged, memory)
    best = _mean_losses(result).argmin(0)
    rows = np.flatnonzero(((best == first[0]) & (first[0] > 0)) | ((best == first[-1]) & (first[-1] < last)))
    others = [number for number in range(len(path)) if number not in first]
    if len(rows) and others:
        for number, found in zip(others, _along(base, subsets[rows], path, others, converged, memory), strict=True):
            result[number, rows] = found
    return result


def _along(
    base: LinearBase,
    subsets: NDArray[np.bool_],
    path: Sequence[float],
    numbers: Sequence[int],
    converged: bool,
    memory: int,
) -> NDArray[np.float64]:
    """(strengths, m, T) validation losses at some strengths of a path."""
    part = [path[number] for number in numbers]
    if converged:
        return np.stack([base.values(subsets, ridge, converged=True, memory=memory) for ridge in part])
    found, rest = neighbourhoods(subsets) if base.statistics.width > CROSSOVER else ([], [])
    if not found:
        return _scattered(base, subsets, part, memory)
    result, near = np.full((len(part), *subsets.shape), np.nan), base.neighbours(tuple(path))
    for group, rows in found:
        near_values = near.values(group, subsets[rows], memory, tuple(part))
        if near_values is None:
            rest = sorted([*rest, *rows.tolist()])
        else:
            result[:, rows] = near_values
    if rest:
        result[:, rest] = _scattered(base, subsets[rest], part, memory)
    return result


def _scattered(base: LinearBase, subsets: NDArray[np.bool_], path: Sequence[float], memory: int) -> NDArray[np.float64]:
    """(strengths, m, T) values of subsets that need not have anything in common."""
    examples = subsets @ base.statistics.counts.cpu().numpy()
    if not np.ptp(examples):
        return np.stack([base.values(subsets, ridge, memory=memory) for ridge in path])
    found = base.values(np.tile(subsets, (len(path), 1)), np.repeat(path, len(subsets)), memory=memory)
    return found.reshape(len(path), *subsets.shape)


def chosen(along: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m,) place on the path with the lowest validation loss, averaged over the tasks of each subset.

    The lowest point of the parabola through the best strength and its two neighbours, on the scale of log strength; no
    further than one strength away from the middle of the three.
    """
    losses = _mean_losses(along)
    middle = np.clip(losses.argmin(0), 1, len(along) - 2)
    every = np.arange(along.shape[1])
    before, here, after = losses[middle - 1, every], losses[middle, every], losses[middle + 1, every]
    bend = before - 2 * here + after
    lowest = np.divide(before - after, 2 * bend, out=np.sign(before - after), where=bend > _FLAT * np.abs(here))
    return middle + np.clip(lowest, -1.0, 1.0)


def _mean_losses(along: NDArray[np.float64]) -> NDArray[np.float64]:
    """(strengths, m) mean over the tasks of each subset; infinite where nothing was fitted."""
    known = ~np.isnan(along)
    count = known.sum(2)
    return np.divide(np.where(known, along, 0.0).sum(2), count, out=np.full(count.shape, np.inf), where=count > 0)


def at(along: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, T) values at a place a subset: quadratic between strengths; no lower than half below the lowest."""
    middle = np.clip(np.round(place).astype(np.int64), 1, len(along) - 2)
    off = (place - middle)[:, None]
    every = np.arange(along.shape[1])
    before, here, after = along[middle - 1, every], along[middle, every], along[middle + 1, every]
    between = here * (1 - off**2) + after * (off**2 + off) / 2 + before * (off**2 - off) / 2
    # beside a strength at which the fit of rare labels went far astray, the parabola dips far below all of them
    lowest = np.minimum(np.minimum(before, here), after)
    return np.maximum(between, lowest - np.abs(lowest) / 2)


def mixed(along: NDArray[np.float64], path: Sequence[float], ridge: float) -> NDArray[np.float64]:
    """(m, T) mean of two fits: at the strength that each subset chooses, and at one strength for all.

    The first knows when training on this subset would stop, but is noisy, since a handful of losses decides. Errors
    differ, so that the mean ranks subsets better than either (docs/benchmark.md).

    Args:
        along: (strengths, m, T) values from :func:`path_values`.
        path: the strengths, falling.
        ridge: the strength for all.
    """
    return (at(along, chosen(along)) + at(along, np.full(along.shape[1], place_of(ridge, path)))) / 2


def place_of(ridge: float, path: Sequence[float]) -> float:
    """The place of a strength on a path, from 0 to strengths - 1, evenly in its logarithm."""
    return float(np.interp(-np.log(ridge), -np.log(np.asarray(path)), np.arange(len(path))))


def stopped_ridge(n_tasks: int, bases: Sequence[LinearBase], size: int, seed: int, memory: int) -> tuple[float, str]:
    """The typical strength: geometric mean of what random subsets choose, over all bases.

    Returns:
        The strength, and a sentence on how it came about.
    """
    size = min(max(size, 2), n_tasks)
    subsets = np.random.default_rng(seed).random((SAMPLE, n_tasks)).argsort(1) < size
    places = np.concatenate([chosen(path_values(base, subsets, PATH, memory=memory)) for base in bases])
    ridge = float(np.exp(np.interp(places, np.arange(len(PATH)), np.log(PATH)).mean()))
    note = f"ridge {ridge:.2g}: what the validation loss of {SAMPLE} random subsets of {size} tasks prefers"
    return ridge, f"{note}; each subset's own choice has half of the weight"


#: strengths that are tried, and the smallest one that is ever chosen
GRID = np.logspace(1, -5, 13)
FLOOR = 1e-4


def matched_ridge(
    workload: Workload,
    base: LinearBase,
    travelled: float,
    forked: Mapping[int, Mapping[str, Tensor]],
    start: Mapping[str, Tensor],
) -> tuple[float, str]:
    """The geometric mean of two calibrated strengths (the reasons are in docs/decisions.md).

    F: linear single-task fits move the margins of their own task as far (root mean square over its training rows, mean
    of the log over tasks) as real single-task forks do. N: linear single-task fits move the trunk as far (norm) as the
    base itself still travels from its checkpoint to its early stop.

    Args:
        workload: tasks and data.
        base: the linearised base with its training blocks.
        travelled: norm of the trunk displacement from the checkpoint to the early stop of the same training.
        forked: task -> state after a long single-task fork.
        start: state of the base at its checkpoint.

    Returns:
        The strength, and a sentence on how it came about.
    """
    tasks = sorted(forked)
    margin_moves, trunk_moves = base.single_moves(GRID)
    real = [_margin_move(workload, task, start, forked[task]) for task in tasks]
    moved = [position for position, move in enumerate(real) if move > 0]
    by_margin = _match(margin_moves[:, [tasks[p] for p in moved]], [real[p] for p in moved]) if moved else FLOOR
    if travelled <= 0:
        note = f"ridge {by_margin:.2g}: margins move as far as in {len(moved)} real single-task forks; the base was at "
        return by_margin, note + "its early stop already (more validation checks, `check_every`, give earlier bases)"
    by_norm = _match(trunk_moves, [travelled])
    ridge = float(np.sqrt(by_margin * by_norm))
    note = (
        f"ridge {ridge:.2g}: the geometric mean of {by_margin:.2g} (margins move as far as in {len(tasks)} real "
        f"single-task forks) and {by_norm:.2g} (the trunk moves as far as the base still travels to its early stop)"
    )
    return ridge, note


def _match(moves: NDArray[np.float64], targets: Sequence[float]) -> float:
    """The strength at which the mean log move equals the mean log target; the floor where that is out of reach."""
    curve = np.log(np.maximum(moves, 1e-300)).mean(1)  # rises as the strength falls along the grid
    goal = float(np.log(np.maximum(targets, 1e-300)).mean())
    curve = np.maximum.accumulate(curve)
    if goal >= curve[-1]:
        return FLOOR
    return max(FLOOR, float(np.exp(np.interp(goal, curve, np.log(GRID)))))


def _margin_move(workload: Workload, task: int, start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> float:
    """Root mean square change of a task's margins over its labelled training rows."""
    rows = workload.rows_of((task,), "train")
    change = _margins(workload, end, rows)[:, task] - _margins(workload, start, rows)[:, task]
    return float(change.double().square().mean().sqrt())


@torch.no_grad()
def _margins(workload: Workload, state: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    model = workload.build_model(0).to(workload.labels.device).eval()
    model.load_state_dict(dict(state), strict=False)
    parts = [
        workload.margins(workload.outputs(model, workload.batch(chunk)), workload.targets[chunk])
        for chunk in rows.split(4096)
    ]
    return torch.cat(parts)
