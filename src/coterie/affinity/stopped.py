"""A ridge for every subset: the strength that its own validation loss prefers, as early stopping would have it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coterie.affinity.conjugate import CROSSOVER
from coterie.affinity.linear import LinearBase
from coterie.affinity.neighbours import neighbourhoods

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
