"""What a bank of ground truth holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb

import numpy as np
from numpy.typing import NDArray

from coterie._check import whole_number
from coterie.errors import SettingError
from coterie.evaluation.bank import draw_subsets

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class BankCounts:
    """How many subsets of each sort a bank trains, and how often; see :class:`BankPlan`."""

    subsets: int = 120
    replicates: int = 8
    common: int = 2
    pool: int = 300
    singles: int = 6
    pairs: int = 91
    pair_replicates: int = 4


@dataclass(frozen=True)
class BankPlan(BankCounts):
    """Which subsets a bank trains, and how often.

    A larger plan with the same sizes and seed finds the work of a smaller one (but for the pool, which avoids the
    subsets: more of these change it).

    Attributes:
        sizes: sizes of the random subsets, used in turn.
        subsets: random subsets on which estimates are measured; fewer where the tasks have no more.
        replicates: independent trainings of each of them; at least 2 for a noise ceiling.
        common: further trainings of them that share initial parameters and order of rows.
        pool: other random subsets, trained once with common random numbers.
        singles: trainings of every task alone, and of all tasks together.
        pairs: pairs of tasks; all where there are no more, else those among the first of randomly ordered tasks, so
            that these tasks have many known partners each.
        pair_replicates: trainings of each pair.
        seed: of the drawing.

    Raises:
        SettingError: when a value is out of range.

    Example:
        >>> BankPlan((3,), subsets=10, replicates=2, pool=5, pairs=6).trainings(8)
        123
    """

    sizes: tuple[int, ...] = (5,)
    seed: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        for name, low in (
            ("subsets", 2),
            ("replicates", 1),
            ("common", 0),
            ("pool", 0),
            ("singles", 1),
            ("pairs", 0),
            ("pair_replicates", 1),
            ("seed", 0),
        ):
            whole_number(getattr(self, name), name, low=low)
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise SettingError(f"Parameter `sizes` should be different whole numbers. Found {self.sizes!r}.")
        for size in self.sizes:
            whole_number(size, "sizes", low=2)

    def draw(self, n_tasks: int) -> dict[str, Mask]:
        """Subsets of each part of the bank: ``test``, ``pool``, ``alone``, ``everything``, ``pairs``; bool (m, T).

        Raises:
            SettingError: when a size exceeds the number of tasks.
        """
        if max(self.sizes) > n_tasks:
            raise SettingError(
                f"Parameter `sizes`: subsets of {max(self.sizes)} tasks cannot be drawn from {n_tasks} tasks. "
                f"Found {self.sizes!r}."
            )
        there = sum(comb(n_tasks, size) for size in self.sizes)
        count = min(self.subsets, there)
        test = draw_subsets(n_tasks, count, self.sizes, self.seed)
        pool = draw_subsets(n_tasks, min(self.pool, there - count), self.sizes, self.seed + 1, without=test)
        one = np.eye(n_tasks, dtype=bool)
        return {
            "test": test,
            "pool": pool,
            "alone": one,
            "everything": np.ones((1, n_tasks), dtype=bool),
            "pairs": draw_pairs(n_tasks, self.pairs, self.seed + 2),
        }

    def trainings(self, n_tasks: int) -> int:
        """Number of trainings of the whole bank."""
        drawn = self.draw(n_tasks)
        return (
            len(drawn["test"]) * (self.replicates + self.common)
            + len(drawn["pool"])
            + (n_tasks + 1) * self.singles
            + len(drawn["pairs"]) * self.pair_replicates
        )


def draw_pairs(n_tasks: int, count: int, seed: int) -> Mask:
    """Pairs of tasks: those among the first of randomly ordered tasks; more of them begin with the same ones.

    Example:
        >>> draw_pairs(40, 6, seed=0).any(0).sum().item(), len(draw_pairs(3, 6, seed=0))
        (4, 3)
    """
    order = np.random.default_rng(seed).permutation(n_tasks)
    pairs = [(order[a], order[b]) for b in range(n_tasks) for a in range(b)][:count]
    found = np.zeros((len(pairs), n_tasks), dtype=bool)
    for row, (a, b) in enumerate(pairs):
        found[row, [a, b]] = True
    return found
