"""Values by the real network at the fitted parameters, as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.affinity.context import Context
from coterie.affinity.newton import Solution
from coterie.features import Directions, head_displacement
from coterie.training import evaluate


@dataclass(frozen=True, eq=False)
class NetworkValues:
    """Moves each base to ``theta* + P u`` (heads included) and evaluates the network there.

    Cost: one forward pass over the validation part for each subset and base.
    """

    context: Context
    states: tuple[Mapping[str, Tensor], ...]
    directions: tuple[Directions, ...]

    def values(self, number: int, solution: Solution, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(m, T) validation losses of base `number`, NaN outside the subset."""
        workload, start = self.context.workload, self.states[number]
        result = np.full(subsets.shape, np.nan)
        heads = {task: solution.head(task) for task in range(workload.n_tasks)}
        for row, subset in enumerate(subsets):
            members = tuple(np.flatnonzero(subset).tolist())
            state = {name: value.clone() for name, value in start.items()}
            for name, move in self.directions[number].displacement(solution.trunk[row].float()).items():
                state[name] += move.to(state[name])
            for task in members:
                owners, moves = heads[task]
                own = moves[int(torch.nonzero(owners == row)[0])]
                if own.numel():
                    self._move_head(state, task, own)
            result[row] = evaluate(workload, state, "validation", members)
        costs = self.context.costs
        passes = len(workload.split.validation) * len(subsets)
        costs.add("network evaluation", passes * costs.unit.forward)
        return result

    def _move_head(self, state: dict[str, Tensor], task: int, w: Tensor) -> None:
        structure = self.context.structure
        for name, (rows, move) in head_displacement(structure, task, w.float(), None).items():
            if rows is None:
                state[name] += move.to(state[name])
            else:
                state[name][list(rows)] += move.to(state[name])
