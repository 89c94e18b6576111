"""Random subsets of tasks in which every pair of tasks meets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coterie._surface import known_arguments
from coterie.errors import SettingError


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
