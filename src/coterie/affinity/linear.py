"""One linearised base model: from subsets to values without the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from coterie.affinity.neighbours import Neighbours
from coterie.affinity.newton import Solution, solve, values
from coterie.affinity.refine import iterate
from coterie.affinity.statistics import Penalty, Statistics, TaskBlock

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
